"""Replay: packs of further tokens among a run's own, so that fine-tuning keeps what its base could.

Own and replayed packs stand in one order. Which pack of either comes next is a pure function of its running number and
the share, so the number of processes, micro-batches and restarts change no batch. `csm_model.training.data` lays them
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from csm_model.errors import ArtifactError, InputError, shown

_PARTS = 1_000_000
"""A share is counted in so many parts, as whole numbers: then no rounding can give a pack twice, or leave one out."""


class PackTurn(NamedTuple):
    """Whose pack a running number is, and its running number there."""

    replayed: bool
    number: int


def turn_of(number: int, share: float) -> PackTurn:
    """The pack of a running number: of the first `n` packs, `share * n` are replayed, rounded down."""
    parts = round(share * _PARTS)
    before, after = number * parts // _PARTS, (number + 1) * parts // _PARTS
    return PackTurn(True, before) if after > before else PackTurn(False, number - before)


def check_replay(place: str, replay: Mapping[str, Any], tokens: Mapping[str, Any]) -> None:
    """Checks that replayed tokens fit a run.

    Args:
        place: where they lie.
        replay: their manifest.
        tokens: what names the run's codec and tokenizer: the manifest of its own tokens, or of its base.

    Raises:
        InputError: it is the manifest of something else.
        ArtifactError: they were made by another codec or tokenizer than the run's own.
    """
    if not {"digest", "splits", "speakers", "codec_digest", "tokenizer_digest"} <= replay.keys():
        raise InputError(f"{place}: no token shards to replay; give a folder or an address that tokenise wrote")
    for name in ("codec_digest", "tokenizer_digest"):
        if name in tokens and replay[name] != tokens[name]:
            raise ArtifactError(
                f"{place}: the replay's {name} is {shown(replay[name])[:12]}, the run's is {tokens[name][:12]}; "
                "give replay tokens of the same codec and tokenizer, or train without a replay"
            )


def speakers_taken(replay: Mapping[str, Any], tokens: Mapping[str, Any]) -> dict[str, str]:
    """Speakers of the replay, by number, whose number the run's own tokens give to another voice."""
    own = tokens.get("speakers", {})
    return {number: name for number, name in replay.get("speakers", {}).items() if own.get(number, name) != name}
