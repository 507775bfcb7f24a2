"""The step export: the bundle that is released, its weights quantised, everything it needs to speak in one folder.

What the quantisation costs is measured by the step evaluate, which has this bundle and its float parent speak the same
sentences with the same seeds; the step register stores it with the version.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from csm_components import made
from csm_model.errors import ArtifactError, InputError
from csm_model.files import digest_of

_KEPT = (
    "dataset_digest",
    "replay_digest",
    "base_digest",
    "speakers",
    "sampling",
    "recipe",
    "recipe_digest",
    "steps",
    "use",
)
"""What a bundle says of its making, and hands on."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The released bundle; JSON-able."""

    out: str
    digest: str
    parent_digest: str
    """Digest of the float bundle."""
    codec_digest: str
    tokenizer_digest: str
    precision: str
    megabytes: float
    parent_megabytes: float
    reused: bool


def export(parent: Path, out: Path, *, precision: str = "int8") -> ExportResult:
    """Writes the bundle in `parent` with weights of another precision.

    Args:
        parent: folder of a float bundle that carries its codec.
        out: folder of the new bundle; it appears whole, by rename.
        precision: int8, int4, bf16, fp16 or fp32.

    Raises:
        InputError: there is no such precision, or no bundle.
        ArtifactError: the parent is quantised already, or carries no codec.
        DigestError: a file of the parent is not the one that its manifest names.
    """
    from csm_model.bundle import ROUNDED, load_bundle, read_manifest, write_bundle
    from csm_model.manifest import Precision

    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is not one of {', '.join(get_args(Precision))}")
    theirs = read_manifest(parent)
    inputs = digest_of({"parent": theirs["digest"], "precision": precision})
    known = made.committed(out, inputs)
    if known is not None and _whole(out, known["digest"]):
        return ExportResult(**known)
    if theirs["precision"] in ROUNDED:
        raise ArtifactError(
            f"{parent}: its weights are {theirs['precision']} already; give the float bundle that training wrote"
        )
    if not (parent / "codec").is_dir():
        raise ArtifactError(f"{parent}: it carries no codec; a released bundle needs one")
    bundle = load_bundle(parent, kernels=False)
    info: dict[str, Any] = {name: theirs[name] for name in _KEPT if name in theirs}
    info |= {"parent_digest": theirs["digest"], "base_digest": theirs.get("parent_digest") or ""}
    manifest = write_bundle(
        out,
        model=bundle.model,
        tokenizer=bundle.tokenizer,
        codec_folder=parent / "codec",
        precision=precision,  # type: ignore[arg-type]
        info=info,
    )
    result = ExportResult(
        out=str(out),
        digest=manifest["digest"],
        parent_digest=theirs["digest"],
        codec_digest=manifest["codec_digest"],
        tokenizer_digest=manifest["tokenizer_digest"],
        precision=precision,
        megabytes=_megabytes(out),
        parent_megabytes=_megabytes(parent),
        reused=False,
    )
    made.commit(out, "export", inputs, result)
    return result


def _whole(out: Path, digest: str) -> bool:
    """Whether a bundle is still the one of this digest."""
    from csm_model.bundle import read_manifest

    try:
        return bool(read_manifest(out)["digest"] == digest)
    except (InputError, ArtifactError):
        return False


def _megabytes(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 2)
