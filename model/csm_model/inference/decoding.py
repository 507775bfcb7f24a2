"""One frame after another of a batch of sequences: the loop that every way of generating shares.

The backbone reads the prompts, right-padded, and then one row an item a frame; codebook 0 is drawn from its state, and
the depth decoder gives the other codebooks of all items together. Shapes never change after the prompts, and nothing
looks at what the tensors hold, so that each step can be compiled once.

Shapes: B items, S sequences that the backbone reads (B, or 2 B with guidance), T rows, K codebooks, V audio vocabulary,
D backbone dim. Source: SesameAILabs/csm models.py, `generate_frame`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from csm_model.inference.prompt import audio_rows
from csm_model.inference.sampling import Sampling, noise, sample
from csm_model.model import CsmModel
from csm_model.transformer import KVCache


class Prompt(NamedTuple):
    """The rows that one item begins from."""

    rows: Tensor  # [T, K + 1] int64
    mask: Tensor  # [T, K + 1] bool
    unread: Tensor | None = None  # [T, K + 1] bool: the mask without the text, for guidance


class Frame(NamedTuple):
    """What a step makes."""

    codes: Tensor  # [B, K] int64
    ended: Tensor  # [B] bool: the codes say that speech is over, and are no sound


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How each item is drawn, as tensors."""

    temperature: Tensor
    """Of codebook 0: float32 `[B]`."""
    depth_temperature: Tensor
    """Of the others: float32 `[B]`."""
    top_k: Tensor
    """int64 `[B]`."""
    most: int | None
    """The largest `top_k`; None where all draw from all."""
    guidance: Tensor | None
    """float32 `[B, 1]`; None where no item is guided."""

    @classmethod
    def of(cls, each: Sequence[Sampling], vocabulary: int, device: torch.device) -> Settings:
        """The settings of all items."""
        ks = [min(s.top_k, vocabulary) or vocabulary for s in each]
        guided = any(s.guidance != 1.0 for s in each)
        return cls(
            temperature=torch.tensor([s.temperature for s in each], device=device),
            depth_temperature=torch.tensor([s.depth_temperature for s in each], device=device),
            top_k=torch.tensor(ks, device=device),
            most=max(ks) if min(ks) < vocabulary else None,
            guidance=torch.tensor([[s.guidance] for s in each], device=device) if guided else None,
        )


class FrameDecoder:
    """Steps a fixed batch of sequences, each a pure function of its prompt, its settings and its seed.

    Args:
        model: the model; its weights decide precision and device.
        sampling: of each item; their number is the size of the batch.
        rows: the most rows of an item, prompt and speech together.
        compiled: run the steps through torch.compile, with the weights frozen into it on a CPU
            (`csm_model.inference.compiling`).
    """

    def __init__(self, model: CsmModel, sampling: Sequence[Sampling], *, rows: int, compiled: bool = False) -> None:
        assert rows <= model.config.max_rows, (rows, model.config.max_rows)
        weight = model.audio_embeddings.weight
        self.model, self.config = model, model.config
        self.sampling = list(sampling)
        self.settings = Settings.of(sampling, self.config.audio_vocab_size, weight.device)
        batch = len(sampling)
        self._sequences = batch * (1 if self.settings.guidance is None else 2)
        self._cache = KVCache(
            self.config.backbone, batch_size=self._sequences, rows=rows, dtype=weight.dtype, device=weight.device
        )
        self._depth_cache = KVCache(
            self.config.depth, batch_size=batch, rows=self.config.num_codebooks, dtype=weight.dtype,
            device=weight.device,
        )  # fmt: skip
        self._banned = (
            torch.arange(self.config.audio_vocab_size, device=weight.device)[None] >= self.config.codebook_size
        )
        self._backbone: Callable[..., Tensor] = model.backbone
        self._depth: Callable[..., Tensor] = model.decoder
        if compiled:
            from csm_model.inference.compiling import compiled_step

            self._backbone, self._depth = compiled_step(model.backbone), compiled_step(model.decoder)
        self._state: Tensor | None = None
        self._frame = 0
        self._audio_only = torch.ones(
            self._sequences, 1, self.config.num_codebooks + 1, dtype=torch.bool, device=weight.device
        )
        self._audio_only[..., -1] = False

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt]) -> None:
        """Reads the prompt of every item, from nothing; what was read before is forgotten."""
        assert len(prompts) == len(self.sampling), (len(prompts), len(self.sampling))
        sequences = [(p.rows, p.mask) for p in prompts]
        if self.settings.guidance is not None:
            sequences += [(p.rows, p.mask if p.unread is None else p.unread) for p in prompts]
        lengths = torch.tensor([len(rows) for rows, _ in sequences])
        assert int(lengths.max()) < self._cache.rows, (int(lengths.max()), self._cache.rows)
        rows, mask = (pad_sequence(list(part), batch_first=True) for part in zip(*sequences, strict=True))
        device = self._audio_only.device
        self._cache.clear()
        hidden = self.model.hidden(rows.to(device), mask.to(device), self._cache)
        self._cache.trim(lengths)
        self._state = hidden[torch.arange(len(lengths)), lengths - 1]
        self._frame = 0

    @torch.inference_mode()
    def step(self, may_end: Sequence[bool]) -> Frame:
        """The next frame of every item, which is then read as the item's next row.

        Args:
            may_end: of each item, whether its speech may end with this frame.
        """
        assert self._state is not None, "read the prompts first"
        frame = self._draw(self._state, may_end)
        self._frame += 1
        return frame

    @torch.inference_mode()
    def feed(self, codes: Tensor) -> None:
        """Reads a frame `[B, K]` as the next row of every item."""
        again = self._sequences // len(codes)
        rows, _ = audio_rows(codes.T, self.config, close=False)  # [B, K + 1]: here an item stands where a frame does
        embedded = self.model.embed_rows(rows[:, None].repeat(again, 1, 1), self._audio_only)
        self._state = self._backbone(embedded, self._cache)[:, -1]

    def _draw(self, state: Tensor, may_end: Sequence[bool]) -> Frame:
        """Codes of the frame that the backbone's states `[S, D]` predict."""
        model, config, settings = self.model, self.config, self.settings
        batch, books, vocabulary = len(self.sampling), config.num_codebooks, config.audio_vocab_size
        gumbel = torch.stack([noise(s.seed, self._frame, (books, vocabulary)) for s in self.sampling]).to(state.device)
        logits = model.codebook0_head(state).float()
        if settings.guidance is not None:
            read, unread = logits[:batch], logits[batch:]
            logits = torch.where(settings.guidance == 1.0, read, unread + settings.guidance * (read - unread))
        bans = self._banned.repeat(batch, 1)
        bans[:, config.end_code] = ~torch.tensor(may_end, device=state.device)
        codes = [self._sample(logits, bans, gumbel[:, 0], settings.temperature)]
        self._depth_cache.clear()
        entering = torch.stack([state[:batch], model.embed_code(codes[0], 0)], dim=1)
        for book in range(1, books):
            out = self._depth(model.projection(entering), self._depth_cache)[:, -1]
            logits = model.code_logits(out, book)
            codes.append(self._sample(logits, self._banned, gumbel[:, book], settings.depth_temperature))
            entering = model.embed_code(codes[-1], book)[:, None]
        frame = torch.stack(codes, dim=1)
        ended = frame[:, 0] == config.end_code if config.end == "reserved" else (frame == config.end_code).all(1)
        return Frame(frame, ended)

    def _sample(self, logits: Tensor, bans: Tensor, gumbel: Tensor, temperature: Tensor) -> Tensor:
        logits = logits.float().masked_fill(bans, -torch.inf)
        return sample(logits, gumbel, temperature=temperature, top_k=self.settings.top_k, most=self.settings.most)
