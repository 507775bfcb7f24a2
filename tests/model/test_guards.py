"""Guards: what is no number, or leaps, is not learnt from."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from csm_model.files import read_json, write_json
from csm_model.training.config import TrainingConfig
from csm_model.training.guards import DivergedError, SpikeGuard
from csm_model.training.main import main
from csm_model.training.parallel import World
from csm_model.training.shards import load_tokens, write_index, write_shard
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)
CALM = [2.0 + 0.01 * (n % 5) for n in range(32)]


def test_only_leaps_and_non_numbers_are_refused() -> None:
    guard = SpikeGuard(factor=20.0, limit=3, history=CALM)
    assert guard.refuses(2.6, 1.0) is None
    assert guard.refuses(1.0, 1.0) is None, "a fall is no spike"
    assert "leaps above" in (guard.refuses(9.0, 1.0) or "")
    assert "loss is nan" in (guard.refuses(float("nan"), 1.0) or "")
    assert "gradient norm is inf" in (guard.refuses(2.0, float("inf")) or "")
    with pytest.raises(DivergedError, match="4 steps in a row"):
        guard.refuses(9.0, 1.0)


def test_a_young_history_or_no_factor_refuses_no_finite_loss() -> None:
    assert SpikeGuard(factor=20.0, limit=3, history=CALM[:5]).refuses(50.0, 1.0) is None
    assert SpikeGuard(factor=0.0, limit=3, history=CALM).refuses(50.0, 1.0) is None


def settings(token_folder: Path, out: Path, **changes: object) -> TrainingConfig:
    return TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", row_length=128, batch_packs=1, log_every=1,
        validate_every=1000, max_turns=1, depth_share=0.5, text_dropout=0.0, warmup_steps=1, **changes,
    )  # fmt: skip


def test_steps_without_a_number_are_not_taken(
    token_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The embedding of an id that only some packs hold is NaN; those packs teach nothing, and spoil nothing."""
    turns = load_tokens(token_folder, "train")
    id_of_text = next(iter(set(turns[3].text_ids.tolist()).difference(*(turns[n].text_ids.tolist() for n in range(3)))))
    trainer = Trainer(settings(token_folder, tmp_path, steps=12, checkpoint_every=12), ALONE)
    with torch.no_grad():
        trainer.model.text_embeddings.weight[id_of_text] = float("nan")
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    taken = [row["step"] for row in rows if "loss" in row]
    assert 0 < len(taken) < 12, "nothing to tell apart"
    assert caplog.text.count("step skipped: the loss is nan") == trainer.skipped == 12 - len(taken)
    assert [row["skipped_steps"] for row in rows if "skipped_steps" in row][-1] == trainer.skipped
    for name, parameter in trainer.model.named_parameters():
        spoilt = ~torch.isfinite(parameter)
        if name == "text_embeddings.weight":
            assert spoilt.any(1).nonzero().flatten().tolist() == [id_of_text]
        else:
            assert not spoilt.any(), name


def test_a_leap_is_skipped_and_what_follows_is_learnt(
    token_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that knows its corpus meets a conversation of noise."""
    config = settings(token_folder, tmp_path / "calm", steps=150, checkpoint_every=150, learning_rate=1e-2)
    Trainer(config, ALONE).run()
    noisy = with_noise(token_folder, tmp_path / "noisy")
    changes = {"base": str(tmp_path / "calm" / "final"), "steps": 60, "checkpoint_every": 60, "spike_factor": 6.0}
    trainer = Trainer(settings(noisy, tmp_path / "out", learning_rate=1e-4, **changes), ALONE)
    trainer.run()
    leaps = {int(number) for number in re.findall(r"step (\d+): step skipped: the loss \S+ leaps above", caplog.text)}
    noise = len(load_tokens(noisy, "train")) - 4
    held = {step for step in range(1, 61) if any(d.last > noise for d in trainer.train_data.packs[step - 1][1])}
    assert leaps, "none was seen"
    assert leaps <= held, "only noise leaps"
    assert len(leaps) == trainer.skipped


def with_noise(token_folder: Path, folder: Path) -> Path:
    """The same tokens, but the last four turns, whose codes are noise."""
    shutil.copytree(token_folder, folder)
    manifest = read_json(folder / "manifest.json")
    turns = load_tokens(token_folder, "train")
    rng = np.random.default_rng(0)
    for number, turn in enumerate(turns[-4:], len(turns) - 4):
        noise = rng.integers(0, manifest["codebook_size"], turn.codes.shape).astype(np.int16)
        turns[number] = replace(turn, codes=noise)
    row = write_shard(folder / "train-00000.safetensors", turns)
    index = write_index(folder, "train", [row["file"]])
    manifest |= {
        "splits": {**manifest["splits"], "train": [row]}, "indexes": {**manifest["indexes"], "train": index}
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return folder


def test_too_many_in_a_row_end_the_training_with_2_and_one_line(
    token_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step throws every weight to where sums are no numbers."""
    config = settings(token_folder, tmp_path, steps=12, checkpoint_every=3, skip_limit=5, learning_rate=1e38)
    config.save(tmp_path / "config.json")
    assert main(["--config", str(tmp_path / "config.json")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("error:")] == [
        "error: 6 steps in a row could not be taken, the last because the loss is nan: lower learning_rate or look at "
        "the data, and go on from the last checkpoint"
    ]
    again = Trainer(config, ALONE)
    assert (again.step, again.guard.in_a_row, again.skipped) == (6, 5, 5), "a restart does not begin to count anew"
