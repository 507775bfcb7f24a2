"""The verdict of the quality gate on a bundle: `gate.json` beside its manifest, which names it.

Weights of 4 bits may spoil a model, so a server takes them only where the step register found the bundle's figures,
those against its float parent among them, within the gate's bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_model.errors import ArtifactError
from csm_model.files import read_json, write_json
from csm_model.manifest import precision_of, read_manifest

VERDICT = "gate.json"
AGAINST_PARENT = "wer_int8_delta"
"""The figure that compares a rounded bundle with its float parent, whatever it is rounded to."""


def write_verdict(
    folder: Path, *, bundle: str, misses: Sequence[str], figures: Mapping[str, Any], bounds: Mapping[str, float]
) -> None:
    """Writes what the gate found of the bundle with the digest `bundle`.

    Args:
        folder: the bundle's, or another that keeps it.
        bundle: digest in the bundle's manifest.
        misses: one line for each figure that missed its bound; empty: passed.
        figures: what was measured.
        bounds: what the gate asked.
    """
    verdict = {
        "bundle": bundle,
        "passed": not misses,
        "misses": list(misses),
        "figures": dict(figures),
        "bounds": dict(bounds),
    }
    write_json(folder / VERDICT, verdict)


def check_int4(folder: Path, weights: str | None, *, allow: bool = False) -> str | None:
    """Whether the weights that a bundle is to be served with may be, as far as they have 4 bits.

    Args:
        folder: the bundle.
        weights: what they are to be; None is what is stored.
        allow: serve them all the same.

    Returns:
        A line for the log where they are served without a verdict; None where all is well.

    Raises:
        InputError: there is no bundle.
        ArtifactError: no gate has passed them, or `gate.json` is damaged.
    """
    manifest = read_manifest(folder, verify=False)
    if (weights or precision_of(manifest, folder)) != "int4":
        return None
    fault = _fault(folder, manifest)
    if fault is None:
        return None
    if not allow:
        raise ArtifactError(
            f"{folder}: its int4 weights are not served: {fault}; serve int8, or set CSM_SERVING_UNGATED_INT4=true"
        )
    return f"{folder}: int4 weights are served though {fault} (CSM_SERVING_UNGATED_INT4)"


def _fault(folder: Path, manifest: dict[str, Any]) -> str | None:
    """What keeps a bundle's int4 weights from being trusted."""
    if precision_of(manifest, folder) != "int4":
        return "they are rounded on loading, and no gate has judged them; export with precision int4 has them judged"
    if not (folder / VERDICT).is_file():
        return f"no gate has judged them: there is no {VERDICT}, which the step register writes"
    verdict = read_json(folder / VERDICT)
    try:
        bundle, passed, misses, bounds = (verdict[name] for name in ("bundle", "passed", "misses", "bounds"))
    except (KeyError, TypeError):
        return f"{VERDICT} is no verdict"
    if bundle != manifest["digest"]:
        return f"{VERDICT} is of another bundle"
    if passed is not True:
        return "the gate has not passed them: " + "; ".join(misses)
    return None if AGAINST_PARENT in bounds else "the gate has not compared them with their float parent"
