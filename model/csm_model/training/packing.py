"""Which turns share a row of the batch: conversations are cut into documents, documents are packed into rows.

Everything here is arithmetic over lengths; no token is read. A pack is what fills one row of `row_length` rows of the
model's input. The order of packs is a pure function of (seed, epoch) and the lengths: neither the number of processes
nor a restart changes it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from csm_model.errors import InputError

MOST_PADDING = 0.02
"""Above it, conversations are cut at turns, to fill the gaps of others."""
_TAKEN_APART = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the packs, the emptiest first, until padding is low enough


class Document(NamedTuple):
    """Consecutive turns of one conversation: their numbers, `first` to `last`, exclusive; the conversation's number."""

    first: int
    last: int
    conversation: int


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
                whole = Document(place, min(end, place + most), int(self.lengths.conversations[place]))
                document = self._longest(whole, self.packing.row_length)
                if document.last > document.first:
                    yield document
                place = max(document.last, place + 1)

    def _longest(self, document: Document, room: int) -> Document:
        """As many of a document's turns, from its first on, as fill at most `room` rows."""
        sums = np.cumsum(self.lengths.rows[document.first : document.last])
        return document._replace(last=document.first + int(np.searchsorted(sums, room, side="right")))

    def _pack(self, documents: list[Document]) -> list[list[Document]]:
        """Best fit, longest first; while too much is padding, the emptiest packs are taken apart turn by turn."""
        packs = self._best_fit(documents)
        for share in _TAKEN_APART:
            free = sum(self._room(pack) for pack in packs)
            if free <= MOST_PADDING * len(packs) * self.packing.row_length:
                break
            packs.sort(key=self._room, reverse=True)
            count = math.ceil(share * len(packs))
            turns = [
                Document(n, n + 1, d.conversation)
                for pack in packs[:count]
                for d in pack
                for n in range(d.first, d.last)
            ]
            packs = self._best_fit([*turns, *(document for pack in packs[count:] for document in pack)])
        return packs if self.packing.max_turns else [_joined(pack) for pack in packs]

    def _best_fit(self, documents: list[Document]) -> list[list[Document]]:
        """Each document, the longest first, into the fullest pack that has room."""
        packs: list[list[Document]] = []
        rooms: list[int] = []  # what is left in each, ascending, beside `packs`
        for document in sorted(documents, key=self.rows_of, reverse=True):
            rows = self.rows_of(document)
            place = bisect.bisect_left(rooms, rows)
            found = place < len(packs)
            pack, room = (packs.pop(place), rooms.pop(place)) if found else ([], self.packing.row_length)
            pack.append(document)
            place = bisect.bisect_left(rooms, room - rows)
            packs.insert(place, pack)
            rooms.insert(place, room - rows)
        return packs

    def _room(self, pack: list[Document]) -> int:
        """Rows that a pack has left."""
        return self.packing.row_length - sum(self.rows_of(document) for document in pack)


def _joined(pack: list[Document]) -> list[Document]:
    """Pieces that follow one another in one conversation become one document again."""
    joined: list[Document] = []
    for document in sorted(pack):
        if joined and joined[-1].last == document.first and joined[-1].conversation == document.conversation:
            joined[-1] = joined[-1]._replace(last=document.last)
        else:
            joined.append(document)
    return joined
