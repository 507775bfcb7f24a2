"""Packing: every turn once an epoch, little padding, one order for everybody."""

from __future__ import annotations

import numpy as np
import pytest

from csm_model.errors import InputError
from csm_model.training.packing import MOST_PADDING, Lengths, Packing, Packs

SIZE = 512


def lengths_of(conversations: int, turns: int, mean: float, *, shard: int = 16) -> Lengths:
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(conversations), turns)
    rows = np.clip(rng.gamma(2.0, mean / 2, len(numbers)), 5, SIZE - 1).astype(np.int64)
    return Lengths(rows=rows, conversations=numbers, shards=numbers // shard)


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


def test_conversations_that_fit_stay_whole_where_that_costs_nothing() -> None:
    lengths = lengths_of(300, 6, 20.0)
    packs = Packs(lengths, Packing(row_length=SIZE))
    whole = sum(1 for pack in packs.epoch(0) for d in pack if d.last - d.first == 6)
    assert whole > 0.9 * 300


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = lengths_of(100, 5, 40.0)
    one, again = (Packs(lengths, Packing(row_length=SIZE, max_turns=2, seed=7)) for _ in range(2))
    other = Packs(lengths, Packing(row_length=SIZE, max_turns=2, seed=8))
    numbers = range(2 * one.count(0))
    assert [one[n] for n in numbers] == [again[n] for n in reversed(numbers)][::-1]
    assert one.epoch(0) != one.epoch(1)
    assert one.epoch(0) != other.epoch(0)


def test_shards_are_mixed_in_groups_so_that_a_reader_holds_few_open() -> None:
    lengths = lengths_of(64, 4, 40.0, shard=4)
    packs = Packs(lengths, Packing(row_length=SIZE, shuffle_shards=4))
    groups = [{int(lengths.shards[d.first]) for d in pack} for pack in packs.epoch(0)]
    open_now: set[int] = set()
    changes = 0
    for group in groups:
        if not group <= open_now:
            if len(open_now | group) > 4:
                open_now, changes = set(), changes + 1
            open_now |= group
    assert changes < 16 / 4, "four groups of four shards, one after another"


def test_a_turn_longer_than_a_row_is_left_out_and_counted() -> None:
    lengths = Lengths(rows=np.array([30, SIZE + 1, 40]), conversations=np.array([0, 0, 0]), shards=np.array([0, 0, 0]))
    packs = Packs(lengths, Packing(row_length=SIZE))
    assert turns_in(packs, 0) == [0, 2]
    assert packs.turns_left_out == 1


def test_nothing_to_pack_is_refused() -> None:
    none = np.array([], dtype=np.int64)
    with pytest.raises(InputError, match="the split is empty"):
        Packs(Lengths(rows=none, conversations=none, shards=none), Packing(row_length=SIZE))
    one = np.array([600])
    with pytest.raises(InputError, match="shortest turn fills 600 rows"):
        Packs(Lengths(rows=one, conversations=one, shards=one), Packing(row_length=SIZE))
