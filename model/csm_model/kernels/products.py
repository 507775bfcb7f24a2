"""Kernels of products of a packed matrix and some rows, as LLVM IR.

One generator makes all kinds. A vector holds one word (32 bits) of 16 output channels: one float, a pair of bfloat16,
four int8 or eight int4. The same word of a row of `x` is broadcast against it, so that sums never cross lanes. Two
vectors (32 channels) and up to eight rows are in hand at a time, each pair with its own sum.

The order of a row's sums depends on nothing but the kind and the machine: not on the number of rows, nor on a row's
place among them. So a row comes out bitwise the same alone and in any company.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from csm_model.kernels.code import (
    ARGUMENTS,
    FLOATS,
    LANES,
    MAGIC,
    MAGIC_BITS,
    WORDS,
    Activation,
    Code,
    constant,
    floats,
    hexadecimal,
)
from csm_model.kernels.machine import Machine, compile_kernel

Kind = Literal["fp32", "bf16", "int8", "int4"]
TILES = 2
CHANNELS = LANES * TILES
"""Output channels that are summed together; their number is padded to a multiple."""
GROUP = 64
"""Inputs that share a scale: activations of int8 and int4, weights of int4."""
UNROLL = 4
"""Words of float kinds in one turn of the loop."""
AHEAD = 2048
"""Bytes by which weights are fetched before they are needed."""
_STEP_BYTES: dict[Kind, int] = {
    "fp32": UNROLL * CHANNELS * 4,
    "bf16": UNROLL * CHANNELS * 4,
    "int8": GROUP * CHANNELS,
    "int4": GROUP // 2 * CHANNELS + 2 * CHANNELS,
}
"""Weights of 32 channels in one turn of the loop."""
_DOT_BFLOAT16 = "declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)\n"
_DOT_INT8 = "declare <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32>, <16 x i32>, <16 x i32>)\n"


class ProductPlan(IntEnum):
    """Words of what `product` and `prepare` read."""

    WEIGHTS = 0
    """Address of the weights."""
    SCALES = 1
    """Address of the channels' scales."""
    STEPS = 2
    """Steps along the inputs: `UNROLL` words, or a group."""
    STRIDE = 3
    """Bytes from one row of x to the next, as `product` reads it."""
    OUT = 4
    """Bytes from one row of out to the next."""
    GIVEN = 5
    """Bytes from one row of x to the next, as the layer gets it: what `prepare` reads."""
    INTEGERS = 6
    """Bytes of the integers of a row, after which stand its groups' scales and starts."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """Addresses of a compiled kind."""

    prepare: int
    """Turns rows of activations into integers, their scales and their sums; 0 where they are read as they are."""
    kernel: int


@functools.cache
def product(kind: Kind, activation: Activation, machine: Machine) -> Product:
    """Compiles the kernels of a kind of weights for activations of a dtype."""
    kernel = compile_kernel(product_ir(kind, activation, machine), "product", machine)
    whole = kind in ("int8", "int4")
    offset = 128 if kind == "int8" else 8
    prepare = compile_kernel(prepare_ir(activation, offset), "prepare", machine) if whole else 0
    return Product(prepare=prepare, kernel=kernel)


class Sums:
    """How words of weights and of activations are multiplied and added."""

    def __init__(self, code: Code, kind: Kind, machine: Machine) -> None:
        self.code, self.kind, self.machine = code, kind, machine

    def weights(self, word: str) -> list[str]:
        """A vector of words as the operands of products."""
        code = self.code
        if self.kind == "fp32":
            return [code.of_bits(word)]
        if self.kind == "bf16":
            return [word] if self.machine.dot_bfloat16 else self._halves(word)
        if self.machine.dot_int8:
            return [word]
        return [self._byte(word, place) for place in range(4)]

    def activations(self, where: str, offset: int) -> list[str]:
        """A word of one row as operands."""
        code = self.code
        if self.kind == "fp32":
            return [code.splat("float", code.load("float", where, offset))]
        word = code.load("i32", where, offset)
        if self.kind == "bf16":
            return [code.splat("i32", word)] if self.machine.dot_bfloat16 else self._halves(code.splat("i32", word))
        if self.machine.dot_int8:
            return [code.splat("i32", word)]
        up = [code.let(f"shl i32 {word}, {24 - 8 * place}") for place in range(4)]
        return [code.splat("i32", code.let(f"ashr i32 {value}, 24")) for value in up]

    def add(self, total: str, weights: list[str], row: list[str]) -> str:
        """`total` and the products."""
        code = self.code
        if self.kind in ("fp32", "bf16"):
            if self.kind == "bf16" and self.machine.dot_bfloat16:
                pairs = [code.let(f"bitcast {WORDS} {word} to <32 x bfloat>") for word in (*row, *weights)]
                return code.let(
                    f"call {FLOATS} @llvm.x86.avx512bf16.dpbf16ps.512({FLOATS} {total}, <32 x bfloat> {pairs[0]}, "
                    f"<32 x bfloat> {pairs[1]})"
                )
            for weight, x in zip(weights, row, strict=True):
                total = code.fma(weight, x, total)
            return total
        if self.machine.dot_int8:
            return code.let(
                f"call {WORDS} @llvm.x86.avx512.vpdpbusd.512({WORDS} {total}, {WORDS} {weights[0]}, {WORDS} {row[0]})"
            )
        for weight, x in zip(weights, row, strict=True):
            total = code.let(f"add {WORDS} {total}, {code.let(f'mul {WORDS} {weight}, {x}')}")
        return total

    def _halves(self, word: str) -> list[str]:
        """A bfloat16 is the upper half of a float32."""
        code = self.code
        low, high = code.whole("shl", word, 16), code.whole("and", word, -65536)
        return [code.of_bits(low), code.of_bits(high)]

    def _byte(self, word: str, place: int) -> str:
        return self.code.whole("and", self.code.whole("lshr", word, 8 * place), 255)


Places = list[tuple[int, int]]
Held = dict[tuple[int, int], str]


def _block(code: Code, sums: Sums, activation: Activation, rows: int) -> None:
    """A function for `rows` rows and 32 channels."""
    places = list(itertools.product(range(rows), range(TILES)))
    code.begin(
        f"internal void @block{rows}(ptr %w, ptr %x, ptr %out, i64 %steps, i64 %stride, i64 %outs, ptr %scales, "
        "i64 %tail) alwaysinline"
    )
    xs = [code.at("%x", code.times("%stride", row)) for row in range(rows)]
    names = {(row, tile): f"{row}_{tile}" for row, tile in places}
    with code.loop("0", "%steps", {names[place]: (FLOATS, "zeroinitializer") for place in places}) as step:
        held = {place: code.carried[names[place]] for place in places}
        if sums.kind in ("fp32", "bf16"):
            held = _float_step(code, sums, places, held, xs, step)
        else:
            held = _group_step(code, sums, places, held, xs, step)
        code.carry(**{names[place]: held[place] for place in places})
    outs = [code.at("%out", code.times("%outs", row)) for row in range(rows)]
    scales = [code.load(FLOATS, "%scales", 64 * tile) for tile in range(TILES)] if sums.kind == "int8" else []
    for row, tile in places:
        value = code.carried[names[row, tile]]
        if scales:
            value = code.real("fmul", value, scales[tile])
        code.store_row(value, code.at(outs[row], tile * LANES * (4 if activation == "fp32" else 2)), activation)
    code.end()


def _prefetch(code: Code, where: str, offset: int) -> None:
    code.do(f"call void @llvm.prefetch.p0(ptr {code.at(where, AHEAD + offset)}, i32 0, i32 3, i32 1)")


def _float_step(code: Code, sums: Sums, places: Places, held: Held, xs: list[str], step: str) -> Held:
    """`UNROLL` words."""
    weights = code.at("%w", code.times(step, UNROLL * TILES * 64))
    rows = [code.at(x, code.times(step, UNROLL * 4)) for x in xs]
    for word in range(UNROLL):
        for tile in range(TILES):
            _prefetch(code, weights, (word * TILES + tile) * 64)
        vectors = [sums.weights(code.load(WORDS, weights, (word * TILES + tile) * 64, 64)) for tile in range(TILES)]
        operands = [sums.activations(row, 4 * word) for row in rows]
        held = {(row, tile): sums.add(held[row, tile], vectors[tile], operands[row]) for row, tile in places}
    return held


def _group_step(code: Code, sums: Sums, places: Places, held: Held, xs: list[str], step: str) -> Held:
    """One group: its integers, then their scale."""
    small = sums.kind == "int4"
    words = GROUP // 8 if small else GROUP // 4  # vectors of a tile
    weights = code.at("%w", code.times(step, _STEP_BYTES[sums.kind]))
    rows = [code.at(x, code.times(step, GROUP)) for x in xs]
    tails = [code.at(code.at(x, "%tail"), code.times(step, 8)) for x in xs]
    # Weights are stored as w + offset, without sign, as the instructions want them: a sum begins at -offset times the
    # sum of the row's integers, which `prepare` has worked out.
    starts = [code.splat("i32", code.load("i32", tail, 4)) for tail in tails]
    names = {(row, tile): f"whole{row}_{tile}" for row, tile in places}
    first = {names[row, tile]: (WORDS, starts[row]) for row, tile in places}
    # A loop, though a short one: unrolled, the compiler gathers what is to be fetched at the beginning of the group.
    with code.loop("0", str(words // UNROLL), first) as turn:
        some = code.at(weights, code.times(turn, UNROLL * TILES * 64))
        mine = [code.at(row, code.times(turn, UNROLL * 4)) for row in rows]
        totals = {place: code.carried[names[place]] for place in places}
        for word in range(UNROLL):
            for tile in range(TILES):
                _prefetch(code, some, (word * TILES + tile) * 64)
            vectors = [code.load(WORDS, some, (word * TILES + tile) * 64, 64) for tile in range(TILES)]
            parts = [(vectors, word)]
            if small:
                low = [code.whole("and", vector, 0x0F0F0F0F) for vector in vectors]
                high = [code.whole("and", code.whole("lshr", vector, 4), 0x0F0F0F0F) for vector in vectors]
                parts = [(low, word), (high, word + words)]
            for part, place in parts:
                operands = [sums.activations(row, 4 * place) for row in mine]
                ready = [sums.weights(vector) for vector in part]
                totals = {(row, tile): sums.add(totals[row, tile], ready[tile], operands[row]) for row, tile in places}
        code.carry(**{names[place]: totals[place] for place in places})
    totals = {place: code.carried[names[place]] for place in places}
    scales = [code.splat("float", code.load("float", tail)) for tail in tails]
    end = words * TILES * 64
    channel = [code.load_row(weights, end + 2 * LANES * tile, "bf16") for tile in range(TILES)] if small else []
    after = {}
    for row, tile in places:
        scale = code.real("fmul", scales[row], channel[tile]) if small else scales[row]
        whole = code.let(f"sitofp {WORDS} {totals[row, tile]} to {FLOATS}")
        after[row, tile] = code.fma(whole, scale, held[row, tile])
    return after


def product_ir(kind: Kind, activation: Activation, machine: Machine) -> str:
    """The module of `product`: channels `32 * begin` to `32 * end` of all rows."""
    most = 8 if machine.wide else 2  # rows whose sums, two or four registers each, are held with their operands
    code = Code()
    for count in range(1, most + 1):
        _block(code, Sums(code, kind, machine), activation, count)
    code.begin(f"void @product({ARGUMENTS})")
    plan = code.plan(ProductPlan)
    steps, stride, outs, tail = (
        plan[field] for field in (ProductPlan.STEPS, ProductPlan.STRIDE, ProductPlan.OUT, ProductPlan.INTEGERS)
    )
    x, out, base, scale = (
        code.pointer(value) for value in ("%x_", "%out_", plan[ProductPlan.WEIGHTS], plan[ProductPlan.SCALES])
    )
    size = code.times(steps, _STEP_BYTES[kind])
    whole, left = code.let(f"sdiv i64 %rows, {most}"), code.let(f"srem i64 %rows, {most}")
    with code.loop("%begin", "%end") as item:
        here = code.at(base, code.times(item, size))
        target = code.at(out, code.times(item, CHANNELS * (4 if activation == "fp32" else 2)))
        scaled = code.at(scale, code.times(item, CHANNELS * 4))

        def call(count: int, row: str) -> None:
            rows, there = code.at(x, code.times(row, stride)), code.at(target, code.times(row, outs))
            code.do(
                f"call void @block{count}(ptr {here}, ptr {rows}, ptr {there}, i64 {steps}, i64 {stride}, i64 {outs}, "
                f"ptr {scaled}, i64 {tail})"
            )

        with code.loop("0", whole) as block:
            call(most, code.times(block, most))
        cases = " ".join(f"i64 {count}, label %rest{count}" for count in range(1, most))
        code.do(f"switch i64 {left}, label %over [ {cases} ]")
        for count in range(1, most):
            code.label(f"rest{count}")
            call(count, code.times(whole, most))
            code.do("br label %over")
        code.label("over")
    code.end()
    return code.module(_DOT_BFLOAT16 if machine.dot_bfloat16 else "", _DOT_INT8 if machine.dot_int8 else "")


def prepare_ir(activation: Activation, offset: int) -> str:
    """The module of `prepare`: rows to integers, group by group.

    A row becomes its integers, then of each group its scale (float32) and `-offset` times the sum of its integers
    (int32).
    """
    code = Code()
    width = 4 if activation == "fp32" else 2
    code.begin(f"void @prepare({ARGUMENTS})")
    plan = code.plan(ProductPlan)
    groups, stride, given, tail = (
        plan[field] for field in (ProductPlan.STEPS, ProductPlan.STRIDE, ProductPlan.GIVEN, ProductPlan.INTEGERS)
    )
    x, out = code.pointer("%x_"), code.pointer("%out_")
    with code.loop("0", "%rows") as row:
        source, target = code.at(x, code.times(row, given)), code.at(out, code.times(row, stride))
        tails = code.at(target, tail)
        with code.loop("0", groups) as group:
            here, there = code.at(source, code.times(group, GROUP * width)), code.at(target, code.times(group, GROUP))
            values = [code.load_row(here, part * LANES * width, activation) for part in range(GROUP // LANES)]
            scale, start = _integers(code, values, there, offset)
            note = code.at(tails, code.times(group, 8))
            code.store("float", scale, note)
            code.store("i32", start, code.at(note, 4))
    code.end()
    return code.module()


def _integers(code: Code, values: list[str], there: str, offset: int) -> tuple[str, str]:
    """Stores a group's integers; returns its scale, and what its sums begin with."""
    # The bits of floats without sign are ordered as they are, and NaN is above all: what is not finite stays visible.
    sizes = [code.whole("and", code.bits(value), 0x7FFFFFFF) for value in values]
    most = functools.reduce(lambda a, b: code.let(f"call {WORDS} @llvm.umax.v16i32({WORDS} {a}, {WORDS} {b})"), sizes)
    top = code.let(f"bitcast i32 {code.let(f'call i32 @llvm.vector.reduce.umax.v16i32({WORDS} {most})')} to float")
    zero = code.let(f"fcmp oeq float {top}, 0.0")
    inverse = code.let(f"select i1 {zero}, float 0.0, float {code.let(f'fdiv float 1.27e2, {top}')}")
    factor, total = code.splat("float", inverse), constant("i32", 0)
    for part, value in enumerate(values):
        # Numbers around MAGIC are 1 apart: the addition rounds, and the integer is the sum's bits above MAGIC's.
        up = code.real("fadd", code.real("fmul", value, factor), floats(MAGIC))
        low = code.whole("sub", code.bits(up), MAGIC_BITS)
        code.store("<16 x i8>", code.let(f"trunc {WORDS} {low} to <16 x i8>"), code.at(there, part * LANES), 1)
        total = code.let(f"add {WORDS} {total}, {low}")
    sum_ = code.let(f"call i32 @llvm.vector.reduce.add.v16i32({WORDS} {total})")
    return code.let(f"fmul float {top}, {hexadecimal(1 / 127)}"), code.let(f"mul i32 {sum_}, {-offset}")
