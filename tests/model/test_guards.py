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

from csm_model.errors import InputError
from csm_model.files import read_json, write_json
from csm_model.training.config import TrainingConfig
from csm_model.training.data import Batch, Totals
from csm_model.training.guards import DivergedError, SpikeGuard
from csm_model.training.loss import Losses
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
    """The loss of packs that hold a certain id is no number; they teach nothing, and spoil nothing."""
    turns = load_tokens(token_folder, "train")
    id_of_text = next(iter(set(turns[3].text_ids.tolist()).difference(*(turns[n].text_ids.tolist() for n in range(3)))))

    class Spoilt(Trainer):
        def _losses(self, batch: Batch, totals: Totals) -> Losses:
            losses = super()._losses(batch, totals)
            factor = float("nan") if self.module.training and (batch.rows[..., -1] == id_of_text).any() else 1.0
            return losses._replace(total=losses.total * factor)

    trainer = Spoilt(settings(token_folder, tmp_path, steps=12, checkpoint_every=12), ALONE)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    taken = [row["step"] for row in rows if "loss" in row]
    assert 0 < len(taken) < 12, "nothing to tell apart"
    assert caplog.text.count("step skipped: the loss is nan") == trainer.skipped == 12 - len(taken)
    assert [row["skipped_steps"] for row in rows if "skipped_steps" in row][-1] == trainer.skipped
    for name, parameter in trainer.model.named_parameters():
        assert torch.isfinite(parameter).all(), name


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
        "error: step 7: 6 steps in a row could not be taken, the last because the loss is nan: lower learning_rate or "
        "look at the data, and go on from the last checkpoint"
    ]
    assert not (tmp_path / "final").exists()
    assert Trainer(config, ALONE).step == 0, "nothing was saved of weights that give no loss"


ABSURD = {"learning_rate": 1e30, "warmup_steps": 0}


@pytest.mark.parametrize(("steps", "limit"), [(2, 10), (6, 10), (6, 0), (6, 5), (20, 10), (20, 100)])
def test_a_training_that_ends_in_refused_steps_is_no_success(
    steps: int, limit: int, token_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the limit: the first step spoils the weights, and every later one is refused."""
    config = replace(settings(token_folder, tmp_path, steps=steps, checkpoint_every=1, skip_limit=limit), **ABSURD)
    config.save(tmp_path / "config.json")
    assert main(["--config", str(tmp_path / "config.json")]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert re.match(
        rf"error: step {min(steps, limit + 2)}: .* could not be taken, the last because the loss is nan: ", said
    )
    assert not (tmp_path / "final").exists()
    assert not list((tmp_path / "checkpoints").glob("step-*")), "no weights that a loss was taken of"


def test_a_sane_rate_goes_on_where_an_absurd_one_had_begun(
    token_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(token_folder, tmp_path, steps=20, checkpoint_every=2, learning_rate=1e-4)
    Trainer(replace(config, steps=5), ALONE).run()
    with pytest.raises(DivergedError, match="step 17: 11 steps in a row"):
        Trainer(replace(config, **ABSURD), ALONE).run()
    newest = max(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert newest == "step-00000005", "of the last weights that a loss was taken of"
    again = Trainer(config, ALONE)
    assert again.step == 5
    assert again.run()["steps"] == 20
    assert re.search(r"going on from step 5 with other settings \(\w{12}, now \w{12}\): .*steps 5 -> 20", caplog.text)


def test_one_leap_at_the_end_is_a_bad_pack_and_two_are_a_divergence() -> None:
    guard = SpikeGuard(factor=20.0, limit=3, history=CALM)
    guard.refuses(9.0, 1.0)
    guard.check_end()
    guard.refuses(9.0, 1.0)
    with pytest.raises(DivergedError, match="2 steps in a row could not be taken, the last because the loss 9"):
        guard.check_end()
    guard.refuses(2.0, 1.0)
    guard.check_end()
    guard.refuses(float("nan"), 1.0)
    with pytest.raises(DivergedError, match="the step could not be taken, the last because the loss is nan"):
        guard.check_end()


@pytest.mark.parametrize("where", ["weight", "moment"])
def test_a_checkpoint_holds_finite_numbers_alone(where: str, token_folder: Path, tmp_path: Path) -> None:
    """A weight that no batch reads, or a moment: the losses do not show it."""
    trainer = Trainer(settings(token_folder, tmp_path, steps=4, checkpoint_every=2), ALONE)

    class Spoiling(torch.optim.AdamW):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            super().step(closure)
            with torch.no_grad():
                weight = trainer.model.text_embeddings.weight
                (weight if where == "weight" else trainer.optimizer.state[weight]["exp_avg_sq"])[-1] = float("inf")

    trainer.optimizer.__class__ = Spoiling
    with pytest.raises(DivergedError, match=r"step 2: (model|optimizer)\..*text_embeddings.* is not finite"):
        trainer.run()
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_going_on_with_other_tokens_or_to_fewer_steps_is_refused(token_folder: Path, tmp_path: Path) -> None:
    config = settings(token_folder, tmp_path / "out", steps=4, checkpoint_every=2)
    Trainer(config, ALONE).run()
    noisy = with_noise(token_folder, tmp_path / "noisy")
    write_json(noisy / "manifest.json", read_json(noisy / "manifest.json") | {"digest": "f" * 64})
    with pytest.raises(InputError, match=r"was made with tokens \w{12}, and is given tokens f{12}; give another out"):
        Trainer(replace(config, tokens=str(noisy), steps=8), ALONE)
    with pytest.raises(InputError, match=r"steps 3: .* has come to step 4 already"):
        Trainer(replace(config, steps=3), ALONE)
    assert Trainer(config, ALONE).step == 4


def test_turns_that_fit_no_row_are_said_with_count_and_seconds(
    token_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = sorted(len(turn.text_ids) + turn.codes.shape[1] + 1 for turn in load_tokens(token_folder, "train"))
    bound = rows[len(rows) // 2]
    longer = [each for each in rows if each > bound]
    Trainer(replace(settings(token_folder, tmp_path, steps=1), row_length=bound), ALONE)
    assert len(longer) > 1, "nothing to tell apart"
    turns = f"{len(longer)} turns ({sum(longer) * 0.08:,.0f} s) longer than row_length {bound} are left out"
    assert f"split train: {turns}; the longest fills {rows[-1]} rows" in caplog.text
