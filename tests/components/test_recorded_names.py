"""Names in MLflow's alphabet: whatever data calls itself is recorded, and found again."""

from __future__ import annotations

import random

import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from csm_components.recorded_names import LONGEST, name_recorded, recorded_file, recorded_name, recorded_text

PLAIN = ["loss", "loss_codebook_00", "train.recipe.steps", "retry.model", "a b:c-d/e", "loss_weights.tag:sad"]
ODD = [
    "loss_weights.tag:laughing (loud)", "tag:sad,quiet", "", " ", ".", "..", "../x", "/x", "a//b", "a/./b", "x/", "ä",
    "\U0001f600", "_x0028_", "_x0028_x0028_", "_x005F_", "a" * 300, "ä/" * 200, "/" * 300, "a\nb", "%", "\ud800",
]  # fmt: skip
LETTERS = "ab1_-. :/x0028F,()#ä\t"


@pytest.mark.parametrize("name", PLAIN)
def test_a_legal_name_stays(name: str) -> None:
    assert recorded_name(name) == name


@pytest.mark.parametrize("seed", range(-len(ODD), 200))
def test_any_name_is_legal_and_comes_back(seed: int) -> None:
    name = ODD[seed] if seed < 0 else "".join(random.Random(seed).choices(LETTERS, k=seed % 40))
    key = recorded_name(name)
    for check in (_validate_param_name, _validate_metric_name, _validate_tag_name):
        check(key)
    assert len(key) <= LONGEST
    if name and len(key) < LONGEST - 20:
        assert name_recorded(key) == name


def test_names_that_are_cut_stay_apart() -> None:
    names = ["ä" * 100 + str(number) for number in range(50)]
    assert len({recorded_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("seed", range(-len(ODD), 60))
def test_any_value_and_any_file_comes_back_unless_it_was_cut(seed: int) -> None:
    rng = random.Random(seed)
    text = ODD[seed] if seed < 0 else "".join(rng.choices(LETTERS + "\0\ud800", k=rng.randint(1, 40)))
    value, cut = recorded_text(text, 6000), recorded_text(text * 1000 + "x", 500)
    assert name_recorded(value) == text
    value.encode()
    assert "\0" not in value
    assert len(cut) <= 500
    assert not text or cut != recorded_text(text * 1000 + "y", 500), "those that are cut stay apart"
    file = recorded_file(text)
    assert len(file) <= LONGEST
    assert not {" ", ":", "\n"} & set(file)
    if text and len(file) < LONGEST - 20:
        assert name_recorded(file) == text
