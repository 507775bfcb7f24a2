"""Tags: what a corpus says of how a turn is spoken, such as `laughing`; training weighs turns by them."""

from __future__ import annotations

from typing import Any

from csm_model.errors import InputError


def tags_of(value: Any, turn: str) -> tuple[str, ...]:
    """The tags of a record, each once: a list of words, one word, or nothing.

    Args:
        value: what the record holds.
        turn: names the record in an error.

    Raises:
        InputError: something else.
    """
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(tag, str) and tag.strip() for tag in found):
        raise InputError(f"{turn}: tags {value!r}: must be a list of words, such as ['laughing', 'fast']")
    return tuple(dict.fromkeys(tag.strip() for tag in found))
