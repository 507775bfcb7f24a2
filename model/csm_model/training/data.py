"""Batches of packed conversations; a batch is a pure function of the tokens, the settings and the numbers of its packs.

Shapes: B packs, T rows of a pack, K codebooks, N targets, F frames picked for the depth decoder. Places are indices
into the `B * T` rows of the batch laid end to end.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.config import ModelConfig
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.training.packing import Document, Lengths, Packing, Packs
from csm_model.training.replay import turn_of
from csm_model.training.selectors import turn_weight
from csm_model.training.shards import TokenTurn


class Targets(NamedTuple):
    """Rows to be predicted, and what each counts. The state at `place - 1` predicts the row at `place`."""

    places: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]


class Batch(NamedTuple):
    """Packs of rows, and what is asked of the model."""

    rows: Tensor  # [B, T, K + 1] int64
    mask: Tensor  # [B, T, K + 1] bool; nothing counts in padding
    lengths: list[list[int]]  # of each pack, the rows of its documents; padding is the last one
    first: Targets  # audio rows and the rows that end speech: codebook 0
    depth: Targets  # a random share of the audio rows: codebooks 1 to K - 1
    text: Targets  # text rows but the first of a document: the next text id

    rows_held: int  # rows that are not padding

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        if device == self.rows.device:
            return self
        first, depth, text = (
            Targets(*(part.to(device) for part in each)) for each in (self.first, self.depth, self.text)
        )
        return self._replace(rows=self.rows.to(device), mask=self.mask.to(device), first=first, depth=depth, text=text)

    def without_targets(self) -> Batch:
        """The same rows, of which nothing is asked."""
        first, depth, text = (each._replace(weights=each.weights * 0.0) for each in (self.first, self.depth, self.text))
        return self._replace(first=first, depth=depth, text=text)

    @property
    def totals(self) -> Totals:
        """What all its targets count."""
        return Totals(*(float(part.weights.sum()) for part in (self.first, self.depth, self.text)))


def side_by_side(batches: Sequence[Batch]) -> Batch:
    """One batch of the packs of several, in their order; their packs are of one length."""
    if len(batches) == 1:
        return batches[0]
    size = batches[0].rows.shape[1]
    packs = [len(batch.rows) for batch in batches]
    begins = [size * before for before in itertools.accumulate(packs[:-1], initial=0)]

    def joined(kind: str) -> Targets:
        parts = [getattr(batch, kind) for batch in batches]
        places = [part.places + begin for part, begin in zip(parts, begins, strict=True)]
        return Targets(torch.cat(places), torch.cat([part.weights for part in parts]))

    return Batch(
        torch.cat([batch.rows for batch in batches]),
        torch.cat([batch.mask for batch in batches]),
        [lengths for batch in batches for lengths in batch.lengths],
        joined("first"),
        joined("depth"),
        joined("text"),
        sum(batch.rows_held for batch in batches),
    )


class Totals(NamedTuple):
    """What targets count, all together; those of several batches add up."""

    first: float
    depth: float
    text: float


@dataclass(frozen=True, kw_only=True)
class DropoutSettings:
    """What of the rows the model gets to see, and what of them counts."""

    depth_share: float
    """Share of the audio frames that the depth decoder is trained on, drawn anew every epoch (CSM: 1/16)."""
    history_dropout: float = 0.0
    """Mean share of past audio frames hidden from the backbone; a document's own is uniform from 0 to twice that."""
    text_dropout: float = 0.0
    """Share of documents that do not see their text, so that guidance has something to compare with."""
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    """What turns count in the loss, by selector (`csm_model.training.selectors`); 0 leaves them as context."""
    seed: int = 0
    """Of all that is drawn."""


class TokenSource(Protocol):
    """The turns of a split, by number."""

    @property
    def lengths(self) -> Lengths:
        """Of all turns."""
        ...

    def turn(self, number: int) -> TokenTurn:
        """One turn."""
        ...

    def expect(self, shards: Sequence[int]) -> None:
        """Says which shards will be read next, in this order, so that they can be had beforehand."""
        ...


class TurnsInMemory:
    """A list of turns as a source, of one shard."""

    def __init__(self, turns: Sequence[TokenTurn]) -> None:
        self._turns = turns
        names = [turn.conversation for turn in turns]
        fresh = [1 if index and name != names[index - 1] else 0 for index, name in enumerate(names)]
        self.lengths = Lengths(
            rows=np.array([len(turn.text_ids) + turn.codes.shape[1] + 1 for turn in turns], dtype=np.int64),
            conversations=np.cumsum(fresh, dtype=np.int64),
            shard_ends=np.array([len(turns)]),
        )

    def turn(self, number: int) -> TokenTurn:
        """See `TokenSource`."""
        return self._turns[number]

    def expect(self, shards: Sequence[int]) -> None:
        """See `TokenSource`."""


class PackedTokens:
    """Packs of a split as batches."""

    def __init__(self, source: TokenSource, config: ModelConfig, *, packing: Packing, reading: DropoutSettings) -> None:
        self.source, self.config, self.reading = source, config, reading
        self.packs = Packs(source.lengths, packing)
        self._expected = -1

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The packs of these running numbers, side by side."""
        self._look_ahead(numbers[-1])
        size = self.packs.packing.row_length
        columns = self.config.num_codebooks + 1
        rows = torch.zeros(len(numbers), size, columns, dtype=torch.long)
        mask = torch.zeros(len(numbers), size, columns, dtype=torch.bool)
        lengths: list[list[int]] = []
        held = 0
        marks = _Marks()
        for item, number in enumerate(numbers):
            epoch, documents = self.packs[number]
            place = 0
            lengths.append([])
            for document in documents:
                built = self._document(document, epoch, place=item * size + place, marks=marks)
                count = len(built[0])
                rows[item, place : place + count], mask[item, place : place + count] = built
                lengths[-1].append(count)
                place += count
            held += place
            if place < size:
                lengths[-1].append(size - place)
        return Batch(rows, mask, lengths, *marks.targets(), held)

    def in_order(self, packs_per_batch: int) -> list[Batch]:
        """The first epoch as batches of so many packs: for validation."""
        count = self.packs.count(0)
        return [
            self.batch(range(start, min(count, start + packs_per_batch))) for start in range(0, count, packs_per_batch)
        ]

    def _look_ahead(self, number: int) -> None:
        """Tells the source what comes, whenever a pack is the first that is read of its group."""
        group = self.packs.group_of(number)
        if group != self._expected:
            self._expected = group
            self.source.expect(self.packs.shards_of(group) + self.packs.shards_of(group + 1))

    def _document(self, document: Document, epoch: int, *, place: int, marks: _Marks) -> tuple[Tensor, Tensor]:
        """Rows and mask of a document whose first row stands at `place` of the batch; notes its targets in `marks`."""
        reading = self.reading
        rng = np.random.default_rng((reading.seed, epoch, document.first, 1))
        unread = rng.random() < reading.text_dropout
        parts, begin = [], place
        audio_places = []
        for number in range(document.first, document.last):
            turn = self.source.turn(number)
            weight = turn_weight(turn, reading.loss_weights)
            codes = torch.from_numpy(turn.codes.astype(np.int64))
            text = text_rows(turn.text_ids.tolist(), self.config, read=not unread)
            audio = audio_rows(codes, self.config, close=True)
            parts += [text, audio]
            speech, end = place + len(text[0]), place + len(text[0]) + codes.shape[1]
            skip = 1 if place == begin else 0  # nothing stands before the first row of a document
            marks.add("text", np.arange(place + skip, speech), weight)
            marks.add("first", np.arange(speech, end + 1), weight)
            frames = np.arange(speech, end)
            marks.add("depth", frames[_picked(len(frames), reading.depth_share, rng)], weight)
            if self.config.end == "zeros":  # every codebook of the closing row must be learnt
                marks.add("depth", np.array([end]), weight)
            audio_places.append(frames - begin)
            place = end + 1
        rows, mask = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        if reading.history_dropout:
            frames = np.concatenate(audio_places)
            share = rng.uniform(0.0, 2.0 * reading.history_dropout)
            mask[torch.from_numpy(frames[rng.random(len(frames)) < share])] = False
        return rows, mask


class ReplayedPacks:
    """Packs of a run's own tokens and of replayed ones, in one order.

    Args:
        own: the run's own.
        replayed: those of the replay.
        share: of the packs, the part that is replayed; from 0 to 1.
    """

    def __init__(self, own: PackedTokens, replayed: PackedTokens, share: float) -> None:
        self._own, self._replayed, self._share = own, replayed, share

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The packs of these running numbers, side by side."""
        turns = [turn_of(number, self._share) for number in numbers]
        return side_by_side([(self._replayed if turn.replayed else self._own).batch([turn.number]) for turn in turns])


def _picked(frames: int, share: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random `share` of so many frames, in order; rounded up or down at random, so that the mean is the share."""
    count = int(share * frames + rng.random())
    return np.sort(rng.permutation(frames)[: min(frames, count)])


class _Marks:
    """Places and weights of targets, as they are found."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[npt.NDArray[np.int64], float]]] = {"first": [], "depth": [], "text": []}

    def add(self, kind: str, places: npt.NDArray[np.int64], weight: float) -> None:
        if weight:
            self._found[kind].append((places, weight))

    def targets(self) -> tuple[Targets, Targets, Targets]:
        """Of codebook 0, of the other codebooks, of the text."""
        first, depth, text = (_targets(found) for found in self._found.values())
        return first, depth, text


def _targets(found: list[tuple[npt.NDArray[np.int64], float]]) -> Targets:
    places = [torch.from_numpy(part) for part, _ in found]
    weights = [torch.full((len(part),), weight) for part, weight in found]
    if not found:
        return Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0))
    return Targets(torch.cat(places), torch.cat(weights))
