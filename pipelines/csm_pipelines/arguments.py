"""From a preset's configuration to the arguments of a pipeline, here and on a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from csm_model.errors import InputError
from csm_pipelines.presets import RunConfig
from csm_pipelines.sources import Source

_NEEDS = {
    "finetune": {"base": "finetune begins from a base: name one with --set data.base=..."},
    "nightly": {"base": "nightly begins from a base: name one with --set data.base=..."},
    "release": {"bundle": "release needs the float bundle that a training kept: --bundle s3://.../trained/DIGEST"},
}
_LEAVES_OUT = {
    "training": {"bundle"},
    "finetune": {"bundle", "tokenizer", "prompt_format"},
    "nightly": {"bundle", "tokenizer", "prompt_format"},
    "release": {"recipe", "nodes", "threads", "tokenizer", "prompt_format"},
}


def settings_arguments(config: RunConfig) -> dict[str, Any]:
    """The arguments that are settings alone: all but places, and what only the pipeline of one machine takes."""
    return {
        "prompt_format": config.data.prompt_format or "",
        "default_license": config.data.license or "",
        "max_conversations": config.data.conversations or 0,
        "min_energy_correlation": config.data.min_energy_correlation,
        "recipe": json.dumps(dict(config.train.recipe), sort_keys=True),
        "nodes": config.train.nodes,
        "threads": config.train.threads,
        "precision": config.release.precision,
        "evaluation": json.dumps(asdict(config.judge), sort_keys=True),
        "thresholds": json.dumps(config.gate.thresholds(), sort_keys=True),
        "gate": json.dumps(asdict(config.gate), sort_keys=True),
        "model": config.release.model,
    }


def cluster_arguments(
    pipeline: str, config: RunConfig, sources: Mapping[str, Source], *, shards: int, code_version: str
) -> dict[str, Any]:
    """What a pipeline function takes; raises `InputError` for a source that it cannot do without."""
    for name, why in _NEEDS.get(pipeline, {}).items():
        if name not in sources:
            raise InputError(why)
    address = {name: source.address for name, source in sources.items()}
    arguments = settings_arguments(config) | {
        "bundle": address.get("bundle", ""),
        "corpus": address["corpus"],
        "codec": address["codec"],
        "code_version": code_version,
        "base": address.get("base", ""),
        "tokenizer": address.get("tokenizer", config.data.tokenizer or ""),
        "shards": shards,
    }
    return {name: value for name, value in arguments.items() if name not in _LEAVES_OUT[pipeline]}
