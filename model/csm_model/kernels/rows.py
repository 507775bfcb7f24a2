"""Kernels of what stands between the products of a transformer: norms, rotary positions, gates.

All work row by row, so that a row comes out the same in any company. Buffers have rows of a multiple of 64 columns;
what is beyond the last column that counts stays 0.
"""

from __future__ import annotations

import functools
from enum import IntEnum

from csm_model.kernels.code import ARGUMENTS, FLOATS, LANES, WORDS, Activation, Code, floats, hexadecimal
from csm_model.kernels.machine import Machine, compile_kernel

_ZERO = "zeroinitializer"


def _size(activation: Activation) -> int:
    return LANES * (4 if activation == "fp32" else 2)


class NormPlan(IntEnum):
    """Words of what `norm` reads."""

    ADDED = 0
    """Address of what is added to x first."""
    WEIGHT = 1
    """Address: float32."""
    X_ROW = 2
    """Bytes from one row of x to the next."""
    ADDED_ROW = 3
    OUT_ROW = 4


@functools.cache
def norm(width: int, eps: float, activation: Activation, machine: Machine, *, add: bool) -> int:
    """Compiles RMSNorm of rows of `width`, a multiple of 16.

    `out = norm(x) * weight`; with `add`, `x` first becomes `x` plus what is added. Items are rows.
    """
    code, size = Code(), _size(activation)
    code.begin(f"void @norm({ARGUMENTS})")
    plan = code.plan(NormPlan)
    x, out, added, weight = (
        code.pointer(value) for value in ("%x_", "%out_", plan[NormPlan.ADDED], plan[NormPlan.WEIGHT])
    )
    parts = str(width // LANES)
    strides = [plan[field] for field in (NormPlan.X_ROW, NormPlan.ADDED_ROW, NormPlan.OUT_ROW)]
    with code.loop("%begin", "%end") as row:
        mine, more, written = (
            code.at(base, code.times(row, stride)) for base, stride in zip((x, added, out), strides, strict=True)
        )
        with code.loop("0", parts, {"sum": (FLOATS, _ZERO)}) as part:
            place = code.times(part, size)
            value = code.load_row(mine, place, activation)
            if add:
                value = code.real("fadd", value, code.load_row(more, place, activation))
                code.store_row(value, code.at(mine, place), activation)
            code.carry(sum=code.fma(value, value, code.carried["sum"]))
        total = code.let(f"call float @llvm.vector.reduce.fadd.v16f32(float 0.0, {FLOATS} {code.carried['sum']})")
        mean = code.let(f"fmul float {total}, {hexadecimal(1 / width)}")
        root = code.let(f"call float @llvm.sqrt.f32(float {code.let(f'fadd float {mean}, {hexadecimal(eps)}')})")
        inverse = code.splat("float", code.let(f"fdiv float 1.0, {root}"))
        with code.loop("0", parts) as part:
            place = code.times(part, size)
            scaled = code.real("fmul", code.load_row(mine, place, activation), inverse)
            factor = code.load(FLOATS, weight, code.times(part, LANES * 4))
            code.store_row(code.real("fmul", scaled, factor), code.at(written, place), activation)
    code.end()
    return compile_kernel(code.module(), "norm", machine)


class GatePlan(IntEnum):
    """Words of what `gate` reads."""

    X_ROW = 0
    """Bytes from one row of x to the next."""
    OUT_ROW = 1
    VECTORS = 2
    """Vectors of a."""
    SECOND = 3
    """Bytes from a to b."""


@functools.cache
def gate(activation: Activation, machine: Machine) -> int:
    """Compiles `out = silu(a) * b`, where a row of x is a, then b. Items are rows."""
    code, size = Code(), _size(activation)
    code.begin(f"void @gate({ARGUMENTS})")
    plan = code.plan(GatePlan)
    x, out = code.pointer("%x_"), code.pointer("%out_")
    with code.loop("%begin", "%end") as row:
        first = code.at(x, code.times(row, plan[GatePlan.X_ROW]))
        written = code.at(out, code.times(row, plan[GatePlan.OUT_ROW]))
        second = code.at(first, plan[GatePlan.SECOND])
        with code.loop("0", plan[GatePlan.VECTORS]) as part:
            place = code.times(part, size)
            a, b = code.load_row(first, place, activation), code.load_row(second, place, activation)
            # Of whichever sign, the power is of a number below 0: silu(a) = a / (1 + e^-a) = a e^a / (1 + e^a).
            away = code.let(f"or {WORDS} {code.bits(a)}, {_SIGN}")
            power = code.exponential(code.of_bits(away))
            positive = code.let(f"fcmp oge {FLOATS} {a}, {_ZERO}")
            above = code.let(f"select <16 x i1> {positive}, {FLOATS} {floats(1.0)}, {FLOATS} {power}")
            share = code.real("fdiv", above, code.real("fadd", power, floats(1.0)))
            code.store_row(code.real("fmul", code.real("fmul", a, share), b), code.at(written, place), activation)
    code.end()
    return compile_kernel(code.module(), "gate", machine)


_SIGN = "<" + ", ".join(["i32 -2147483648"] * LANES) + ">"


class RotationPlan(IntEnum):
    """Words of what `rotation` reads. A row of x is the queries, keys and values of one row."""

    X_ROW = 0
    """Bytes from one row of x to the next."""
    X_KEYS = 1
    """Bytes to a row's keys."""
    X_VALUES = 2
    COS = 3
    """Address: float32 `[positions, H]`."""
    SIN = 4
    """Address, likewise; with the sign of what is added: - + - + ..."""
    KEYS = 5
    """Address of the cache's."""
    VALUES = 6
    SLOT = 7
    """Bytes of the cache's from one slot to the next."""
    GROUP = 8
    """The same from one key-value head to the next."""
    PLACE = 9
    """The same from one row of a cache to the next."""
    SLOTS = 10
    """Address: int64 `[M]`."""
    LENGTHS = 11
    """Address: int64 `[S]`."""
    HEADS = 12
    """N."""
    GROUPS = 13
    """G."""
    LAST = 14
    """The last row that there is room for."""


@functools.cache
def rotation(head: int, activation: Activation, cache: Activation, machine: Machine) -> int:
    """Compiles the rotation of queries in place, and of keys on their way into the caches; values go there as they are.

    `rows` is T; items are rows of all sequences.
    """
    field = RotationPlan
    code = Code()
    code.begin(f"void @rotation({ARGUMENTS})")
    plan = code.plan(field)
    x = code.pointer("%x_")
    cos, sin, keys, values, slots, lengths = (
        code.pointer(plan[address])
        for address in (field.COS, field.SIN, field.KEYS, field.VALUES, field.SLOTS, field.LENGTHS)
    )
    own, kept = head * _size(activation) // LANES, _size(cache)
    swapped = "<" + ", ".join(f"i32 {lane ^ 1}" for lane in range(LANES)) + ">"
    widths = [min(LANES, head - begin) for begin in range(0, head, LANES)]
    with code.loop("%begin", "%end") as item:
        sequence, row = code.let(f"sdiv i64 {item}, %rows"), code.let(f"srem i64 {item}, %rows")
        slot = code.load("i64", slots, code.times(sequence, 8), 8)
        position = code.least(code.plus(code.load("i64", lengths, code.times(slot, 8), 8), row), plan[field.LAST])
        angle = code.times(position, 4 * head)
        turns = [
            tuple(code.load_row(code.at(table, angle), part * LANES * 4, "fp32", lanes) for table in (cos, sin))
            for part, lanes in enumerate(widths)
        ]
        mine = code.at(x, code.times(item, plan[field.X_ROW]))
        place = code.plus(code.times(slot, plan[field.SLOT]), code.times(position, plan[field.PLACE]))

        def turned(where: str, part: int, lanes: int, angles: list[tuple[str, ...]] = turns) -> str:
            value = code.load_row(where, part * _size(activation), activation, lanes)
            other = code.let(f"shufflevector {FLOATS} {value}, {FLOATS} poison, {WORDS} {swapped}")
            cosine, sine = angles[part]
            return code.fma(value, cosine, code.real("fmul", other, sine))

        with code.loop("0", plan[field.HEADS]) as query:
            where = code.at(mine, code.times(query, own))
            for part, lanes in enumerate(widths):
                code.store_row(turned(where, part, lanes), code.at(where, part * _size(activation)), activation, lanes)
        with code.loop("0", plan[field.GROUPS]) as group:
            there = code.plus(place, code.times(group, plan[field.GROUP]))
            key, value = code.at(keys, there), code.at(values, there)
            mine_key, mine_value = (
                code.at(code.at(mine, plan[offset]), code.times(group, own))
                for offset in (field.X_KEYS, field.X_VALUES)
            )
            for part, lanes in enumerate(widths):
                code.store_row(turned(mine_key, part, lanes), code.at(key, part * kept), cache, lanes)
                as_is = code.load_row(mine_value, part * _size(activation), activation, lanes)
                code.store_row(as_is, code.at(value, part * kept), cache, lanes)
    code.end()
    return compile_kernel(code.module(), "rotation", machine)


class CountingPlan(IntEnum):
    """Words of what `counting` reads."""

    SLOTS = 0
    """Address: int64 `[M]`."""
    LENGTHS = 1
    """Address: int64 `[S]`."""


@functools.cache
def counting(machine: Machine) -> int:
    """Compiles `lengths[slots[item]] += rows`."""
    code = Code()
    code.begin(f"void @counting({ARGUMENTS})")
    plan = code.plan(CountingPlan)
    slots, lengths = (code.pointer(plan[address]) for address in (CountingPlan.SLOTS, CountingPlan.LENGTHS))
    with code.loop("%begin", "%end") as item:
        slot = code.load("i64", slots, code.times(item, 8), 8)
        where = code.at(lengths, code.times(slot, 8))
        code.store("i64", code.plus(code.load("i64", where, 0, 8), "%rows"), where, 8)
    code.end()
    return compile_kernel(code.module(), "counting", machine)
