"""Names and values as MLflow takes them, there and back: what comes from data (a tag, a file, a person) is any text."""

from __future__ import annotations

import posixpath
import re

from csm_model.files import digest_of

LONGEST = 250
"""Characters of a key in MLflow."""
_FOREIGN = re.compile(r"[^A-Za-z0-9_\-. :/]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What no database holds: NUL, and halves of a character."""
_AWKWARD = re.compile(r"[ :]|^\.|\.$")
_LOOKS_QUOTED = re.compile(r"_(?=x[0-9A-F]{4,6}_)")
_QUOTED = re.compile(r"_x([0-9A-F]{4,6})_")


def recorded_name(name: str) -> str:
    """A legal key for a name: the same where it is one; `_x0028_` for a character that MLflow refuses, here a bracket.

    A name that is too long is cut, and ends in a digest of the whole; only of that there is no way back.
    """
    quoted = _FOREIGN.sub(_quoted, _LOOKS_QUOTED.sub("_x005F_", name)) or "_"
    if posixpath.normpath(quoted) != quoted or quoted.startswith(("/", "..")) or quoted == ".":
        quoted = re.sub(r"[/.]", _quoted, quoted)
    if len(quoted) > LONGEST:
        quoted = f"{quoted[: LONGEST - 17]}-{digest_of(name)[:16]}"
        if posixpath.normpath(quoted) != quoted:
            quoted = quoted.replace("/", "_")
    return quoted


def recorded_file(name: str) -> str:
    """A name for a file that MLflow, an address and any storage take as it is."""
    quoted = _AWKWARD.sub(_quoted, recorded_name(name))
    return quoted if len(quoted) <= LONGEST else f"{quoted[: LONGEST - 17]}-{digest_of(name)[:16]}"


def recorded_text(text: str, most: int) -> str:
    """A value as MLflow holds it, of at most so many characters: the same, but for what no database holds.

    One that is too long is cut, and ends in a digest of the whole, so that two such values stay apart.
    """
    quoted = _UNSTORABLE.sub(_quoted, _LOOKS_QUOTED.sub("_x005F_", text))
    return quoted if len(quoted) <= most else f"{quoted[: most - 17]}-{digest_of(text)[:16]}"


def name_recorded(key: str) -> str:
    """The name, or the value, that a recorded one stands for."""
    return _QUOTED.sub(lambda match: chr(int(match[1], 16)), key)


def _quoted(match: re.Match[str]) -> str:
    return f"_x{ord(match[0]):04X}_"
