"""One frame after another of many sequences: the loop that every way of generating shares.

A decoder has a fixed number of slots, each with room for one sequence. A sequence is begun in a slot, its prompt is
read, whole or in chunks, and then any slots are stepped together: `draw` gives codebook 0 from the backbone's states
and the other codebooks by the depth decoder, of all slots at once, so that the weights are read once; `feed` has the
backbone read the frames. Nothing in a step looks at what the tensors hold, so that it can be compiled, and no
accelerator is waited for inside it; and what a slot draws depends on its own sequence, settings and seed only.

Shapes: M slots stepped, S slots in all, R sequences that the backbone reads (M, and one more for each guided slot),
T rows, K codebooks, V audio vocabulary, D backbone dim. Source: SesameAILabs/csm models.py, `generate_frame`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from csm_model.inference.draws import nearest_to_mean, noise, sample
from csm_model.inference.prompt import audio_rows
from csm_model.inference.sampling import Sampling
from csm_model.kernels import KernelLinear, attend_slots
from csm_model.model import CsmModel
from csm_model.transformer import CacheItems, KVCache

_ROWS_A_SHAPE = 64
"""The attention looks at a multiple of so many rows: its shape, which it may be compiled for, rarely changes."""


class Prompt(NamedTuple):
    """Rows to be read."""

    rows: Tensor  # [T, K + 1] int64
    mask: Tensor  # [T, K + 1] bool
    unread: Tensor | None = None  # [T, K + 1] bool: the mask without the text, for guidance

    def part(self, begin: int, end: int | None = None) -> Prompt:
        """The rows from `begin` to before `end`."""
        return Prompt(*(None if part is None else part[begin:end] for part in self))  # type: ignore[arg-type]

    def then(self, rows: Tensor, mask: Tensor) -> Prompt:
        """These rows and more, which guidance reads as they are."""
        mine, its, unread = self.guided()
        return Prompt(torch.cat([mine, rows]), torch.cat([its, mask]), torch.cat([unread, mask]))

    def common(self, other: Prompt) -> int:
        """How many rows both begin with."""
        count = min(len(self.rows), len(other.rows))
        same = torch.ones(count, dtype=torch.bool)
        for mine, its in zip(self.guided(), other.guided(), strict=True):
            same &= (mine[:count] == its[:count]).all(1)
        return int(same.long().cumprod(0).sum())

    def guided(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, mask, and the mask of the sequence that guidance compares with."""
        return self.rows, self.mask, self.mask if self.unread is None else self.unread


class SampledFrame(NamedTuple):
    """What a step makes."""

    codes: Tensor  # [M, K] int64
    ended: Tensor  # [M] bool: the codes say that speech is over, and are no sound


class KeptRows(NamedTuple):
    """Keys and values of rows that were read, to be copied into another slot."""

    keys: list[Tensor]  # a layer: [G, T, H]
    values: list[Tensor]

    @property
    def length(self) -> int:
        """T."""
        return self.keys[0].shape[1]

    @property
    def bytes(self) -> int:
        """Memory they take."""
        return sum(part.nbytes for part in (*self.keys, *self.values))


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What a step is about, as tensors; nothing in it is a host's number but shapes."""

    slots: Tensor  # [M]
    guided: Tensor  # places among the M of those that are guided
    deep: Tensor  # places among the M of those whose other codebooks are guided too
    gumbel: Tensor  # [M, K, V]
    may_end: Tensor  # [M] bool
    most: int | None  # the largest `top_k`; None where all draw from all
    means: int  # codebooks after the first of which any takes the mean


class FrameDecoder:
    """Steps sequences in slots, each a pure function of its prompt, its settings and its seed.

    Args:
        model: the model; its weights decide precision and device.
        slots: S, sequences at once.
        rows: the most rows of a sequence, prompt and speech together.
        guided: whether sequences may ask for guidance, which takes a second cache.
        entries: `[K, N, L]`, what the codec's codes stand for; without it none is taken by the mean.
    """

    def __init__(
        self, model: CsmModel, *, slots: int, rows: int, guided: bool = True, entries: Tensor | None = None
    ) -> None:
        assert rows <= model.config.max_rows, (rows, model.config.max_rows)
        weight = model.audio_embeddings.weight
        config, device = model.config, weight.device
        self.model, self.config, self.slots, self.guided = model, config, slots, guided
        sequences = slots * (2 if guided else 1)
        kept = model.backbone.cache_dtype or weight.dtype
        self._cache = KVCache(config.backbone, batch_size=sequences, rows=rows, dtype=kept, device=device)
        self._depth_cache = KVCache(
            config.depth, batch_size=sequences, rows=config.num_codebooks, dtype=kept, device=device
        )
        if isinstance(model.projection, KernelLinear):
            self._cache.attend = self._depth_cache.attend = attend_slots
        self._entries = None if entries is None else entries.to(device, torch.float64)
        self._numbers = torch.arange(sequences, device=device)
        self._banned = torch.arange(config.audio_vocab_size, device=device)[None] >= config.codebook_size
        self._state = torch.zeros(sequences, config.backbone.dim, dtype=weight.dtype, device=device)
        self._temperature = torch.ones(slots, device=device)
        self._depth_temperature = torch.ones(slots, device=device)
        self._top_k = torch.ones(slots, dtype=torch.long, device=device)
        self._guidance = torch.ones(slots, 1, device=device)
        self._depth_guidance = torch.ones(slots, 1, device=device)
        self._depth_mean = torch.zeros(slots, dtype=torch.long, device=device)
        self._audio_only = torch.ones(1, 1, config.num_codebooks + 1, dtype=torch.bool, device=device)
        self._audio_only[..., -1] = False
        self._sampling = [Sampling()] * slots
        self._held = [0] * slots
        self._frames = [0] * slots

    @property
    def rows(self) -> int:
        """The most rows of a sequence."""
        return self._cache.rows

    def held(self, slot: int) -> int:
        """Rows that a slot's sequence has."""
        return self._held[slot]

    def begin(self, slot: int, sampling: Sampling, *, keep: int = 0, frame: int = 0) -> None:
        """Begins a sequence in `slot`; it keeps the first `keep` rows of the one before.

        Args:
            slot: which one.
            sampling: how its codes are drawn.
            keep: rows that both sequences begin with.
            frame: number of the frame that is drawn next, where some were drawn before.
        """
        assert keep <= self._held[slot], (keep, self._held[slot])
        assert self.guided or sampling.guidance == 1.0, "this decoder has no second cache for guidance"
        vocabulary = self.config.audio_vocab_size
        self._sampling[slot], self._held[slot], self._frames[slot] = sampling, keep, frame
        self._temperature[slot] = sampling.temperature
        self._depth_temperature[slot] = sampling.depth_temperature
        self._top_k[slot] = min(sampling.top_k, vocabulary) or vocabulary
        self._guidance[slot] = sampling.guidance
        self._depth_guidance[slot] = sampling.depth_guidance
        self._depth_mean[slot] = sampling.depth_mean
        self._cache.lengths[slot :: self.slots] = keep

    @torch.inference_mode()
    def read(self, slot: int, prompt: Prompt) -> None:
        """Reads the next rows of a slot's prompt."""
        rows, mask, unread = prompt.guided()
        assert self._held[slot] + len(rows) <= self.rows, (self._held[slot], len(rows), self.rows)
        sequences = self._sequences([slot])
        device = self._state.device
        masks = torch.stack([mask, unread][: len(sequences)]).to(device)
        hidden = self.model.hidden(
            rows.to(device).expand(len(sequences), -1, -1), masks, self._at(sequences, self._held[slot] + len(rows))
        )
        self._state[sequences] = hidden[:, -1]
        self._held[slot] += len(rows)

    @torch.inference_mode()
    def copy(self, slot: int, count: int) -> KeptRows:
        """The first `count` rows that a slot has read, to be `put` into others."""
        assert count <= self._held[slot], (count, self._held[slot])
        keys, values = ([part[slot, :, :count].clone() for part in parts] for parts in self._buffers())
        return KeptRows(keys, values)

    @torch.inference_mode()
    def put(self, slot: int, rows: KeptRows) -> None:
        """Gives a slot that was just begun rows that were read elsewhere; at least one more must then be read."""
        assert self._held[slot] == 0, self._held[slot]
        for parts, given in zip(self._buffers(), rows, strict=True):
            for part, one in zip(parts, given, strict=True):
                part[slot :: self.slots, :, : rows.length] = one
        self._held[slot] = rows.length
        self._cache.lengths[slot :: self.slots] = rows.length

    @torch.inference_mode()
    def draw(self, slots: Sequence[int], may_end: Sequence[bool]) -> SampledFrame:
        """The next frame of some slots, from what each has read.

        Args:
            slots: which ones, each once.
            may_end: of each, whether its speech may end with this frame.
        """
        step = self._prepare(slots, may_end)
        for slot in slots:
            self._frames[slot] += 1
        return self._draw(step)

    @torch.inference_mode()
    def feed(self, slots: Sequence[int], codes: Tensor) -> None:
        """Reads frames `[M, K]` as the next rows of some slots."""
        sequences = self._sequences(slots)
        for slot in slots:
            self._held[slot] += 1
        again = torch.tensor([slots.index(int(n) % self.slots) for n in sequences], device=codes.device)
        self._feed(sequences, codes[again], max(self._held[slot] for slot in slots))

    def _buffers(self) -> tuple[list[Tensor], list[Tensor]]:
        return self._cache.keys, self._cache.values

    def _sequences(self, slots: Sequence[int]) -> Tensor:
        """The sequences that the backbone reads for some slots: one each, then another for each that is guided."""
        return torch.tensor([*slots, *(slot + self.slots for slot in slots if self._is_guided(slot))])

    def _is_guided(self, slot: int) -> bool:
        return self._sampling[slot].guidance != 1.0

    def _prepare(self, slots: Sequence[int], may_end: Sequence[bool]) -> _Step:
        """A step's tensors, on the model's device."""
        vocabulary = self.config.audio_vocab_size
        shape = (self.config.num_codebooks, vocabulary)
        ks = [min(self._sampling[slot].top_k, vocabulary) or vocabulary for slot in slots]
        device = self._state.device
        gumbel = torch.stack([noise(self._sampling[slot].seed, self._frames[slot], shape) for slot in slots])
        guided = [place for place, slot in enumerate(slots) if self._is_guided(slot)]
        deep = [place for place in guided if self._sampling[slots[place]].depth_guidance != 1.0]
        return _Step(
            slots=torch.tensor(slots, device=device),
            guided=torch.tensor(guided, dtype=torch.long, device=device),
            deep=torch.tensor(deep, dtype=torch.long, device=device),
            gumbel=gumbel.to(device, non_blocking=True),
            may_end=torch.tensor(may_end, device=device),
            most=max(ks) if min(ks) < vocabulary else None,
            means=0 if self._entries is None else max(self._sampling[slot].depth_mean for slot in slots),
        )

    def _at(self, sequences: Tensor, most: int) -> CacheItems:
        """The cache of some sequences, none of which then holds more than so many rows."""
        stepped = -(-most // _ROWS_A_SHAPE) * _ROWS_A_SHAPE
        return self._cache.at(sequences.to(self._state.device), most=stepped)

    def _feed(self, sequences: Tensor, codes: Tensor, most: int) -> None:
        rows, _ = audio_rows(codes.T, self.config, close=False)  # [R, K + 1]: here an item stands where a frame does
        embedded = self.model.embed_rows(rows[:, None], self._audio_only.expand(len(rows), -1, -1))
        self._state[sequences] = self.model.backbone(embedded, self._at(sequences, most))[:, -1]

    def _draw(self, step: _Step) -> SampledFrame:
        """Codes of the frame that the states predict."""
        model, config, slots = self.model, self.config, step.slots
        batch, books = len(slots), config.num_codebooks
        state = self._state[slots]
        logits = model.codebook0_head(state).float()
        if len(step.guided):
            unread = model.codebook0_head(self._state[slots[step.guided] + self.slots]).float()
            logits = _guided(logits, unread, step.guided, self._guidance[slots[step.guided]])
        bans = self._banned.repeat(batch, 1)
        bans[:, config.end_code] = ~step.may_end
        codes = [self._sample(logits, bans, step, 0, self._temperature)]
        self._depth_cache.clear()
        # Those whose depth is guided come once more behind the others, with the state that has not read the text.
        twice = torch.cat([torch.arange(batch, device=slots.device), step.deep]) if len(step.deep) else slice(None)
        depth = self._depth_cache.at(self._numbers[: batch + len(step.deep)])
        weight = self._depth_guidance[slots[step.deep]]
        state = torch.cat([state, self._state[slots[step.deep] + self.slots]]) if len(step.deep) else state
        entering = torch.stack([state, model.embed_code(codes[0], 0)[twice]], dim=1)
        for book in range(1, books):
            out = model.decoder(model.projection(entering), depth)[:, -1]
            logits = model.code_logits(out, book)
            if len(step.deep):
                logits = _guided(logits[:batch].float(), logits[batch:].float(), step.deep, weight)
            code = self._sample(logits, self._banned, step, book, self._depth_temperature)
            if book <= step.means and self._entries is not None:
                mean = nearest_to_mean(logits, self._entries[book], temperature=self._depth_temperature[slots])
                code = torch.where(self._depth_mean[slots] < book, code, mean)
            codes.append(code)
            entering = model.embed_code(codes[-1], book)[twice, None]
        frame = torch.stack(codes, dim=1)
        ended = frame[:, 0] == config.end_code if config.end == "reserved" else (frame == config.end_code).all(1)
        return SampledFrame(frame, ended)

    def _sample(self, logits: Tensor, bans: Tensor, step: _Step, book: int, temperature: Tensor) -> Tensor:
        logits = logits.float().masked_fill(bans, -torch.inf)
        return sample(
            logits,
            step.gumbel[:, book],
            temperature=temperature[step.slots],
            top_k=self._top_k[step.slots],
            most=step.most,
        )


def _guided(logits: Tensor, unread: Tensor, places: Tensor, weight: Tensor) -> Tensor:
    """Logits `[M, V]` of which those at `places` `[G]` are led away from the `unread` ones `[G, V]`, in place."""
    logits[places] = unread + weight * (logits[places] - unread)
    return logits
