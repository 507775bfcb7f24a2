"""Forms of written English are read as `forms.tsv`, written by hand, says: compared as phonemes."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from csm_model.text import phonemes
from csm_model.text.normaliser import read_text

TABLE = Path(__file__).with_name("forms.tsv")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|U([0-9a-f]{8})|([nt]))")
_HEAD = re.compile(r"# [a-zF ]")
LEAST = 0.975
"""Share of the forms that are read as wanted, at least."""


def unescaped(text: str) -> str:
    return _ESCAPE.sub(
        lambda match: {"n": "\n", "t": "\t"}[match[3]] if match[3] else chr(int(match[1] or match[2], 16)), text
    )


@functools.cache
def forms() -> list[tuple[str, tuple[str, ...]]]:
    rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines() if "\t" in line]
    return [(unescaped(form), tuple(map(unescaped, readings))) for form, *readings in rows]


@functools.cache
def heard(words: str) -> str:
    """Words as they sound, without stress, spaces and punctuation."""
    return "".join(sound for sound in phonemes._g2p()(words) if sound.isalpha() and sound not in "ˈˌ")


def test_the_table_is_large_and_tells_its_forms_apart() -> None:
    assert len(forms()) >= 200
    assert len({form for form, _ in forms()}) == len(forms())


def test_forms_are_read_as_they_are_meant() -> None:
    wrong = [
        f"{form!r}: {read_text(form, phonemes._known).words!r}, not {' or '.join(map(repr, readings))}"
        for form, readings in forms()
        if heard(read_text(form, phonemes._known).words) not in map(heard, readings)
    ]
    right = len(forms()) - len(wrong)
    assert right >= LEAST * len(forms()), f"{right} of {len(forms())}:\n" + "\n".join(wrong)


if __name__ == "__main__":
    for form, readings in forms():
        said = read_text(form, phonemes._known)
        if heard(said.words) not in map(heard, readings):
            print(f"{form!r}: {said.words!r} {said.left_out!r}, not {readings}")
    print(len(forms()))
