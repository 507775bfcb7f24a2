"""Presets and the settings that change them."""

from __future__ import annotations

import pytest

from csm_model.errors import InputError
from csm_pipelines.dotted import with_settings
from csm_pipelines.presets import PRESETS, preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_names_itself(name: str) -> None:
    assert preset(name).preset == name


def test_settings_change_fields_of_their_type() -> None:
    config = with_settings(
        preset("demo"),
        [
            "train.recipe.steps=200",
            "gate.max_wer=1",
            "data.base=null",
            "train.nodes=1x2",
            "judge.split=validation",
            "release.say=42",
        ],
    )
    assert config.train.recipe["steps"] == 200
    assert config.train.recipe["model"] == "demo"
    assert (config.gate.max_wer, config.data.base, config.train.nodes) == (1.0, None, "1x2")
    assert (config.judge.split, config.release.say) == ("validation", "42")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.recipe.steps", "key=value"),
        ("=3", "key=value"),
        ("train.speed=3", "there is no 'speed'; there are recipe, nodes, threads"),
        ("judge.sentence_per_voice=3", "did you mean judge.sentences_per_voice"),
        ("judge.speakers=all", "must be a list"),
        ("gate.max_wer=low", "must be a number"),
        ("train.threads=1.5", "must be a whole number"),
        ("train.threads=true", "must be a whole number"),
        ("judge.seed=x", "must be a whole number"),
        ("gate.max_wer.low=1", "has no 'low'"),
        ("preset=other", "there is no 'preset'"),
        ("gate.max_wer=-1", "must be 0 or more"),
        ("train=3", "must be one of its settings: train.recipe"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_settings(preset("demo"), [setting])


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="preset 'x': there are demo, demo-base, debug, emotion"):
        preset("x")
