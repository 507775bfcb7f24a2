"""Packing: every turn once an epoch, little padding, one order for everybody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from csm_model.errors import InputError
from csm_model.frames import SAMPLE_RATE, frames_of
from csm_model.training.packing import MOST_PADDING, Lengths, Packing, Packs, left_out, packs_of_process

SIZE = 512


def lengths_of(conversations: int, turns: int, mean: float, *, shard: int = 16, seed: int = 0) -> Lengths:
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(conversations), turns)
    rows = np.clip(rng.gamma(2.0, mean / 2, len(numbers)), 5, SIZE - 1).astype(np.int64)
    shard_ends = np.flatnonzero(np.diff(numbers // shard, append=-1)) + 1
    return Lengths(rows=rows, conversations=numbers, shard_ends=shard_ends)


def turns_in(packs: Packs, epoch: int) -> list[int]:
    return sorted(turn for pack in packs.epoch(epoch) for d in pack for turn in range(d.first, d.last))


@pytest.mark.parametrize("max_turns", [0, 1, 3])
@pytest.mark.parametrize(("turns", "mean"), [(6, 20.0), (6, 60.0), (3, 150.0)])
def test_every_turn_once_and_little_padding(turns: int, mean: float, max_turns: int) -> None:
    lengths = lengths_of(300, turns, mean)
    packs = Packs(lengths, Packing(row_length=SIZE, max_turns=max_turns))
    for epoch in (0, 1):
        assert turns_in(packs, epoch) == list(range(len(lengths.rows)))
        for pack in packs.epoch(epoch):
            assert 0 < sum(packs.rows_of(document) for document in pack) <= SIZE
            for document in pack:
                assert len(set(lengths.conversations[document.first : document.last])) == 1
                assert not max_turns or document.last - document.first <= max_turns
    assert packs.padding(0) <= MOST_PADDING


@pytest.mark.parametrize("seed", range(6))
def test_few_conversations_are_cut_to_fill_gaps(seed: int) -> None:
    """Whole ones leave 2 to 4 % of such rows empty; few need be cut to fill them."""
    lengths = lengths_of(300, 6, 20.0, seed=seed)
    packs = Packs(lengths, Packing(row_length=SIZE))
    assert packs.padding(0) <= MOST_PADDING
    assert sum(d.last - d.first == 6 for pack in packs.epoch(0) for d in pack) > 0.9 * 300


@pytest.mark.parametrize("row_length", [1536, 2048])
def test_the_demo_corpus_has_little_padding(row_length: int) -> None:
    """Its own conversations, five times over (letters for text ids); `benchmarks/packing.py` prints the figures."""
    lines = (Path(__file__).parents[2] / "deploy/demo/corpus/supervisions.jsonl").read_text().splitlines()
    turns = [json.loads(line) for line in lines]
    rows = np.array([len(turn["text"]) + frames_of(round(turn["duration"] * SAMPLE_RATE)) + 1 for turn in turns])
    numbers = np.unique([turn["recording_id"] for turn in turns], return_inverse=True)[1]
    rows, numbers = rows[np.argsort(numbers, kind="stable")], np.sort(numbers)
    numbers = np.concatenate([numbers + time * (numbers.max() + 1) for time in range(5)])
    ends = np.flatnonzero(np.diff(numbers // 16, append=-1)) + 1
    packs = Packs(
        Lengths(rows=np.tile(rows, 5), conversations=numbers, shard_ends=ends), Packing(row_length=row_length)
    )
    assert packs.padding(0) <= MOST_PADDING
    assert packs.padding(1) <= MOST_PADDING


def test_no_conversation_is_cut_that_need_not_be() -> None:
    """One in four rows of a pack: best fit alone leaves next to nothing empty."""
    lengths = lengths_of(1000, 6, 20.0)
    packs = Packs(lengths, Packing(row_length=4 * SIZE, shuffle_shards=1000))
    assert packs.padding(0) <= MOST_PADDING
    assert sorted(d for pack in packs.epoch(0) for d in pack) == [(6 * n, 6 * n + 6, n) for n in range(1000)]


def test_a_corpus_of_few_packs_is_not_cut_where_that_saves_none() -> None:
    """Two and a half packs are three, whatever is cut."""
    rows = np.full(5, SIZE // 2)
    packs = Packs(
        Lengths(rows=rows, conversations=np.arange(5) // 2, shard_ends=np.array([5])), Packing(row_length=SIZE)
    )
    assert packs.padding(0) == pytest.approx(1 / 6)
    assert sorted(d for pack in packs.epoch(0) for d in pack) == [(0, 2, 0), (2, 4, 1), (4, 5, 2)]


def test_the_end_of_a_conversation_longer_than_a_row_is_a_document_of_its_own() -> None:
    rows = np.full(10, 100)
    packs = Packs(
        Lengths(rows=rows, conversations=np.zeros(10, int), shard_ends=np.array([10])), Packing(row_length=SIZE)
    )
    assert sorted(d for pack in packs.epoch(0) for d in pack) == [(0, 5, 0), (5, 10, 0)]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = lengths_of(100, 5, 40.0)
    one, again = (Packs(lengths, Packing(row_length=SIZE, max_turns=2, seed=7)) for _ in range(2))
    other = Packs(lengths, Packing(row_length=SIZE, max_turns=2, seed=8))
    numbers = range(2 * one.count(0))
    assert [one[n] for n in numbers] == [again[n] for n in reversed(numbers)][::-1]
    assert one.epoch(0) != one.epoch(1)
    assert one.epoch(0) != other.epoch(0)


def test_a_pack_can_be_asked_for_before_those_ahead_of_it() -> None:
    """A run that resumes asks for the pack where it stopped; what was planned before makes no difference."""
    lengths = lengths_of(64, 4, 40.0, shard=4)
    packing = Packing(row_length=SIZE, shuffle_shards=4)
    fresh, used = Packs(lengths, packing), Packs(lengths, packing)
    read = [used[number] for number in range(3 * used.count(0))]
    assert fresh[len(read) - 1] == read[-1]
    assert [fresh[number] for number in range(len(read))] == read
    assert [epoch for epoch, _ in read] == sorted(epoch for epoch, _ in read)
    assert {epoch for epoch, _ in read} >= {0, 1, 2}


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_read_disjoint_parts_of_one_order(size: int, at_once: int) -> None:
    """Whatever their number, each step reads the same packs, each once, and the next step those after them."""
    packs = Packs(lengths_of(64, 4, 40.0), Packing(row_length=SIZE))
    order = [packs[number] for number in range(24)]
    for first in (0, 8, 16):
        read = [
            [
                packs[n]
                for micro in packs_of_process(first, count=8, at_once=at_once, rank=rank, size=size)
                for n in micro
            ]
            for rank in range(size)
        ]
        assert all(len(mine) == 8 // size for mine in read)
        everything = [pack for mine in read for pack in mine]
        assert sorted(map(repr, everything)) == sorted(map(repr, order[first : first + 8]))
        micros = [packs_of_process(first, count=8, at_once=at_once, rank=rank, size=size) for rank in range(size)]
        assert [n for micro in zip(*micros, strict=True) for each in micro for n in each] == list(
            range(first, first + 8)
        )


def test_shards_are_mixed_in_groups_so_that_a_reader_holds_few_open() -> None:
    lengths = lengths_of(64, 4, 40.0, shard=4)
    packs = Packs(lengths, Packing(row_length=SIZE, shuffle_shards=4))
    assert packs.groups == 4
    for at in range(8):
        shards = packs.shards_of(at)
        assert len(shards) == 4
        found = {int(np.searchsorted(lengths.shard_ends, d.first, "right")) for pack in packs.group(at) for d in pack}
        assert found == set(shards)
        assert all(packs.group_of(number) == at for number in range(packs._ends[at], packs._ends[at + 1]))
    assert sorted(shard for at in range(4) for shard in packs.shards_of(at)) == list(range(16))


def test_a_turn_longer_than_a_row_is_left_out_and_counted() -> None:
    lengths = Lengths(rows=np.array([30, SIZE + 1, 40]), conversations=np.array([0, 0, 0]), shard_ends=np.array([3]))
    packs = Packs(lengths, Packing(row_length=SIZE))
    assert turns_in(packs, 0) == [0, 2]
    assert left_out(packs.lengths, packs.packing.row_length).startswith("1 turn (")


def test_nothing_to_pack_is_refused() -> None:
    none = np.array([], dtype=np.int64)
    with pytest.raises(InputError, match="the split is empty"):
        Packs(Lengths(rows=none, conversations=none, shard_ends=none), Packing(row_length=SIZE))
    one = np.array([1])
    with pytest.raises(InputError, match="shortest turn fills 600 rows"):
        Packs(Lengths(rows=600 * one, conversations=one, shard_ends=one), Packing(row_length=SIZE))
