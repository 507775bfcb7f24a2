"""Turns of a conversation as rows of the model's input; training and generation both build rows here.

Shapes: T rows, K codebooks, L text ids, F frames. A row is `[K + 1]` ids: K audio columns and the text column.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csm_model.config import ModelConfig


def text_rows(ids: Sequence[int], config: ModelConfig, *, read: bool = True) -> tuple[Tensor, Tensor]:
    """Rows `[L, K + 1]` of text ids and their mask: only the text column counts.

    With `read` False nothing but who speaks counts: what guidance compares with, and what training hides now and then.
    """
    rows = torch.zeros(len(ids), config.num_codebooks + 1, dtype=torch.long)
    rows[:, -1] = torch.as_tensor(ids, dtype=torch.long)
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[: len(ids) if read else config.text_prefix, -1] = True
    return rows, mask


def audio_rows(codes: Tensor, config: ModelConfig, *, close: bool) -> tuple[Tensor, Tensor]:
    """Rows `[F (+ 1), K + 1]` of codes `[K, F]` and their mask; `close` adds the row that ends speech."""
    frames = codes.shape[1]
    rows = torch.zeros(frames + close, config.num_codebooks + 1, dtype=torch.long, device=codes.device)
    rows[:frames, :-1] = codes.T
    rows[frames:, :-1] = config.end_code
    mask = torch.ones(rows.shape, dtype=torch.bool)
    mask[:, -1] = False
    return rows, mask
