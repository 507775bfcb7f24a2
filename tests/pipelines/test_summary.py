"""The summary is made of what the steps noted down, and says which targets are reached."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from csm_components.evaluate.html import PLACE
from csm_components.outbox import Outbox
from csm_components.steps import note_path
from csm_components.tracking import UNRECORDED
from csm_model.files import read_json, write_json
from csm_model.training.shards import TokenTurn, write_shard
from csm_pipelines.summary import RECORDED, TARGETS, announce, describe_step, note_of, show, summarise

ASKED = (
    "wer_generated", "wer_interval", "wer_reconstruction", "wer_original", "speaker_accuracy", "mos",
    "real_time_factor", "first_audio_ms", "wer_int8_delta", "minutes",
)  # fmt: skip
RESULTS: dict[str, dict[str, Any]] = {
    "ingest": {"digest": "d", "conversations": 4, "speech_seconds": 600.0, "rejected": 1},
    "tokenise": {"codec_digest": "c", "tokenizer_digest": "t", "turns": 9, "frames": 90},
    "train": {"digest": "f", "steps": 200, "validation_first": 1.234},
    "export": {"digest": "b", "precision": "int8", "megabytes": 9.0, "parent_megabytes": 33.0},
    "evaluate": {
        "wer_generated": 0.12, "wer_interval": [0.1, 0.14], "wer_reconstruction": 0.04, "wer_original": 0.02,
        "speaker_accuracy": 0.99, "mos": 3.3, "sentences": 96, "wer_int8_delta": 0.03,
        "compared": {"base": {"wer": 0.3, "speaker_accuracy": 0.5}},
        "learned": [
            {
                "voice": voice, "sentences": count, "wer_before": before, "wer_after": after,
                "wer_difference": after - before, "wer_difference_interval": [-0.25, 0.0125],
                "similarity_before": 0.66, "similarity_after": 0.876,
            }
            for voice, count, before, after in (
                ("heart", 12, 0.3, 0.125), ("kumo", 12, 0.5, 0.5), ("all voices", 24, 0.4, 0.31)
            )
        ],
    },
    "register": {"promoted": False, "misses": ["wer_int8_delta 0.030 misses"], "model": "m", "version": 2,
                 "bundle": "b"},
    "speak": {
        "real_time_factor": 0.5, "first_audio_ms": 200.0, "frames_equal": True, "served": True,
        "speech": "speech/x.wav", "text": "Good evening, everyone!",
        "dialogue": {
            "speech": "speech/dialogue.wav", "wer": 0.05,
            "voices": {
                "heart": {"wer": 0.02, "mos": 3.25, "speaker_similarity": 0.9},
                "kumo": {"wer": 0.08, "mos": None, "speaker_similarity": 0.875},
            },
            "rows": [{"text": "Where were you?"}, {"text": "At home."}],
        },
    },
}  # fmt: skip


def write_tokens(folder: Path, *texts: str) -> None:
    turns = [
        TokenTurn(
            id=str(number), conversation="c", split="train", speaker=0, text=text,
            text_ids=np.zeros(2, np.int32), codes=np.zeros((2, 3), np.int16),
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip
    write_json(
        folder / "manifest.json", {"splits": {"train": [write_shard(folder / "train-00000.safetensors", turns)]}}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "demo-1"
    (run / "evaluate").mkdir(parents=True)
    (run / "evaluate" / "report.html").write_text(f"<h1>report</h1>{PLACE}<p>figures</p>")
    (run / "dialogue.html").write_text("<p>a dialogue</p>")
    write_tokens(run / "tokens", "Good morning, everyone.")
    for step, result in RESULTS.items():
        result = {**result, "reused": step == "ingest", "report": str(run / "evaluate" / "report.html")}
        if step == "speak":
            result["dialogue"] = {**result["dialogue"], "part": str(run / "dialogue.html")}
        write_json(note_path(run, step), {"step": step, "seconds": 60.0, "finished": 0.0, "result": result})
    return run


def test_every_figure_is_there_and_reused_steps_are_named(folder: Path) -> None:
    summary = summarise(folder, seconds=600.0)
    assert set(ASKED) <= set(summary)
    assert summary == read_json(folder / "summary.json")
    assert summary["reused"] == {step: step == "ingest" for step in RESULTS}
    assert summary["minutes"] == 10.0
    line = "<p>m version 2 is candidate: wer_int8_delta 0.030 misses.</p>"
    assert (folder / "report.html").read_text() == f"<h1>report</h1>{line}<p>a dialogue</p><p>figures</p>"
    assert summary["status"] == "candidate: wer_int8_delta 0.030 misses"


def test_mlflow_is_told_what_the_run_is_and_what_came_of_it(folder: Path) -> None:
    announce(folder, {"preset": "debug", "data": {"license": "CC-BY-4.0"}})
    entries, _ = Outbox(folder / UNRECORDED).read()
    assert [entry["do"] for entry in entries] == ["begin", "params", "tags"]
    assert entries[1]["values"] == {"preset": "debug", "data.license": "CC-BY-4.0"}
    assert "csm run --preset debug" in entries[2]["values"]["mlflow.note.content"]
    (folder / UNRECORDED).unlink()
    write_json(folder / RECORDED, {})
    announce(folder, {"preset": "debug"})
    assert not (folder / UNRECORDED).exists(), "what is recorded already is not said again"
    note = note_of(summarise(folder, seconds=600.0))
    assert note.startswith("m version 2 is candidate: wer_int8_delta 0.030 misses.\n\n| figure | measured | target |")
    assert "| sentences in the right voice | 99.0% | at least 95.0% |" in note
    assert f"- report: `{folder / 'report.html'}`" in note


def test_the_runs_of_a_folder_have_one_store(folder: Path) -> None:
    assert summarise(folder, seconds=600.0)["paths"]["mlflow"] == f"sqlite:///{folder.parent / 'mlflow.db'}"


def test_a_run_that_reused_everything_keeps_the_minutes_of_the_work(folder: Path) -> None:
    summarise(folder, seconds=600.0)
    for step in RESULTS:
        note = read_json(note_path(folder, step))
        note["result"]["reused"] = True
        write_json(note_path(folder, step), note)
    summary = summarise(folder, seconds=12.0)
    assert (summary["minutes"], summary["minutes_now"]) == (10.0, 0.2)


def test_the_table_names_what_is_reached_and_what_is_missed(folder: Path) -> None:
    screen = io.StringIO()
    summary = summarise(folder, seconds=600.0)
    show(Console(file=screen, width=120), summary)
    text = screen.getvalue()
    lines = {target.key: next(line for line in text.splitlines() if target.title in line) for target in TARGETS}
    assert {key for key, line in lines.items() if "missed" in line} == {"wer_int8_delta"}
    assert "12.0%" in lines["wer_generated"]
    for words in (
        "10.0% to 14.0%",
        "\nm version 2 is candidate: wer_int8_delta 0.030 misses.\n",
        "Reused from an earlier run, with their figures: ingest.",
        "speech/x.wav",
        "the dialogue, heart",
        "2.0%, opinion score 3.25, likeness 0.90",
        "8.0%, likeness 0.88",
        "speech/dialogue.wav",
    ):
        assert words in text
    learned = text.partition("What the run learned")[2].splitlines()[2:5]
    assert [re.split(r"\s{2,}", line.strip()) for line in learned] == [
        ["heart", "12", "30.0%", "12.5%", "-17.5", "-25.0 to +1.2", "0.66 to 0.88"],
        ["kumo", "12", "50.0%", "50.0%", "+0.0", "-25.0 to +1.2", "0.66 to 0.88"],
        ["all voices", "24", "40.0%", "31.0%", "-9.0", "-25.0 to +1.2", "0.66 to 0.88"],
    ]
    assert text.index("speech/dialogue.wav") < text.index("report.html") < text.index("speech/x.wav")


def test_a_run_without_a_dialogue_says_nothing_of_one(folder: Path) -> None:
    note = read_json(note_path(folder, "speak"))
    note["result"]["dialogue"] = None
    write_json(note_path(folder, "speak"), note)
    summary = summarise(folder, seconds=600.0)
    screen = io.StringIO()
    show(Console(file=screen, width=120), summary)
    assert not re.search(r"dialogue(,| of| +/)", screen.getvalue())
    line = "<p>m version 2 is candidate: wer_int8_delta 0.030 misses.</p>"
    assert (folder / "report.html").read_text() == f"<h1>report</h1>{line}<p>figures</p>"
    assert describe_step(folder, "speak")[1] == "first audio 200 ms, real-time factor 0.50"


def test_a_champion_says_why(folder: Path) -> None:
    note = read_json(note_path(folder, "register"))
    note["result"] |= {"promoted": True, "misses": []}
    write_json(note_path(folder, "register"), note)
    summary = summarise(folder, seconds=600.0)
    assert summary["status"] == "champion: the gate is passed"
    screen = io.StringIO()
    show(Console(file=screen, width=120), summary)
    assert "\nm version 2 is champion: the gate is passed.\n" in screen.getvalue()


def test_the_targets_are_the_gate_that_was_set(folder: Path) -> None:
    write_json(folder / "config.json", {"gate": {"max_wer": 0.1, "max_wer_int8_delta": None}})
    screen = io.StringIO()
    show(Console(file=screen, width=120), summarise(folder, seconds=600.0))
    lines = {
        target.key: next(row for row in screen.getvalue().splitlines() if target.title in row) for target in TARGETS
    }
    assert "at most 10.0%" in lines["wer_generated"]
    assert "missed" in lines["wer_generated"]
    assert "at" not in lines["wer_int8_delta"].split("released minus float")[1], "nothing is asked of it"
    assert "reached" in lines["speaker_accuracy"]


def test_a_figure_that_was_not_measured_is_missed(folder: Path) -> None:
    summary = summarise(folder, seconds=1.0) | {"wer_int8_delta": None, "mos": None, "learned": []}
    screen = io.StringIO()
    show(Console(file=screen, width=120), summary)
    assert "not measured" in screen.getvalue()
    assert "What the run learned" not in screen.getvalue()


def test_a_sentence_that_training_had_is_not_called_unseen(folder: Path) -> None:
    assert summarise(folder, seconds=1.0)["said_is_unseen"]
    write_tokens(folder / "tokens", "Good morning.", "good evening everyone")
    summary = summarise(folder, seconds=1.0)
    assert not summary["said_is_unseen"]
    screen = io.StringIO()
    show(Console(file=screen, width=120), summary)
    assert "Training had this sentence too: Good evening, everyone!" in screen.getvalue()
    assert summary["dialogue"]["seen"] == []
    write_tokens(folder / "tokens", "Good morning.", "at home")
    screen = io.StringIO()
    show(Console(file=screen, width=120), summarise(folder, seconds=1.0))
    assert "Training had this sentence too: At home." in screen.getvalue()


@pytest.mark.parametrize("step", sorted(RESULTS))
def test_every_step_is_described_in_a_few_words(folder: Path, step: str) -> None:
    reused, words = describe_step(folder, step)
    assert reused == (step == "ingest")
    assert 10 < len(words) < 80
