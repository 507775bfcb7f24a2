"""Forms of written English are read as `tests/support/forms.tsv`, written by hand, says: compared as phonemes."""

from __future__ import annotations

from readings import forms, heard

from csm_model.text import phonemes
from csm_model.text.normaliser import read_text

LEAST = 0.975
"""Share of the forms that are read as wanted, at least."""


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
