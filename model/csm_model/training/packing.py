"""Which turns share a row of the batch: conversations are cut into documents, documents are packed into rows.

Everything here is arithmetic over lengths; no token is read. A pack is what fills one row of `row_length` rows of the
model's input. The order of packs is a pure function of (seed, epoch) and the lengths: neither the number of processes
nor a restart changes it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from csm_model.errors import InputError

MOST_PADDING = 0.02
"""Above it, the emptiest packs are taken apart and their conversations cut, to fill the gaps of the others."""


class Document(NamedTuple):
    """Consecutive turns of one conversation, by their numbers: `first` to `last`, exclusive."""

    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What packing knows of the turns of a split, in the order of the shards."""

    rows: npt.NDArray[np.int64]
    """Rows that each turn fills: its text ids, its frames, and the row that ends its speech."""
    conversations: npt.NDArray[np.int64]
    """Number of each turn's conversation; the turns of one stand together."""
    shards: npt.NDArray[np.int64]
    """Number of the shard that each turn lies in; a conversation lies in one."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How turns become packs."""

    row_length: int
    """Rows of a pack."""
    max_turns: int = 0
    """A document is 1 to this many consecutive turns, cut anew each epoch; 0 leaves conversations whole."""
    seed: int = 0
    """Of the cuts and of the order."""
    shuffle_shards: int = 64
    """Shards whose turns are mixed with one another; a reader holds so many open."""


class Packs:
    """The packs of all epochs, by their running number."""

    def __init__(self, lengths: Lengths, packing: Packing) -> None:
        if not len(lengths.rows):
            raise InputError("no turns to train on: the split is empty; tokenise a corpus that has some")
        self.lengths, self.packing = lengths, packing
        self.fits = lengths.rows <= packing.row_length
        if not self.fits.any():
            raise InputError(
                f"row_length {packing.row_length}: the shortest turn fills {int(lengths.rows.min())} rows; "
                "make row_length larger"
            )
        changes = np.flatnonzero(np.diff(lengths.conversations)) + 1
        self._starts = np.concatenate([[0], changes, [len(lengths.rows)]])
        self._counts: list[int] = []
        self._epoch: tuple[int, list[list[Document]]] = (-1, [])

    @property
    def turns_left_out(self) -> int:
        """Turns that are longer than a row."""
        return int((~self.fits).sum())

    def __getitem__(self, number: int) -> tuple[int, list[Document]]:
        """The pack of a running number: its epoch and its documents."""
        epoch = 0
        while number >= self.count(epoch):
            number -= self.count(epoch)
            epoch += 1
        return epoch, self.epoch(epoch)[number]

    def count(self, epoch: int) -> int:
        """Packs of an epoch."""
        while len(self._counts) <= epoch:
            self._counts.append(len(self.epoch(len(self._counts))))
        return self._counts[epoch]

    def padding(self, epoch: int = 0) -> float:
        """Share of an epoch's rows that hold nothing."""
        used = sum(self.rows_of(document) for pack in self.epoch(epoch) for document in pack)
        return 1.0 - used / (self.count(epoch) * self.packing.row_length)

    def rows_of(self, document: Document) -> int:
        """Rows that a document fills."""
        return int(self.lengths.rows[document.first : document.last].sum())

    def epoch(self, epoch: int) -> list[list[Document]]:
        """All packs of an epoch, in their order."""
        if self._epoch[0] != epoch:
            shards = np.unique(self.lengths.shards)
            order = np.random.default_rng((self.packing.seed, epoch)).permutation(shards)
            size = self.packing.shuffle_shards
            packs = []
            for start in range(0, len(order), size):
                rng = np.random.default_rng((self.packing.seed, epoch, start + 1))
                documents = [d for shard in order[start : start + size] for d in self._documents(int(shard), rng)]
                mixed = self._pack([documents[i] for i in rng.permutation(len(documents))])
                packs += [mixed[i] for i in rng.permutation(len(mixed))]
            self._epoch = epoch, packs
        return self._epoch[1]

    def _documents(self, shard: int, rng: np.random.Generator) -> Iterator[Document]:
        """The documents of a shard's conversations; turns that do not fit a row are left out."""
        first, last = np.searchsorted(self.lengths.shards, [shard, shard + 1])
        starts = self._starts[np.searchsorted(self._starts, first) : np.searchsorted(self._starts, last) + 1]
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            place = begin
            while place < end:
                most = int(rng.integers(1, self.packing.max_turns + 1)) if self.packing.max_turns else end - begin
                document = self._longest(Document(place, min(end, place + most)), self.packing.row_length)
                if document.last > document.first:
                    yield document
                place = max(document.last, place + 1)

    def _longest(self, document: Document, room: int) -> Document:
        """As many of a document's turns, from its first on, as fill at most `room` rows."""
        sums = np.cumsum(self.lengths.rows[document.first : document.last])
        return Document(document.first, document.first + int(np.searchsorted(sums, room, side="right")))

    def _pack(self, documents: list[Document]) -> list[list[Document]]:
        """Best fit, longest first; then, while too much is padding, the emptiest packs fill the gaps of the others."""
        bins = _Bins(self.packing.row_length)
        for document in sorted(documents, key=self.rows_of, reverse=True):
            bins.add([document], self.rows_of(document))
        before = 1.0
        while MOST_PADDING < bins.padding < before and len(bins.packs) > 1:
            before = bins.padding
            for document in sorted(bins.take_emptiest(), key=self.rows_of, reverse=True):
                self._fill_gaps(bins, document)
        return bins.packs

    def _fill_gaps(self, bins: _Bins, document: Document) -> None:
        """Places a document whole where there is a gap for it, else cut at turns, the longest piece first."""
        while document.last > document.first:
            whole = self.rows_of(document)
            piece = document if bins.gap >= whole else self._longest(document, bins.gap)
            if piece.last == piece.first:  # no gap takes even its first turn
                piece = document
            bins.add([piece], self.rows_of(piece))
            document = Document(piece.last, document.last)


class _Bins:
    """Packs and the room that is left in each, sorted by it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.packs: list[list[Document]] = []
        self._rooms: list[int] = []  # ascending, beside `packs`
        self._free = 0  # their sum

    @property
    def gap(self) -> int:
        """The most room that any pack has left."""
        return self._rooms[-1] if self._rooms else 0

    @property
    def padding(self) -> float:
        """Share of all rows that are empty."""
        return self._free / (self.size * len(self._rooms))

    def add(self, documents: Sequence[Document], rows: int) -> None:
        """Puts documents of together `rows` rows into the fullest pack with room, or into a new one."""
        place = bisect.bisect_left(self._rooms, rows)
        found = place < len(self.packs)
        pack, room = (self.packs.pop(place), self._rooms.pop(place)) if found else ([], self.size)
        pack += documents
        self._free += -rows if found else self.size - rows
        place = bisect.bisect_left(self._rooms, room - rows)
        self.packs.insert(place, pack)
        self._rooms.insert(place, room - rows)

    def take_emptiest(self) -> list[Document]:
        """Removes the emptiest pack and returns its documents."""
        self._free -= self._rooms.pop()
        return self.packs.pop()
