"""Which turns share a row of the batch: conversations are cut into documents, documents are packed into rows.

Everything here is arithmetic over lengths; no token is read. A pack is what fills one row of `row_length` rows of the
model's input. The order of packs is a pure function of (seed, epoch) and the lengths: neither the number of processes
nor a restart changes it.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from csm_model.errors import InputError
from csm_model.frames import seconds_of

MOST_PADDING = 0.02
"""Above it, conversations are cut at turns, to fill the gaps of others."""
_TAKEN_APART = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)  # of the packs, the emptiest first


class Document(NamedTuple):
    """Consecutive turns of one conversation: their numbers, `first` to `last`, exclusive; the conversation's number."""

    first: int
    last: int
    conversation: int


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What packing knows of the turns of a split, in the order of the shards."""

    rows: npt.NDArray[np.integer[Any]]
    """Rows that each turn fills: its text ids, its frames, and the row that ends its speech."""
    conversations: npt.NDArray[np.integer[Any]]
    """Number of each turn's conversation; the turns of one stand together."""
    shard_ends: npt.NDArray[np.integer[Any]]
    """Of each shard, the turns up to its end; a conversation lies in one shard."""


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


def left_out(lengths: Lengths, row_length: int) -> str:
    """What is left out of a split because it fits no row, in words; empty where all fits.

    Its seconds are those of its rows, a row being a frame or a text id: at most so many of sound.
    """
    longer = lengths.rows[lengths.rows > row_length]
    if not len(longer):
        return ""
    turns = "1 turn" if len(longer) == 1 else f"{len(longer)} turns"
    return (
        f"{turns} ({seconds_of(int(longer.sum())):,.0f} s) longer than row_length {row_length} "
        f"{'is' if len(longer) == 1 else 'are'} left out; the longest fills {int(longer.max())} rows"
    )


class Packs:
    """The packs of all epochs, by their running number.

    An epoch takes the shards in an order of its own, `shuffle_shards` at a time: a group. The turns of a group are
    mixed with one another, and packed, when the first of its packs is asked for.
    """

    def __init__(self, lengths: Lengths, packing: Packing) -> None:
        if not len(lengths.rows):
            raise InputError("no turns to train on: the split is empty; tokenise a corpus that has some")
        self.lengths, self.packing = lengths, packing
        shortest = int(lengths.rows.min())
        if shortest > packing.row_length:
            raise InputError(
                f"row_length {packing.row_length}: the shortest turn fills {shortest} rows; make row_length larger"
            )
        self._sums = np.concatenate([[0], np.cumsum(lengths.rows, dtype=np.int64)])
        """Rows of all turns before each."""
        changes = np.flatnonzero(np.diff(lengths.conversations)) + 1
        self._starts = np.concatenate([[0], changes, [len(lengths.rows)]])
        self._ends = [0]
        """Packs up to the end of each group, one epoch after another; of those that were planned so far."""
        self.groups = math.ceil(len(lengths.shard_ends) / packing.shuffle_shards)
        """Groups of an epoch."""
        self._order = functools.lru_cache(2)(self._order_of)
        self._planned = functools.lru_cache(2)(self._plan)

    def __getitem__(self, number: int) -> tuple[int, list[Document]]:
        """The pack of a running number: its epoch and its documents."""
        at = self.group_of(number)
        return at // self.groups, self.group(at)[number - self._ends[at]]

    def group_of(self, number: int) -> int:
        """The running number of the group that a pack lies in; `groups` of them are an epoch."""
        while number >= self._ends[-1]:
            self.group(len(self._ends) - 1)
        return bisect.bisect_right(self._ends, number) - 1

    def group(self, at: int) -> list[list[Document]]:
        """The packs of a group, in their order."""
        packs = self._planned(at)
        if at == len(self._ends) - 1:
            self._ends.append(self._ends[-1] + len(packs))
        return packs

    def shards_of(self, at: int) -> list[int]:
        """The shards of a group, by number."""
        epoch, index = divmod(at, self.groups)
        size = self.packing.shuffle_shards
        return self._order(epoch)[index * size : (index + 1) * size]

    def epoch(self, epoch: int) -> list[list[Document]]:
        """All packs of an epoch, in their order."""
        return [pack for index in range(self.groups) for pack in self.group(epoch * self.groups + index)]

    def count(self, epoch: int) -> int:
        """Packs of an epoch."""
        return sum(len(self.group(epoch * self.groups + index)) for index in range(self.groups))

    def padding(self, epoch: int = 0) -> float:
        """Share of an epoch's rows that hold nothing."""
        packs = self.epoch(epoch)
        return sum(self._room(pack) for pack in packs) / (len(packs) * self.packing.row_length)

    def rows_of(self, document: Document) -> int:
        """Rows that a document fills."""
        return int(self._sums[document.last] - self._sums[document.first])

    def _order_of(self, epoch: int) -> list[int]:
        """All shards, in the order of an epoch."""
        rng = np.random.default_rng((self.packing.seed, epoch))
        return [int(shard) for shard in rng.permutation(len(self.lengths.shard_ends))]

    def _plan(self, at: int) -> list[list[Document]]:
        epoch, index = divmod(at, self.groups)
        rng = np.random.default_rng((self.packing.seed, epoch, index + 1))
        documents = [document for shard in self.shards_of(at) for document in self._documents(shard, rng)]
        packs = self._pack([documents[i] for i in rng.permutation(len(documents))])
        return [packs[i] for i in rng.permutation(len(packs))]

    def _documents(self, shard: int, rng: np.random.Generator) -> Iterator[Document]:
        """The documents of a shard's conversations; turns that do not fit a row are left out."""
        first = int(self.lengths.shard_ends[shard - 1]) if shard else 0
        last = int(self.lengths.shard_ends[shard])
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
        end = int(np.searchsorted(self._sums, self._sums[document.first] + room, side="right")) - 1
        return document._replace(last=min(document.last, end))

    def _pack(self, documents: list[Document]) -> list[list[Document]]:
        """Best fit, longest first; while too much is padding, more and more of the emptiest packs are taken apart.

        Their documents fill the gaps of the other packs, either in pieces as long as a gap, or turn by turn: whichever
        leaves more of them whole. The conversations of the fuller packs stay as they are.
        """
        whole = packs = self._filled(documents, [])
        whole.sort(key=self._room, reverse=True)
        for share in _TAKEN_APART:
            if self._full(packs):
                break
            count = math.ceil(share * len(whole))
            loose, kept = [document for pack in whole[:count] for document in pack], whole[count:]
            turns = [Document(n, n + 1, d.conversation) for d in loose for n in range(d.first, d.last)]
            ways = [
                self._filled(loose, kept, cut=True),
                self._filled([*turns, *(document for pack in kept for document in pack)], []),
            ]
            if not self.packing.max_turns:
                ways = [[_joined(pack) for pack in way] for way in ways]
            packs = min([packs, *ways], key=self._costs)
        return packs

    def _costs(self, packs: list[list[Document]]) -> tuple[int, int]:
        """What is to be least: packs, down to where they are full; then documents, for cut conversations are more."""
        return 0 if self._full(packs) else len(packs), sum(len(pack) for pack in packs)

    def _full(self, packs: list[list[Document]]) -> bool:
        """Whether little enough is padding, or no packing could do with fewer packs."""
        free = sum(self._room(pack) for pack in packs)
        return free <= MOST_PADDING * len(packs) * self.packing.row_length or free < self.packing.row_length

    def _filled(
        self, documents: list[Document], packs: list[list[Document]], *, cut: bool = False
    ) -> list[list[Document]]:
        """`packs` with the documents, the longest first, each in the fullest pack that has room, or else in a new one.

        With `cut`, a document that finds no room fills the largest gap with as many turns as fit, and goes on.
        """
        packs = sorted((list(pack) for pack in packs), key=self._room)
        rooms = [self._room(pack) for pack in packs]  # what is left in each, ascending, beside `packs`
        for document in sorted(documents, key=self.rows_of, reverse=True):
            rest = document
            while rest.first < rest.last:
                piece, place = rest, bisect.bisect_left(rooms, self.rows_of(rest))
                if place == len(packs) and cut and packs:
                    fitting = self._longest(rest, rooms[-1])
                    if fitting.last > fitting.first:
                        piece, place = fitting, place - 1
                found = place < len(packs)
                pack, room = (packs.pop(place), rooms.pop(place)) if found else ([], self.packing.row_length)
                pack.append(piece)
                room -= self.rows_of(piece)
                place = bisect.bisect_left(rooms, room)
                packs.insert(place, pack)
                rooms.insert(place, room)
                rest = rest._replace(first=piece.last)
        return packs

    def _room(self, pack: list[Document]) -> int:
        """Rows that a pack has left."""
        return self.packing.row_length - sum(self.rows_of(document) for document in pack)


def packs_of_process(first: int, *, count: int, at_once: int, rank: int, size: int) -> list[range]:
    """The packs of a step that one process reads: a range for each of its micro-batches.

    The processes take turns in the one order of packs, so that a step reads the same packs however many there are.

    Args:
        first: running number of the step's first pack.
        count: packs of the step, over all processes; a multiple of `at_once * size`.
        at_once: packs of a micro-batch.
        rank: of the process.
        size: number of processes.
    """
    assert count % (at_once * size) == 0, (count, at_once, size)
    starts = range(first + rank * at_once, first + count, size * at_once)
    return [range(start, start + at_once) for start in starts]


def _joined(pack: list[Document]) -> list[Document]:
    """Pieces that follow one another in one conversation become one document again."""
    joined: list[Document] = []
    for document in sorted(pack):
        if joined and joined[-1].last == document.first and joined[-1].conversation == document.conversation:
            joined[-1] = joined[-1]._replace(last=document.last)
        else:
            joined.append(document)
    return joined
