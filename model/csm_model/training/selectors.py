"""What a turn counts in the loss, chosen by who speaks, how it is tagged, and what is said.

| selector | turns that it means |
| --- | --- |
| `speaker:3` | spoken by speaker 3 |
| `other-speakers:3` | spoken by anyone else |
| `tag:laughing` | tagged so in the corpus |
| `untagged` | without any tag |
| `filler` | with a filler word (um, uh, er, hmm, you know, I mean) |

Weights of several selectors that mean the same turn multiply. 0 keeps the turn as context, but asks nothing of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from csm_model.errors import InputError

if TYPE_CHECKING:
    from csm_model.training.shards import TokenTurn

_FILLER = re.compile(r"\b(?:u+m+|u+h+|e+r+m*|h+m+|mm+|you know|i mean)\b", re.IGNORECASE)


def _number(text: str, selector: str) -> int:
    if not text.isdigit():
        raise InputError(f"selector {selector!r}: a speaker is a number, such as speaker:3")
    return int(text)


_SELECTORS: dict[str, Callable[[TokenTurn, str, str], bool]] = {
    "speaker": lambda turn, value, selector: turn.speaker == _number(value, selector),
    "other-speakers": lambda turn, value, selector: turn.speaker != _number(value, selector),
    "tag": lambda turn, value, _: value in turn.tags,
    "untagged": lambda turn, *_: not turn.tags,
    "filler": lambda turn, *_: bool(_FILLER.search(turn.text)),
}
_TAKE_A_VALUE = {"speaker", "other-speakers", "tag"}


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises `InputError` for a selector that there is none of, or a weight below 0."""
    for selector, weight in weights.items():
        name, colon, value = selector.partition(":")
        if name not in _SELECTORS or (name in _TAKE_A_VALUE) != bool(colon and value):
            known = ", ".join(f"{each}:..." if each in _TAKE_A_VALUE else each for each in _SELECTORS)
            raise InputError(f"selector {selector!r}: there are {known}")
        if name in ("speaker", "other-speakers"):
            _number(value, selector)
        if not 0.0 <= weight < math.inf:
            raise InputError(f"weight {weight} of {selector}: must be 0 or more, and finite")


def check_known(weights: Mapping[str, float], manifest: Mapping[str, Any]) -> None:
    """Raises `InputError` for a selector that means no turn, as the manifest of the tokens tells."""
    for selector in weights:
        name, _, value = selector.partition(":")
        if name == "tag" and value not in manifest["tags"]:
            raise InputError(
                f"selector {selector!r}: no turn of the tokens is tagged so; there are "
                f"{', '.join(manifest['tags']) or 'no tags'}"
            )
        if name in ("speaker", "other-speakers") and value not in manifest["speakers"]:
            known = ", ".join(f"{number} ({voice})" for number, voice in manifest["speakers"].items())
            raise InputError(f"selector {selector!r}: the tokens have no such speaker; there are {known}")


def turn_weight(turn: TokenTurn, weights: Mapping[str, float]) -> float:
    """What a turn counts: the product of the weights of the selectors that mean it."""
    result = 1.0
    for selector, weight in weights.items():
        name, _, value = selector.partition(":")
        if _SELECTORS[name](turn, value, selector):
            result *= weight
    return result
