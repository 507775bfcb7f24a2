"""Batches of conversation windows; a batch is a pure function of (seed, step, its number within the step).

Shapes: B batch, T rows, K codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csm_model.config import ModelConfig
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.training.shards import TokenTurn


class Batch(NamedTuple):
    """Padded windows. Row `t` is predicted from the hidden state at `t - 1`."""

    rows: Tensor  # [B, T, K + 1] int64
    mask: Tensor  # [B, T, K + 1] bool; nothing counts in padding
    targets: Tensor  # [B, T] bool: an audio row, or the row that ends speech
    frames: Tensor  # [B, T] bool: an audio row proper, whose other codebooks count too


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How windows are drawn."""

    rows_per_batch: int
    max_turns: int
    history_dropout: float
    text_dropout: float
    seed: int


class Windows:
    """All turns of a split, from which windows of consecutive turns of one conversation are drawn."""

    def __init__(self, turns: list[TokenTurn], config: ModelConfig) -> None:
        self.config = config
        self.conversations = [list(group) for _, group in groupby(turns, key=lambda turn: turn.conversation)]
        self.starts = [
            (index, first)
            for index, conversation in enumerate(self.conversations)
            for first in range(len(conversation))
        ]

    def rows_of(self, window: list[TokenTurn]) -> int:
        """Rows that a window fills: text, frames, and the row that ends each turn's speech."""
        return sum(len(turn.text_ids) + turn.codes.shape[1] + 1 for turn in window)

    def draw(self, plan: BatchPlan, *, step: int, number: int) -> Batch:
        """Micro-batch `number` of a step, over all processes: windows of similar length."""
        rng = np.random.default_rng((plan.seed, step, number))
        pool = []
        for place in rng.integers(len(self.starts), size=256):
            index, first = self.starts[int(place)]
            count = int(rng.integers(1, plan.max_turns + 1))
            window = self.conversations[index][first : first + count]
            while self.rows_of(window) > min(self.config.max_rows, plan.rows_per_batch) and len(window) > 1:
                window = window[1:]
            pool.append(window)
        pool.sort(key=self.rows_of)
        last = int(rng.integers(len(pool)))
        longest = self.rows_of(pool[last])
        count = max(1, plan.rows_per_batch // longest)
        chosen = pool[max(0, last - count + 1) : last + 1]
        return self.collate(chosen, rng=rng, plan=plan)

    def in_order(self, rows_per_batch: int) -> list[Batch]:
        """Every turn once, alone, nothing dropped: for validation."""
        windows = sorted(([turn] for conversation in self.conversations for turn in conversation), key=self.rows_of)
        batches: list[Batch] = []
        while windows:
            longest = self.rows_of(windows[-1])
            count = max(1, rows_per_batch // longest)
            batches.append(self.collate(windows[-count:]))
            del windows[-count:]
        return batches

    def collate(
        self, windows: list[list[TokenTurn]], *, rng: np.random.Generator | None = None, plan: BatchPlan | None = None
    ) -> Batch:
        """Pads windows to one length; with `rng` and `plan`, hides what training hides."""
        size = max(self.rows_of(window) for window in windows)
        columns = self.config.num_codebooks + 1
        rows = torch.zeros(len(windows), size, columns, dtype=torch.long)
        mask = torch.zeros(len(windows), size, columns, dtype=torch.bool)
        targets = torch.zeros(len(windows), size, dtype=torch.bool)
        frames = torch.zeros(len(windows), size, dtype=torch.bool)
        for item, window in enumerate(windows):
            unread = plan is not None and rng is not None and rng.random() < plan.text_dropout
            position = 0
            for turn in window:
                text, text_mask = text_rows(turn.text_ids.tolist(), self.config, read=not unread)
                codes = torch.from_numpy(turn.codes.astype(np.int64))
                audio, audio_mask = audio_rows(codes, self.config, close=True)
                end = position + len(text) + len(audio)
                rows[item, position:end] = torch.cat([text, audio])
                mask[item, position:end] = torch.cat([text_mask, audio_mask])
                targets[item, position + len(text) : end] = True
                frames[item, position + len(text) : end - 1] = True
                position = end
            if plan is not None and rng is not None:
                hidden = torch.from_numpy(rng.random(size) < rng.uniform(0.0, 2.0 * plan.history_dropout))
                mask[item] &= ~(hidden & frames[item])[:, None]
        return Batch(rows, mask, targets, frames)
