"""The table of written forms (`forms.tsv` beside it), and how words sound."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from csm_model.text import phonemes

TABLE = Path(__file__).with_name("forms.tsv")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|U([0-9a-f]{8})|([nt\\]))")


def unescaped(text: str) -> str:
    return _ESCAPE.sub(
        lambda match: {"n": "\n", "t": "\t"}.get(match[3], match[3])
        if match[3]
        else chr(int(match[1] or match[2], 16)),
        text,
    )


@functools.cache
def forms() -> list[tuple[str, tuple[str, ...]]]:
    rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines() if "\t" in line]
    return [(unescaped(form), tuple(map(unescaped, readings))) for form, *readings in rows]


@functools.cache
def heard(words: str) -> str:
    """Words as they sound, without stress, spaces and punctuation."""
    return "".join(sound for sound in phonemes._g2p()(words) if sound.isalpha() and sound not in "ˈˌ")
