"""Attention of new rows over the caches of some slots on a CPU.

Only the rows that a slot holds are read, and only of the slots that are asked for: nothing is gathered or padded. A
work item is one sequence and one key-value head. The scores of 16 rows are summed at once by a tree that turns 16
vectors into one of their sums; the softmax is in float32. What a row gets depends on its own slot alone.

Shapes: M sequences, N query heads, G key-value heads, T new rows, H head dim, S slots, L rows of a cache.
"""

from __future__ import annotations

import functools
import itertools
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from csm_model.kernels.code import ARGUMENTS, FLOATS, LANES, WORDS, Activation, Code, constant, floats, words
from csm_model.kernels.machine import Machine, compile_kernel, runner, this_machine

_ALONE = 1 << 18
"""Keys and values in reach (M * G * L * H) below which one thread is sooner done than several."""
_HELD = 16
"""Vectors of sums that are held in registers."""
_LEAST, _ZERO = constant("float", "0xFFF0000000000000"), "zeroinitializer"


class AttentionPlan(IntEnum):
    """Words of what the kernel reads. Sequences, heads and rows of q are apart by their own strides, so are out's."""

    Q_SEQUENCE = 0
    """Bytes from one sequence of q to the next, apart from those of `Q_SEQUENCE_ROW`."""
    Q_HEAD = 1
    Q_ROW = 2
    KEYS = 3
    """Address."""
    VALUES = 4
    """Address."""
    SLOT = 5
    """Bytes of keys, and of values, from one slot to the next."""
    GROUP = 6
    """The same from one key-value head to the next."""
    PLACE = 7
    """The same from one row of a cache to the next."""
    SLOTS = 8
    """Address: int64 `[M]`, which slot each sequence is."""
    LENGTHS = 9
    """Address: int64 `[S]`, rows of each slot before the new ones."""
    OUT_SEQUENCE = 10
    """Bytes from one sequence of out to the next, apart from those of `OUT_SEQUENCE_ROW`."""
    OUT_HEAD = 11
    OUT_ROW = 12
    GROUPS = 13
    """G."""
    SCORES = 14
    """Floats that the scores of a query may take: L, rounded up to whole vectors."""
    Q_SEQUENCE_ROW = 15
    """Bytes from one sequence of q to the next for each of its T rows: where sequences lie end to end, T is not known
    when the plan is made."""
    OUT_SEQUENCE_ROW = 16
    """The same of out."""
    MOST = 17
    """L."""


@functools.cache
def attention(head: int, shared: int, activation: Activation, cache: Activation, machine: Machine) -> int:
    """Compiles the kernel for heads of a width, so many queries a key-value head, and the dtypes of rows and caches."""
    return compile_kernel(attention_ir(head, shared, activation, cache), "attention", machine)


def attend_slots(q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """Attention of the new rows of some slots over all that these hold, on a CPU.

    Args:
        q: `[M, N, T, H]` float32 or bfloat16.
        keys: `[S, G, L, H]` float32 or bfloat16; the new rows are there already, after those that were there before.
        values: likewise.
        slots: int64 `[M]`: which of the S each sequence is.
        lengths: int64 `[S]`: rows of each slot before the new ones. A new row sees those and the new ones up to itself.

    Returns:
        `[M, N, T, H]` of the dtype of `q`; as `[M, T, N * H]` it is contiguous.
    """
    sequences, heads, rows, head = q.shape
    groups, most = keys.shape[1], keys.shape[2]
    assert keys.stride() == values.stride() and keys.stride(3) == 1, (keys.stride(), values.stride())
    if q.stride(3) != 1:
        q = q.contiguous()
    out = torch.empty(sequences, rows, heads, head, dtype=q.dtype)
    small = q.element_size()
    plan = words(
        AttentionPlan,
        q_sequence=q.stride(0) * small,
        q_head=q.stride(1) * small,
        q_row=q.stride(2) * small,
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        slot=keys.stride(0) * keys.element_size(),
        group=keys.stride(1) * keys.element_size(),
        place=keys.stride(2) * keys.element_size(),
        slots=slots.data_ptr(),
        lengths=lengths.data_ptr(),
        out_sequence=rows * heads * head * small,
        out_head=head * small,
        out_row=heads * head * small,
        groups=groups,
        scores=most + -most % LANES,
        q_sequence_row=0,
        out_sequence_row=0,
        most=most,
    )
    read = np.array(plan, np.int64)
    kernel = attention(head, heads // groups, _name(q), _name(keys), this_machine())
    parts = 1 if sequences * groups * most * head * rows < _ALONE else torch.get_num_threads()
    runner()(
        0, kernel, read.ctypes.data, q.data_ptr(), 0, out.data_ptr(), rows, sequences * groups, parts
    )  # fmt: skip
    return out.transpose(1, 2)


def _name(x: Tensor) -> Activation:
    assert x.dtype in (torch.float32, torch.bfloat16), x.dtype
    return "bf16" if x.dtype == torch.bfloat16 else "fp32"


def attention_ir(head: int, shared: int, activation: Activation, cache: Activation) -> str:
    """The module of `attention`: items are sequence * G + key-value head; `rows` is T."""
    field = AttentionPlan
    code = Code()
    code.begin(f"void @attention({ARGUMENTS})")
    plan = code.plan(field)
    x, out = code.pointer("%x_"), code.pointer("%out_")
    keys, values, slots, lengths = (
        code.pointer(plan[address]) for address in (field.KEYS, field.VALUES, field.SLOTS, field.LENGTHS)
    )
    scores = code.let(f"alloca float, i64 {code.times(plan[field.SCORES], shared)}, align 64")
    work = _Heads(code, shared, head, cache, stride=plan[field.PLACE], scores=scores, room=plan[field.SCORES])
    apart = [
        code.plus(plan[own], code.times("%rows", plan[each]))
        for own, each in ((field.Q_SEQUENCE, field.Q_SEQUENCE_ROW), (field.OUT_SEQUENCE, field.OUT_SEQUENCE_ROW))
    ]
    with code.loop("%begin", "%end") as item:
        sequence, group = (code.let(f"{how} i64 {item}, {plan[field.GROUPS]}") for how in ("sdiv", "srem"))
        slot = code.load("i64", slots, code.times(sequence, 8), 8)
        held = code.load("i64", lengths, code.times(slot, 8), 8)
        offset = code.plus(code.times(slot, plan[field.SLOT]), code.times(group, plan[field.GROUP]))
        key, value = code.at(keys, offset), code.at(values, offset)
        first = code.times(group, shared)
        mine = code.at(x, code.plus(code.times(sequence, apart[0]), code.times(first, plan[field.Q_HEAD])))
        its = code.at(out, code.plus(code.times(sequence, apart[1]), code.times(first, plan[field.OUT_HEAD])))
        with code.loop("0", "%rows") as row:
            count = code.least(code.plus(code.plus(held, row), 1), plan[field.MOST])
            read = code.at(mine, code.times(row, plan[field.Q_ROW]))
            written = code.at(its, code.times(row, plan[field.OUT_ROW]))
            queries = [code.at(read, code.times(plan[field.Q_HEAD], query)) for query in range(shared)]
            work.score(queries, activation, key, count)
            inverses = [work.soften(query, count) for query in range(shared)]
            step = max(1, _HELD // work.width)
            for begin in range(0, shared, step):
                chosen = range(begin, min(shared, begin + step))
                for (query, part), total in work.weigh(chosen, value, count).items():
                    there = code.at(written, code.times(plan[field.OUT_HEAD], query))
                    code.store_row(
                        code.real("fmul", total, inverses[query]),
                        code.at(there, part * LANES * (4 if activation == "fp32" else 2)),
                        activation,
                        work.lanes(part),
                    )
    code.end()
    return code.module()


class _Heads:
    """The queries that share a key-value head.

    Args:
        stride: bytes from one row of the cache to the next.
        scores: where scores are kept, `room` floats a query.
    """

    def __init__(
        self, code: Code, shared: int, head: int, cache: Activation, *, stride: str, scores: str, room: str
    ) -> None:
        self.code, self.shared, self.head, self.cache = code, shared, head, cache
        self.stride, self.scores, self.room = stride, scores, room
        self.width = -(-head // LANES)
        """Vectors a head."""
        self._queries = code.let(f"alloca [{shared * self.width * LANES} x float], align 64")

    def lanes(self, part: int) -> int:
        """Lanes of a vector that count."""
        return min(LANES, self.head - part * LANES)

    def _row(self, where: str, activation: Activation) -> list[str]:
        size = LANES * (4 if activation == "fp32" else 2)
        return [self.code.load_row(where, part * size, activation, self.lanes(part)) for part in range(self.width)]

    def _blocks(self, count: str) -> str:
        return self.code.let(f"lshr i64 {self.code.plus(count, LANES - 1)}, 4")

    def _place(self, query: int, row: str) -> str:
        code = self.code
        return code.at(self.scores, code.let(f"shl i64 {code.plus(code.times(self.room, query), row)}, 2"))

    def score(self, queries: list[str], activation: Activation, key: str, count: str) -> None:
        """Scores of `count` rows, 16 at a time; those after the last are minus infinity."""
        code = self.code
        for query, where in enumerate(queries):
            for part, vector in enumerate(self._row(where, activation)):
                scaled = code.real("fmul", vector, floats(self.head**-0.5))
                code.store(FLOATS, scaled, code.at(self._queries, (query * self.width + part) * 64), 64)
        last = code.plus(count, -1)
        lanes = "<" + ", ".join(f"i32 {lane}" for lane in range(LANES)) + ">"
        with code.loop("0", self._blocks(count)) as block:
            base = code.let(f"shl i64 {block}, 4")
            places = [code.least(code.plus(base, lane), last) for lane in range(LANES)]
            rows = [code.at(key, code.times(place, self.stride)) for place in places]
            left = code.let(f"trunc i64 {code.let(f'sub i64 {count}, {base}')} to i32")
            there = code.let(f"icmp sgt {WORDS} {code.splat('i32', left)}, {lanes}")
            for query in range(self.shared):
                parts = [
                    code.load(FLOATS, self._queries, (query * self.width + part) * 64, 64) for part in range(self.width)
                ]
                products = []
                for row in rows:
                    vectors = self._row(row, self.cache)
                    total = code.real("fmul", parts[0], vectors[0])
                    for mine, its in zip(parts[1:], vectors[1:], strict=True):
                        total = code.fma(mine, its, total)
                    products.append(total)
                sums = _lane_sums(code, products)
                score = code.let(f"select <16 x i1> {there}, {FLOATS} {sums}, {FLOATS} {_LEAST}")
                code.store(FLOATS, score, self._place(query, base), 64)

    def soften(self, query: int, count: str) -> str:
        """Turns a query's scores into powers of e below their largest; returns 16 times one over their sum."""
        code = self.code
        with code.loop("0", self._blocks(count), {"top": (FLOATS, _LEAST)}) as block:
            score = code.load(FLOATS, self._place(query, code.times(block, LANES)), 0, 64)
            above = code.let(f"fcmp ogt {FLOATS} {score}, {code.carried['top']}")
            code.carry(top=code.let(f"select <16 x i1> {above}, {FLOATS} {score}, {FLOATS} {code.carried['top']}"))
        top = code.let(f"call float @llvm.vector.reduce.fmax.v16f32({FLOATS} {code.carried['top']})")
        most = code.splat("float", top)
        with code.loop("0", self._blocks(count), {"sum": (FLOATS, _ZERO)}) as block:
            where = self._place(query, code.times(block, LANES))
            score = code.load(FLOATS, where, 0, 64)
            power = code.exponential(code.real("fsub", score, most))
            absent = code.let(f"fcmp oeq {FLOATS} {score}, {_LEAST}")
            power = code.let(f"select <16 x i1> {absent}, {FLOATS} {_ZERO}, {FLOATS} {power}")
            code.store(FLOATS, power, where, 64)
            code.carry(sum=code.real("fadd", code.carried["sum"], power))
        total = code.let(f"call float @llvm.vector.reduce.fadd.v16f32(float 0.0, {FLOATS} {code.carried['sum']})")
        return code.splat("float", code.let(f"fdiv float 1.0, {total}"))

    def weigh(self, chosen: range, value: str, count: str) -> dict[tuple[int, int], str]:
        """Sums of the values of all rows, weighted, for some queries."""
        code = self.code
        names = {place: f"{place[0]}_{place[1]}" for place in itertools.product(chosen, range(self.width))}
        with code.loop("0", count, dict.fromkeys(names.values(), (FLOATS, _ZERO))) as row:
            vectors = self._row(code.at(value, code.times(row, self.stride)), self.cache)
            weights = {query: code.splat("float", code.load("float", self._place(query, row))) for query in chosen}
            code.carry(
                **{
                    name: code.fma(weights[query], vectors[part], code.carried[name])
                    for (query, part), name in names.items()
                }
            )
        return {place: code.carried[name] for place, name in names.items()}


def _lane_sums(code: Code, vectors: list[str]) -> str:
    """Sums of 16 vectors: lane i is that of vector i. Each step folds two into one that holds halves of both."""
    half = LANES // 2
    while half:
        order = [(lane & ~half) + (LANES if lane & half else 0) for lane in range(LANES)]
        masks = [", ".join(f"i32 {lane + more}" for lane in order) for more in (0, half)]
        count = len(vectors) // 2
        folded = []
        for a, b in zip(vectors[:count], vectors[count:], strict=True):
            sides = [code.let(f"shufflevector {FLOATS} {a}, {FLOATS} {b}, {WORDS} <{mask}>") for mask in masks]
            folded.append(code.real("fadd", *sides))
        vectors, half = folded, half // 2
    return vectors[0]
