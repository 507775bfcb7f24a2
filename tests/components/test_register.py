"""A bundle becomes a version; the gate decides about champion and says by how much a figure missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from csm_components.register.gate import Gate
from csm_components.register.step import register
from csm_components.tracking import Tracker
from csm_model.errors import InputError
from csm_model.files import read_json, write_json
from csm_model.verdict import AGAINST_PARENT, VERDICT

GOOD = {"wer": 0.1, "speaker_accuracy": 1.0, "mos": 3.4, "wer_int8_delta": 0.0, "unended": 0.0}


@pytest.mark.parametrize(
    ("figures", "miss"),
    [
        ({}, None),
        ({"wer": 0.15}, None),
        ({"wer": 0.23}, "wer 0.230 misses at most 0.15 by 0.080"),
        ({"speaker_accuracy": 0.9}, "speaker_accuracy 0.900 misses at least 0.95 by 0.050"),
        ({"wer_int8_delta": 0.05}, "wer_int8_delta 0.050 misses at most 0.02 by 0.030"),
        ({"wer_int8_delta": -0.05}, None),
        ({"mos": 1.0}, None),
        ({"wer": None}, "wer was not measured: at most 0.15 is asked"),
    ],
)
def test_the_gate_names_the_figure_the_bound_and_the_distance(figures: dict[str, float], miss: str | None) -> None:
    assert Gate().misses(GOOD | figures) == ([miss] if miss else [])


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf"), "0.1", True])
def test_a_figure_that_is_no_finite_number_was_not_measured(value: object, tmp_path: Path, tracker: Tracker) -> None:
    """Each figure that the gate looks at, under every bound that asks for it, and in what the step leaves."""
    every = Gate(max_wer=5.0, min_speaker_accuracy=0, min_mos=1, max_wer_int8_delta=5.0, max_unended=1)
    for figure in Gate.FIGURES:
        (miss,) = every.misses(GOOD | {figure: value})
        assert miss.startswith(f"{figure} was not measured: at ")
    folder = bundle(tmp_path, f"no-number-{value}".replace(".", "-"))
    result = register(
        folder, tmp_path / "out", figures=GOOD | {"wer": value}, gate=Gate(), tracker=tracker, model="csm-none"
    )
    assert not result.promoted
    assert result.champion_version is None
    text = (folder / VERDICT).read_text()
    assert not read_json(folder / VERDICT)["passed"]
    assert not {"NaN", "Infinity", "-Infinity"} & set(text.replace(",", " ").split())


@pytest.mark.parametrize("name", sorted(Gate.model_fields))
@pytest.mark.parametrize("bound", [float("nan"), float("inf"), float("-inf")])
def test_a_bound_is_a_finite_number(name: str, bound: float) -> None:
    with pytest.raises(InputError, match=rf"gate\.{name} -?(nan|inf): must be a finite number"):
        Gate(**{name: bound})


def test_every_bound_can_be_set_or_left_out() -> None:
    nothing = Gate(max_wer=None, min_speaker_accuracy=None, max_wer_int8_delta=None)
    assert nothing.misses({}) == []
    assert len(Gate(min_mos=3.5, max_unended=0.0).misses(GOOD | {"unended": 0.1})) == 2
    with pytest.raises(InputError, match="max_wer -1"):
        Gate(max_wer=-1)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(folder=tmp_path_factory.mktemp("runs") / "demo-1")


def bundle(folder: Path, digest: str) -> Path:
    digests = {
        name: f"{name}-{digest}" for name in ("dataset_digest", "codec_digest", "tokenizer_digest", "parent_digest")
    }
    write_json(folder / digest / "manifest.json", {"digest": digest, "precision": "int8", **digests})
    return folder / digest


def test_champion_moves_only_through_the_gate(tracker: Tracker, tmp_path: Path) -> None:
    def run(digest: str, **figures: float) -> tuple[int, bool, int | None, bool]:
        result = register(
            bundle(tmp_path, digest),
            tmp_path / f"out-{digest}",
            figures=GOOD | figures,
            gate=Gate(),
            tracker=tracker,
            model="csm-demo",
            code_version="0.1.0",
        )
        return result.version, result.promoted, result.champion_version, result.reused

    assert run("a", wer=0.5) == (1, False, None, False)
    assert run("b") == (2, True, 2, False)
    assert run("c", wer=0.2) == (3, False, 2, False)
    assert run("c", wer=0.2) == (3, False, 2, True)
    assert run("c", wer=0.12) == (3, True, 3, False)  # judged again, by other figures
    champion = tracker.by_alias("csm-demo", "champion")
    assert champion is not None
    assert champion.tags["dataset_digest"] == "dataset_digest-c"
    assert champion.tags["code_version"] == "0.1.0"
    assert champion.tags["gate"] == "passed"
    assert champion.source == str(tmp_path / "c")
    candidate = tracker.by_alias("csm-demo", "candidate")
    assert candidate is not None
    assert candidate.version == 3


def test_the_verdict_lies_with_the_bundle_and_comes_back_with_a_fresh_copy(tracker: Tracker, tmp_path: Path) -> None:
    folder = bundle(tmp_path, "v")
    for wer, passed in ((0.5, False), (0.1, True), (0.1, True)):
        (folder / VERDICT).unlink(missing_ok=True)
        register(
            folder, tmp_path / "out-v", figures=GOOD | {"wer": wer}, gate=Gate(), tracker=tracker, model="csm-demo"
        )
        verdict = read_json(folder / VERDICT)
        assert (verdict["bundle"], verdict["passed"], bool(verdict["misses"])) == ("v", passed, not passed)
        assert AGAINST_PARENT in verdict["bounds"]
        assert read_json(tmp_path / "out-v" / VERDICT) == verdict
