"""Compiles a pipeline for a cluster: to IR YAML, or to the custom resources that a GitOps controller applies."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from csm_model.errors import InputError
from csm_model.files import digest_of, write_bytes
from csm_pipelines.config import RunConfig
from csm_pipelines.profile import ClusterProfile

Format = Literal["ir", "crs"]
FORMATS: tuple[Format, ...] = ("ir", "crs")


def compile_pipeline(
    name: str,
    profile: ClusterProfile,
    *,
    keys: Mapping[str, str] | None = None,
    model: str = "",
    format: Format = "ir",  # noqa: A002  (the option's name)
    config: RunConfig | None = None,
) -> str:
    """The YAML of a pipeline for a cluster.

    Args:
        name: of one of `pipelines.PIPELINES`.
        profile: the cluster.
        keys: cache keys by step; a step without one always runs.
        model: registered model that it is for, a label of the steps' figures; empty leaves it out.
        format: `ir` for the API of Kubeflow Pipelines, `crs` for a Pipeline and a PipelineVersion as custom resources,
            which need an API server in Kubernetes-native mode.
        config: a run that was checked (`csm_pipelines.checks`), whose settings become the parameters' defaults.

    Raises:
        InputError: no such pipeline or format, or a setting that names a file of this machine.
    """
    from kfp import compiler, dsl
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    from csm_pipelines.dressing import Dressing
    from csm_pipelines.kubeflow import build
    from csm_pipelines.pipelines import pipeline_named

    if format not in FORMATS:
        raise InputError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    chosen = pipeline_named(name)
    if config is not None and "/" in (tokenizer := config.data.tokenizer or "") and "://" not in tokenizer:
        raise InputError(f"data.tokenizer {tokenizer}: what is compiled cannot name a file here; give its address")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="csm-compile-") as folder:
        warnings.simplefilter("ignore", DeprecationWarning)  # of kfp's own protobuf use
        pipeline = build(
            chosen,
            Dressing(profile=profile, pipeline=name, model=model, keys=keys or {}),
            parallelism=profile.run.parallelism,
            defaults=config,
            config=dsl.PipelineConfig(
                ttl_seconds_after_finished=profile.run.keep_s, active_deadline_seconds=profile.run.timeout_s
            ),
        )
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        text = path.read_text(encoding="utf-8")
        if format == "ir":
            return text
        options = KubernetesManifestOptions(
            pipeline_name=pipeline.name,
            pipeline_version_name=version_name(pipeline.name, text),
            namespace=profile.kfp.namespace or profile.namespace,
            include_pipeline_manifest=True,
        )
        compiler.Compiler().compile(
            pipeline, str(path), kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )
        return path.read_text(encoding="utf-8")


def version_name(pipeline: str, ir: str) -> str:
    """The name of a pipeline's version: of what it says, so that the same IR is the same version."""
    return f"{pipeline}-{digest_of(without_sdk(ir))[:12]}"


def without_sdk(ir: str) -> str:
    """The YAML without the version of kfp that compiled it."""
    return re.sub(r"^\s*sdkVersion: .*\n", "", ir, flags=re.MULTILINE)


def write_pipeline(path: Path, text: str) -> None:
    """Writes YAML in one step."""
    write_bytes(path, text.encode())


def pipeline_name(ir: str) -> str:
    """The name that an IR gives its pipeline, from its `pipelineInfo`."""
    match = re.search(r"^pipelineInfo:\n(?:  .*\n)*?  name: (\S+)$", ir, re.MULTILINE)
    if match is None:
        raise InputError("this is no pipeline: it has no pipelineInfo with a name")
    return match[1]
