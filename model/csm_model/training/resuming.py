"""What a checkpoint was made from and by, and whether a training may go on from it with what it is given now.

Other tokens, another base or fewer steps than were taken are refused. Another setting of what is learnt, such as a
lower learning rate after a divergence, is named: a person chose it, and wants to know that it is another training now.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from csm_model.errors import InputError, quoted, shown
from csm_model.files import digest_of
from csm_model.training.config import TrainingConfig

_log = logging.getLogger(__name__)
_NOT_LEARNT = frozenset({
    "tokens", "out", "base", "replay", "mirror", "cache_dir", "cache_gb", "disks", "strategy", "micro_packs",
    "recompute", "compile", "peak_tflops", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints",
    "final_from", "final_precision", "sampling", "skip_limit",
})  # fmt: skip
"""Settings that change no weight of a step, and places, of which digests count."""
_GIVEN = ("tokens", "replay", "base")


def made_of(
    config: TrainingConfig,
    tokens: Mapping[str, Any],
    replay: Mapping[str, Any] | None,
    base: Mapping[str, Any],
) -> dict[str, Any]:
    """What a training is made of: digests of what it is given, and the settings of what is learnt.

    Args:
        config: its settings.
        tokens: manifest of its tokens.
        replay: manifest of those that are replayed.
        base: manifest of the bundle it begins from; empty for none.
    """
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
        if name not in _NOT_LEARNT
    }
    given = {"tokens": tokens.get("digest"), "replay": (replay or {}).get("digest"), "base": base.get("digest")}
    return {**given, "settings": settings}


def check(
    step: int, before: Any, now: Mapping[str, Any], config: TrainingConfig, place: Path, *, tell: bool = True
) -> None:
    """Compares what checkpoints were made of with what a training is made of now.

    Args:
        step: step of the newest checkpoint.
        before: what it says of itself; None where an earlier version wrote it.
        now: of `made_of`.
        config: the settings now.
        place: folder of the checkpoints.
        tell: whether this process says what differs.

    Raises:
        InputError: they are of other tokens or another base, or of more steps than are asked for.
    """
    if step > config.steps:
        raise InputError(
            f"steps {config.steps}: {place} has come to step {step} already; ask for more steps, or give another out "
            "folder"
        )
    if not isinstance(before, Mapping):
        return
    for name in _GIVEN:
        if before.get(name) != now[name]:
            raise InputError(
                f"{place} was made with {name} {_short(before.get(name))}, and is given {name} {_short(now[name])}; "
                "give another out folder, or what it was made with"
            )
    old, new = before.get("settings"), now["settings"]
    if not tell or not isinstance(old, Mapping) or old == new:
        return
    changed = [f"{name} {quoted(old.get(name))} -> {quoted(new[name])}" for name in new if old.get(name) != new[name]]
    _log.warning(
        "going on from step %d with other settings (%s, now %s): %s",
        step, digest_of(old)[:12], digest_of(new)[:12], "; ".join(changed),
    )  # fmt: skip


def _short(digest: Any) -> str:
    return "none" if digest is None else shown(digest)[:12]
