"""The trainer learns, resumes, and refuses what does not belong together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from csm_model.bundle import load_bundle
from csm_model.config import debug_config
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import read_json, write_json
from csm_model.model import CsmModel
from csm_model.training.config import TrainingConfig
from csm_model.training.data import BatchPlan, Windows
from csm_model.training.loss import LossModule
from csm_model.training.parallel import World
from csm_model.training.shards import TokenTurn, load_tokens, read_shard
from csm_model.training.trainer import Trainer, learning_rate

ALONE = World(rank=0, size=1)
PLAN = BatchPlan(rows_per_batch=256, max_turns=3, history_dropout=0.35, text_dropout=0.2, seed=5)


def settings(token_folder: Path, out: Path) -> TrainingConfig:
    return TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", steps=30, rows_per_batch=256, warmup_steps=5,
        learning_rate=1e-2, log_every=5, validate_every=15, checkpoint_every=10, depth_share=0.5,
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(token_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    Trainer(settings(token_folder, out), ALONE).run()
    return out


def test_loss_falls_and_bundle_speaks(trained: Path) -> None:
    validations = [row["validation_first"] for row in lines(trained) if "validation_first" in row]
    assert validations[-1] < 0.8 * 3.5, "log(35) = 3.56 nats is what a model knows that has learnt nothing"
    assert validations[-1] < validations[0]
    bundle = load_bundle(trained / "final")
    assert bundle.speakers == {0: "ann", 1: "bob"}
    assert bundle.manifest["codec_digest"] == bundle.codec.digest


def test_killed_run_ends_with_the_same_weights(trained: Path, token_folder: Path, tmp_path: Path) -> None:
    config = settings(token_folder, tmp_path / "out")
    config.save(tmp_path / "config.json")
    command = [sys.executable, "-m", "csm_model.training.main", "--config", str(tmp_path / "config.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    first = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 400
    while not (tmp_path / "out" / "checkpoints" / "step-00000010").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "out" / "final").exists()
    subprocess.run(command, env=environment, check=True)
    for name, tensor in weights(trained).items():
        assert torch.equal(tensor, weights(tmp_path / "out")[name]), name
    assert [row["step"] for row in lines(tmp_path / "out")] == [row["step"] for row in lines(trained)]


def test_damaged_checkpoint_gives_way_to_the_one_before(token_folder: Path, tmp_path: Path, trained: Path) -> None:
    config = settings(token_folder, tmp_path)
    Trainer(replace(config, steps=20), ALONE).run()
    newest = tmp_path / "checkpoints" / "step-00000020" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    trainer = Trainer(config, ALONE)
    assert trainer.step == 10


def test_two_processes_walk_as_one_that_accumulates(token_folder: Path, tmp_path: Path) -> None:
    config = replace(settings(token_folder, tmp_path / "two"), steps=4)
    config.save(tmp_path / "config.json")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "csm_model.training.main", "--config", str(tmp_path / "config.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    Trainer(replace(config, out=str(tmp_path / "one"), accumulation=2), ALONE).run()
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "two")[name], rtol=1e-4, atol=1e-5, msg=name)


def test_batches_are_a_function_of_seed_step_and_rank(token_folder: Path) -> None:
    windows = Windows(
        load_tokens(token_folder, "train"), debug_config(text_vocab_size=200, num_codebooks=4, codebook_size=32)
    )
    one, again = (windows.draw(PLAN, step=3, number=0) for _ in range(2))
    other = windows.draw(PLAN, step=3, number=1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert one.rows.shape != other.rows.shape or not torch.equal(one.rows, other.rows)
    assert one.rows.shape[0] * one.rows.shape[1] <= PLAN.rows_per_batch


def test_hidden_history_hides_audio_only(token_folder: Path) -> None:
    config = debug_config(text_vocab_size=200, num_codebooks=4, codebook_size=32)
    windows = Windows(load_tokens(token_folder, "train"), config)
    batch = windows.draw(replace(PLAN, text_dropout=0.0, history_dropout=0.5), step=0, number=0)
    hidden = batch.frames & ~batch.mask.any(-1)
    assert 0.2 < hidden.sum() / batch.frames.sum() < 0.8
    text = batch.rows[..., -1].gt(0) & ~batch.targets
    assert batch.mask[..., -1][text].all()


def test_state_before_a_frame_predicts_it(token_folder: Path) -> None:
    """Changing frame t must not change the logits that predict it, and must change those after it."""
    config = debug_config(text_vocab_size=200, num_codebooks=4, codebook_size=32)
    torch.manual_seed(0)
    model = CsmModel(config).eval()
    windows = Windows(load_tokens(token_folder, "train"), config)
    batch = windows.in_order(200)[0]
    place = int(batch.frames[0].nonzero()[2])
    changed = batch.rows.clone()
    changed[0, place, 0] = (changed[0, place, 0] + 1) % 32
    with torch.inference_mode():
        before, after = model.hidden(batch.rows, batch.mask)[0], model.hidden(changed, batch.mask)[0]
    assert torch.equal(before[:place], after[:place])
    assert not torch.equal(before[place], after[place])


def test_one_frame_is_enough_for_the_depth_decoder(token_folder: Path) -> None:
    """A batch with fewer frames than the share's inverse must not give NaN."""
    config = debug_config(text_vocab_size=200, num_codebooks=4, codebook_size=32)
    turn = load_tokens(token_folder, "train")[0]
    short = TokenTurn(**{**vars(turn), "codes": turn.codes[:, :1]})
    batch = Windows([short], config).in_order(100)[0]
    losses = LossModule(CsmModel(config), depth_share=1 / 16, depth_weight=1.0)(batch, torch.Generator())
    assert torch.isfinite(losses.total)


def test_learning_rate_warms_up_and_falls_to_a_twentieth(token_folder: Path, tmp_path: Path) -> None:
    config = settings(token_folder, tmp_path)
    rates = [learning_rate(config, step) for step in range(config.steps + 1)]
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates[0] == pytest.approx(config.learning_rate / 5)
    assert rates[-1] == pytest.approx(config.learning_rate / 20)


def test_base_of_another_codec_is_refused(trained: Path, token_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    manifest = read_json(trained / "final" / "manifest.json")
    for path in (trained / "final").iterdir():
        if path.is_file():
            (base / path.name).write_bytes(path.read_bytes())
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if "/" not in name}
    write_json(base / "manifest.json", {**manifest, "codec_digest": "f" * 64})
    with pytest.raises(ArtifactError, match="codec_digest is ffffffffffff"):
        Trainer(replace(settings(token_folder, tmp_path), base=str(base)), ALONE)


def test_damaged_shard_is_refused(token_folder: Path, tmp_path: Path) -> None:
    for path in token_folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(DigestError, match="run tokenise again"):
        load_tokens(tmp_path, "train")
    with pytest.raises(ArtifactError, match="not a token shard"):
        read_shard(tmp_path / "manifest.json")


def test_unknown_setting_lists_the_known(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"tokens": "a", "out": "b", "stepz": 3})
    with pytest.raises(InputError, match="unknown setting 'stepz'; there are accumulation"):
        TrainingConfig.load(tmp_path / "config.json")
