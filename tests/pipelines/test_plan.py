"""`csm plan`: a table that fits a terminal, JSON for programs, exit status 2 where nothing fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Csm = Callable[..., Any]
LARGE = ("plan", "--preset", "csm-8b", "--hours", "1e6", "--gpus", "64", "--gpu", "h100")


def test_a_plan_that_fits_fits_a_terminal(csm: Csm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = csm(*LARGE)
    assert done.status == 0, done
    for words in ("8.188 G parameters on 64 x h100", "fsdp, bf16 over float32", "optimiser states", "fits", "days"):
        assert words in done.out
    tables = done.out.split("Memory of a process")[1].split("Assumed, not measured")[0]
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= 100
    assert "NVIDIA H100 Tensor Core GPU Datasheet" in done.out


def test_json_adds_up(csm: Csm) -> None:
    done = csm(*LARGE, "--json")
    assert done.status == 0, done
    said = json.loads(done.out)
    memory = said["memory"]
    terms = [value for name, value in memory.items() if name not in ("total", "room", "peak")]
    assert sum(terms) == pytest.approx(memory["total"])
    assert said["fits"]
    assert memory["total"] <= memory["room"] == 77e9
    assert said["days"] == pytest.approx(said["steps"] * said["step"]["seconds"] / 86_400)
    assert said["job"]["strategy"] == "fsdp"


def test_what_was_asked_and_does_not_fit_is_exit_2_with_the_reason(csm: Csm) -> None:
    done = csm("plan", "--preset", "csm-8b", "--hours", "1e6", "--gpus", "1", "--set", "strategy=ddp")
    assert done.status == 2
    assert done.err.startswith("error: csm-8b on 1 x h100: a process needs")
    assert done.err.count("\n") == 1
    assert "optimiser states 65.5" in done.err
    assert "gpus=2, strategy=fsdp" in done.err
    assert "What would make it fit" in done.out


def test_what_is_not_set_is_chosen_so_that_it_fits(csm: Csm) -> None:
    asked = ("plan", "--preset", "csm-1b", "--hours", "1e4", "--gpus", "8", "--gpu", "4090", "--set", "micro_packs=8")
    free = csm(*asked, "--json")
    assert free.status == 0, free
    assert json.loads(free.out)["chosen"] == ["recompute=true"]
    held = csm(*asked, "--set", "recompute=false", "--json")
    assert held.status == 2
    assert json.loads(held.out)["remedies"][0]["change"] == "recompute=true"


def test_a_training_of_ours_is_planned_as_it_is(csm: Csm, tmp_path: Path) -> None:
    settings = {"tokens": "t", "out": "o", "model": "csm-1b", "batch_packs": 32, "strategy": "fsdp", "bf16": True}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    done = csm(
        "plan", "--preset", "csm-1b", "--hours", "1000", "--config", "train.json", "--gpus", "8", "--json",
        "--memory-gb", "200",
    )  # fmt: skip
    assert done.status == 0, done
    said = json.loads(done.out)
    assert said["job"]["accumulation"] == 4
    assert said["gpu"]["memory_gb"] == 200
    assert said["gpu"]["name"] == "h100 changed"


@pytest.mark.parametrize("preset", ["debug", "demo", "csm-30m", "csm-3b"])
def test_every_preset_has_a_plan(csm: Csm, preset: str) -> None:
    assert csm("plan", "--preset", preset, "--hours", "10", "--json").status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "csm-9b"], "preset 'csm-9b' is unknown; there are debug"),
        (["--preset", "csm-1b", "--gpu", "v100"], "gpu 'v100' is unknown"),
        (["--preset", "csm-1b", "--gpus", "0"], "gpus 0: must be at least 1"),
        (["--preset", "csm-1b", "--set", "strategy=zero"], "strategy 'zero' is not one of ddp, fsdp"),
        (["--preset", "csm-1b", "--set", "strategie=ddp"], "there is no 'strategie'"),
        (["--preset", "csm-1b", "--mfu", "0"], "mfu 0.0: must be more than 0"),
        (["--preset", "csm-1b", "--memory-gb", "-1"], "memory_gb -1.0 must be more than 0"),
        (["--preset", "csm-1b", "--config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input_is_one_line(csm: Csm, arguments: list[str], words: str) -> None:
    done = csm("plan", "--hours", "10", *arguments)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert words in done.err
