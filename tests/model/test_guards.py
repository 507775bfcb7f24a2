"""Guards: what is no number, or leaps, is not learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from csm_model.training.config import TrainingConfig
from csm_model.training.guards import DivergedError, SpikeGuard
from csm_model.training.loss import Losses, LossModule
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

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


def test_a_step_without_a_number_changes_no_weight(
    token_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainingConfig(
        tokens=str(token_folder), out=str(tmp_path), model="debug", steps=4, row_length=256, batch_packs=1,
        log_every=1, checkpoint_every=1, validate_every=100, keep_checkpoints=9, depth_share=0.5,
    )  # fmt: skip
    honest, calls = LossModule.forward, []

    def poisoned(self: LossModule, *inputs: object) -> Losses:
        calls.append(1)
        losses = honest(self, *inputs)  # type: ignore[arg-type]
        return losses._replace(total=losses.total * float("nan")) if len(calls) == 3 else losses

    monkeypatch.setattr(LossModule, "forward", poisoned)
    trainer = Trainer(config, World(rank=0, size=1))
    seen = []
    advance = trainer._advance

    def watched(*arguments: object) -> bool:
        stopping = advance(*arguments)  # type: ignore[arg-type]
        seen.append(torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()]))
        return stopping

    monkeypatch.setattr(trainer, "_advance", watched)
    trainer.run()
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])
    assert torch.isfinite(seen[3]).all()
    assert "step 3: step skipped: the" in caplog.text
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows if "skipped_steps" in row] == [0, 0, 1, 1]
