"""The step register: makes a bundle a version of the registered model, and champion where the gate lets it.

A gate not passed is no error: the version stays `candidate`, and the result says which figures missed and by how
much. The alias `champion` then stays where it was. The verdict (`csm_model.verdict`) is left with the step's result
and, where that folder can be written to, with the bundle: a server asks for it before it takes weights of 4 bits.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from csm_components import made
from csm_components.register.gate import Gate
from csm_components.tracking import Tracker
from csm_model.files import digest_of, read_json, write_json
from csm_model.verdict import write_verdict

CANDIDATE, CHAMPION = "candidate", "champion"
RESULT = "result.json"
_DIGESTS = ("dataset_digest", "replay_digest", "codec_digest", "tokenizer_digest", "parent_digest", "base_digest")


@dataclass(frozen=True, kw_only=True)
class RegisterResult:
    """The registered version; JSON-able."""

    out: str
    model: str
    version: int
    bundle: str
    digest: str
    """Digest of the bundle."""
    promoted: bool
    """Whether this version is now champion."""
    misses: list[str]
    """Why not: one line a figure."""
    champion_version: int | None
    """The version that is champion now; None where there is none."""
    champion_bundle: str | None
    """Its folder."""
    reused: bool


def register(
    bundle: Path,
    out: Path,
    *,
    figures: Mapping[str, Any],
    gate: Gate,
    tracker: Tracker,
    model: str,
    code_version: str = "",
    source: str = "",
) -> RegisterResult:
    """Registers `bundle` with tags for every digest, and moves the aliases.

    Args:
        bundle: folder of the bundle.
        out: folder for the result.
        figures: what was measured of it: wer, speaker_accuracy, mos, wer_int8_delta, ...
        gate: what they must be.
        tracker: where the model is registered.
        model: name of the registered model.
        code_version: version of the program that made it.
        source: address of the bundle for those who are not on this machine; its folder without it.
    """
    manifest = read_json(bundle / "manifest.json")
    asked = {"figures": dict(figures), "gate": gate.model_dump(), "model": model, "store": tracker.uri}
    inputs = digest_of({"bundle": manifest["digest"], **asked})
    if (known := made.committed(out, inputs)) is not None:
        _tell(bundle, out, manifest["digest"], figures, gate)  # the bundle may have been copied here anew
        return RegisterResult(**known)
    misses = _tell(bundle, out, manifest["digest"], figures, gate)
    with tracker.step("register") as log:
        log.params({"gate": gate.model_dump(), "model": model})
        log.metrics(dict(figures))
        version = tracker.register(
            model,
            source=source or str(bundle.absolute()),
            run_id=log.run_id or None,
            tags={
                "bundle_digest": manifest["digest"],
                **{name: manifest.get(name) for name in _DIGESTS},
                "precision": manifest["precision"],
                "use": manifest.get("use"),
                "code_version": code_version,
                "gate": "passed" if not misses else "; ".join(misses),
                **{name: f"{value:.4g}" for name, value in figures.items() if isinstance(value, int | float)},
            },
            description="passed the gate" if not misses else "missed the gate: " + "; ".join(misses),
        )
        tracker.set_alias(model, CANDIDATE, version.version)
        if not misses:
            tracker.set_alias(model, CHAMPION, version.version)
        champion = tracker.by_alias(model, CHAMPION)
        log.tags({"model_version": version.version, "promoted": not misses})
    result = RegisterResult(
        out=str(out),
        model=model,
        version=version.version,
        bundle=str(bundle),
        digest=manifest["digest"],
        promoted=not misses,
        misses=misses,
        champion_version=champion.version if champion else None,
        champion_bundle=champion.source if champion else None,
        reused=False,
    )
    write_json(out / RESULT, asdict(result))
    made.commit(out, "register", inputs, result)
    return result


def _tell(bundle: Path, out: Path, digest: str, figures: Mapping[str, Any], gate: Gate) -> list[str]:
    """Judges the figures; leaves the verdict with the step's result and with the bundle; returns the misses."""
    misses = gate.misses(figures)
    write = functools.partial(write_verdict, bundle=digest, misses=misses, figures=figures, bounds=gate.thresholds())
    write(out)
    try:
        write(bundle)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    return misses
