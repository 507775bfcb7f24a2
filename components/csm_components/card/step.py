"""The step card: a page that says what a registered version is made of, how it was judged, and by which bounds.

| file | what it is |
| --- | --- |
| `made.json` | written last: what it was made of |
| `card.md` | the page |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_components import made
from csm_components.evaluate.outcome import RESULT as EVALUATED
from csm_components.evaluate.outcome import figures_for_gate
from csm_components.register.step import RESULT as REGISTERED
from csm_model.errors import ArtifactError
from csm_model.files import digest_of, read_json, write_bytes
from csm_model.verdict import VERDICT

CARD = "card.md"
_DIGESTS = (
    "digest",
    "parent_digest",
    "base_digest",
    "codec_digest",
    "tokenizer_digest",
    "dataset_digest",
    "replay_digest",
)


@dataclass(frozen=True, kw_only=True)
class CardResult:
    """A model card; JSON-able."""

    out: str
    model: str
    version: int
    bundle_digest: str
    reused: bool


def write_card(bundle: Path, evaluation: Path, version: Path, out: Path) -> CardResult:
    """Writes the card of a version.

    Args:
        bundle: folder with the bundle's manifest.
        evaluation: folder with what evaluate measured, `result.json`.
        version: folder that register wrote.
        out: folder for the card.

    Raises:
        ArtifactError: figures or version are of another bundle.
    """
    manifest, figures = read_json(bundle / "manifest.json"), read_json(evaluation / EVALUATED)
    registered, verdict = read_json(version / REGISTERED), read_json(version / VERDICT)
    for name, digest in (("evaluation", figures["bundle_digest"]), ("version", registered["digest"])):
        if digest != manifest["digest"]:
            raise ArtifactError(f"{name} is of bundle {digest[:12]}, not of {manifest['digest'][:12]}: run it again")
    inputs = digest_of([manifest["digest"], figures["digest"], registered["version"], verdict])
    if (known := made.committed(out, inputs)) is not None:
        return CardResult(**known)
    write_bytes(out / CARD, _page(manifest, figures, registered, verdict).encode())
    result = CardResult(
        out=str(out),
        model=registered["model"],
        version=registered["version"],
        bundle_digest=manifest["digest"],
        reused=False,
    )
    made.commit(out, "card", inputs, result)
    return result


def _page(
    manifest: Mapping[str, Any], figures: Mapping[str, Any], registered: Mapping[str, Any], verdict: Mapping[str, Any]
) -> str:
    state = "passed the gate" if verdict["passed"] else f"missed the gate: {'; '.join(verdict['misses'])}"
    low, high = figures["wer_interval"]
    rows = [
        f"| {name} | {'not measured' if value is None else format(value, '.4g')} | {verdict['bounds'].get(name, '')} |"
        for name, value in figures_for_gate(figures).items()
    ]
    voices = ", ".join(f"{name} ({number})" for number, name in sorted(manifest.get("speakers", {}).items()))
    made_of = [f"| {name.removesuffix('_digest')} | `{manifest[name]}` |" for name in _DIGESTS if manifest.get(name)]
    return "\n".join(
        [
            f"# {registered['model']}, version {registered['version']}",
            "",
            f"A conversational speech model with {manifest['precision']} weights. It {state}.",
            "",
            f"Voices: {voices or 'not named'}.",
            "",
            "## Figures",
            "",
            f"Measured on {figures['sentences']} held-out sentences; word error rate with its 95 % interval: "
            f"{figures['wer_generated']:.3f} ({low:.3f} to {high:.3f}).",
            "",
            "| figure | measured | bound |",
            "| --- | --- | --- |",
            *rows,
            "",
            "## Made of",
            "",
            "| what | digest |",
            "| --- | --- |",
            *made_of,
            "",
        ]
    )
