"""Kernels of products of a packed matrix and some rows, as LLVM IR.

One generator makes all kinds. A vector holds one word (32 bits) of 16 output channels: one float, a pair of bfloat16,
four int8 or eight int4. The same word of a row of `x` is broadcast against it, so that sums never cross lanes. Two
vectors (32 channels) and up to eight rows are in hand at a time, each pair with its own sum.

The order of a row's sums depends on nothing but the kind and the machine: not on the number of rows, nor on a row's
place among them. So a row comes out bitwise the same alone and in any company.

What a kernel reads (`plan`, int64):

| 0 | address of the weights | 1 | address of the channels' scales | 2 | steps along the inputs: words, or groups |
| 3 | bytes from one row of x to the next, as the kernel reads it | 4 | bytes of out a row |
| 5 | bytes of x a row, as the layer gets it | 6 | bytes of the integers of a row of x |
"""

from __future__ import annotations

import functools
import itertools
import struct
from dataclasses import dataclass
from typing import Literal

from csm_model.inference.kernels.machine import Machine, compile_kernel

Kind = Literal["fp32", "bf16", "int8", "int4"]
Activation = Literal["fp32", "bf16"]
LANES, TILES = 16, 2
CHANNELS = LANES * TILES
"""Output channels that are summed together; their number is padded to a multiple."""
GROUP = 64
"""Inputs that share a scale: activations of int8 and int4, weights of int4."""
UNROLL = 4
"""Words of float kinds in one turn of the loop."""
AHEAD = 1024
"""Bytes by which weights are fetched before they are needed."""

_F, _I = "<16 x float>", "<16 x i32>"
_MAGIC = 1.5 * 2**23


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


class Code:
    """Lines of IR with names that never repeat."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._count = itertools.count()

    def name(self) -> str:
        """A value that has no name yet."""
        return f"%v{next(self._count)}"

    def do(self, line: str) -> None:
        """A line without a value."""
        self.lines.append(f"  {line}")

    def let(self, line: str) -> str:
        """A line with a value; returns its name."""
        name = self.name()
        self.do(f"{name} = {line}")
        return name

    def label(self, name: str) -> None:
        """Begins a block."""
        self.lines.append(f"{name}:")

    def at(self, base: str, offset: str | int) -> str:
        """The address some bytes further."""
        return self.let(f"getelementptr i8, ptr {base}, i64 {offset}")

    def load(self, kind: str, base: str, offset: str | int = 0, align: int = 4) -> str:
        """What lies there."""
        return self.let(f"load {kind}, ptr {self.at(base, offset)}, align {align}")

    def splat(self, kind: str, value: str) -> str:
        """16 times the value."""
        one = self.let(f"insertelement <16 x {kind}> poison, {kind} {value}, i32 0")
        return self.let(f"shufflevector <16 x {kind}> {one}, <16 x {kind}> poison, {_I} zeroinitializer")

    def whole(self, operation: str, value: str, number: int) -> str:
        """An operation of 16 int32 and a constant."""
        return self.let(f"{operation} {_I} {value}, {constant('i32', number)}")

    def argument(self, place: int) -> str:
        """A word of the plan."""
        return self.load("i64", "%plan", 8 * place, 8)


def hexadecimal(value: float) -> str:
    """A float32 as LLVM writes it: the bits of the double that has its value."""
    (single,) = struct.unpack("f", struct.pack("f", value))
    return f"0x{struct.unpack('Q', struct.pack('d', single))[0]:016X}"


def constant(kind: str, value: object) -> str:
    """16 times a constant."""
    return "<" + ", ".join([f"{kind} {value}"] * LANES) + ">"


HEADER = """
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
declare <16 x i32> @llvm.umax.v16i32(<16 x i32>, <16 x i32>)
declare i32 @llvm.vector.reduce.umax.v16i32(<16 x i32>)
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""
DOT_BFLOAT16 = "declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)\n"
DOT_INT8 = "declare <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32>, <16 x i32>, <16 x i32>)\n"
ATTRIBUTES = 'attributes #0 = { nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" }\n'
ARGUMENTS = "i64 %plan_, i64 %x_, i64 %out_, i64 %rows, i64 %begin, i64 %end"


def store_row(code: Code, value: str, where: str, activation: Activation) -> None:
    """Stores 16 floats, rounded to nearest even where bfloat16 is asked for."""
    if activation == "fp32":
        code.do(f"store {_F} {value}, ptr {where}, align 4")
        return
    bits = code.let(f"bitcast {_F} {value} to {_I}")
    odd = code.whole("and", code.whole("lshr", bits, 16), 1)
    high = code.whole("lshr", code.whole("add", code.let(f"add {_I} {bits}, {odd}"), 0x7FFF), 16)
    code.do(f"store <16 x i16> {code.let(f'trunc {_I} {high} to <16 x i16>')}, ptr {where}, align 2")


def load_row(code: Code, where: str, offset: str | int, activation: Activation) -> str:
    """Reads 16 activations as floats."""
    if activation == "fp32":
        return code.load(_F, where, offset)
    wide = code.let(f"zext <16 x i16> {code.load('<16 x i16>', where, offset, 2)} to {_I}")
    return code.let(f"bitcast {_I} {code.whole('shl', wide, 16)} to {_F}")


class Sums:
    """How words of weights and of activations are multiplied and added."""

    def __init__(self, code: Code, kind: Kind, machine: Machine) -> None:
        self.code, self.kind, self.machine = code, kind, machine

    def weights(self, word: str) -> list[str]:
        """A vector of words as the operands of products."""
        code = self.code
        if self.kind == "fp32":
            return [code.let(f"bitcast {_I} {word} to {_F}")]
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
                pairs = [code.let(f"bitcast {_I} {word} to <32 x bfloat>") for word in (*row, *weights)]
                return code.let(
                    f"call {_F} @llvm.x86.avx512bf16.dpbf16ps.512({_F} {total}, <32 x bfloat> {pairs[0]}, "
                    f"<32 x bfloat> {pairs[1]})"
                )
            for weight, x in zip(weights, row, strict=True):
                total = fma(code, weight, x, total)
            return total
        if self.machine.dot_int8:
            return code.let(f"call {_I} @llvm.x86.avx512.vpdpbusd.512({_I} {total}, {_I} {weights[0]}, {_I} {row[0]})")
        for weight, x in zip(weights, row, strict=True):
            total = code.let(f"add {_I} {total}, {code.let(f'mul {_I} {weight}, {x}')}")
        return total

    def _halves(self, word: str) -> list[str]:
        """A bfloat16 is the upper half of a float32."""
        code = self.code
        low, high = code.whole("shl", word, 16), code.whole("and", word, -65536)
        return [code.let(f"bitcast {_I} {bits} to {_F}") for bits in (low, high)]

    def _byte(self, word: str, place: int) -> str:
        return self.code.whole("and", self.code.whole("lshr", word, 8 * place), 255)


def fma(code: Code, a: str, b: str, c: str) -> str:
    """`a * b + c`."""
    return code.let(f"call {_F} @llvm.fmuladd.v16f32({_F} {a}, {_F} {b}, {_F} {c})")


def block_ir(kind: Kind, activation: Activation, machine: Machine, rows: int) -> str:
    """A function for `rows` rows and 32 channels."""
    code = Code()
    sums = Sums(code, kind, machine)
    places = list(itertools.product(range(rows), range(TILES)))
    code.lines.append(
        f"define internal void @block{rows}(ptr %w, ptr %x, ptr %out, i64 %steps, i64 %stride, i64 %outs, ptr %scales, "
        "i64 %tail) alwaysinline #0 {"
    )
    code.label("entry")
    xs = [code.at("%x", code.let(f"mul i64 %stride, {row}")) for row in range(rows)]
    code.do("br label %loop")
    code.label("loop")
    step = code.let("phi i64 [ 0, %entry ], [ %next, %loop ]")
    held = {place: code.name() for place in places}
    begin = len(code.lines)
    if kind in ("fp32", "bf16"):
        after = _float_step(code, sums, places, held, xs, step)
    else:
        after = _group_step(code, sums, places, held, xs, step)
    phis = [f"  {held[p]} = phi {_F} [ zeroinitializer, %entry ], [ {after[p]}, %loop ]" for p in places]
    code.lines[begin:begin] = phis
    code.do(f"%next = add nuw i64 {step}, 1")
    code.do("%more = icmp ult i64 %next, %steps")
    code.do("br i1 %more, label %loop, label %done")
    code.label("done")
    outs = [code.at("%out", code.let(f"mul i64 %outs, {row}")) for row in range(rows)]
    scales = [code.load(_F, "%scales", 64 * tile) for tile in range(TILES)] if kind == "int8" else []
    for row, tile in places:
        value = after[row, tile]
        if scales:
            value = code.let(f"fmul {_F} {value}, {scales[tile]}")
        store_row(code, value, code.at(outs[row], tile * LANES * (4 if activation == "fp32" else 2)), activation)
    code.do("ret void")
    code.lines.append("}\n")
    return "\n".join(code.lines)


Places = list[tuple[int, int]]
Held = dict[tuple[int, int], str]


def _prefetch(code: Code, where: str, offset: int) -> None:
    code.do(f"call void @llvm.prefetch.p0(ptr {code.at(where, AHEAD + offset)}, i32 0, i32 3, i32 1)")


def _float_step(code: Code, sums: Sums, places: Places, held: Held, xs: list[str], step: str) -> Held:
    """`UNROLL` words."""
    weights = code.at("%w", code.let(f"mul i64 {step}, {UNROLL * TILES * 64}"))
    rows = [code.at(x, code.let(f"mul i64 {step}, {UNROLL * 4}")) for x in xs]
    for word in range(UNROLL):
        for tile in range(TILES):
            _prefetch(code, weights, (word * TILES + tile) * 64)
        vectors = [sums.weights(code.load(_I, weights, (word * TILES + tile) * 64, 64)) for tile in range(TILES)]
        operands = [sums.activations(row, 4 * word) for row in rows]
        held = {(row, tile): sums.add(held[row, tile], vectors[tile], operands[row]) for row, tile in places}
    return held


def _group_step(code: Code, sums: Sums, places: Places, held: Held, xs: list[str], step: str) -> Held:
    """One group: its integers, then their scale."""
    small = sums.kind == "int4"
    words = GROUP // 8 if small else GROUP // 4  # vectors of a tile
    size = words * TILES * 64 + (64 if small else 0)
    weights = code.at("%w", code.let(f"mul i64 {step}, {size}"))
    rows = [code.at(x, code.let(f"mul i64 {step}, {GROUP}")) for x in xs]
    tails = [code.at(code.at(x, "%tail"), code.let(f"mul i64 {step}, 8")) for x in xs]
    starts = [code.splat("i32", code.load("i32", tail, 4)) for tail in tails]
    totals = {(row, tile): starts[row] for row, tile in places}
    for word in range(words):
        for tile in range(TILES):
            _prefetch(code, weights, (word * TILES + tile) * 64)
        vectors = [code.load(_I, weights, (word * TILES + tile) * 64, 64) for tile in range(TILES)]
        parts = [(vectors, word)]
        if small:
            low = [code.whole("and", vector, 0x0F0F0F0F) for vector in vectors]
            high = [code.whole("and", code.whole("lshr", vector, 4), 0x0F0F0F0F) for vector in vectors]
            parts = [(low, word), (high, word + words)]
        for part, place in parts:
            operands = [sums.activations(row, 4 * place) for row in rows]
            ready = [sums.weights(vector) for vector in part]
            totals = {(row, tile): sums.add(totals[row, tile], ready[tile], operands[row]) for row, tile in places}
    scales = [code.splat("float", code.load("float", tail)) for tail in tails]
    channel = (
        [load_row(code, weights, words * TILES * 64 + 32 * tile, "bf16") for tile in range(TILES)] if small else []
    )
    after = {}
    for row, tile in places:
        scale = code.let(f"fmul {_F} {scales[row]}, {channel[tile]}") if small else scales[row]
        after[row, tile] = fma(code, code.let(f"sitofp {_I} {totals[row, tile]} to {_F}"), scale, held[row, tile])
    return after


def product_ir(kind: Kind, activation: Activation, machine: Machine) -> str:
    """The module of `product`: channels `32 * begin` to `32 * end` of all rows."""
    most = 8 if machine.wide else 2
    blocks = [block_ir(kind, activation, machine, rows) for rows in range(1, most + 1)]
    step = {"fp32": UNROLL * TILES * 64, "bf16": UNROLL * TILES * 64, "int8": GROUP * CHANNELS,
            "int4": GROUP // 2 * CHANNELS + 64}[kind]  # fmt: skip
    width = CHANNELS * (4 if activation == "fp32" else 2)
    code = Code()
    code.lines.append(f"define void @product({ARGUMENTS}) #0 {{")
    code.label("entry")
    code.do("%plan = inttoptr i64 %plan_ to ptr")
    weights, scales, steps, stride, outs = (code.argument(place) for place in range(5))
    tail = code.argument(6)
    x, out, base, scale = (code.let(f"inttoptr i64 {value} to ptr") for value in ("%x_", "%out_", weights, scales))
    size = code.let(f"mul i64 {steps}, {step}")
    code.do("br label %test")
    code.label("test")
    code.do("%item = phi i64 [ %begin, %entry ], [ %item1, %last ]")
    code.do("%some = icmp slt i64 %item, %end")
    code.do("br i1 %some, label %channels, label %over")
    code.label("over")
    code.do("ret void")
    code.label("channels")
    here = code.at(base, code.let(f"mul i64 %item, {size}"))
    target = code.at(out, code.let(f"mul i64 %item, {width}"))
    scaled = code.at(scale, code.let(f"mul i64 %item, {CHANNELS * 4}"))
    code.do("%item1 = add i64 %item, 1")
    code.do("br label %rows_test")
    code.label("rows_test")
    code.do("%row = phi i64 [ 0, %channels ], [ %row1, %full ]")
    xrow = code.at(x, code.let(f"mul i64 %row, {stride}"))
    orow = code.at(target, code.let(f"mul i64 %row, {outs}"))
    code.do("%left = sub i64 %rows, %row")
    code.do(f"%enough = icmp sge i64 %left, {most}")
    code.do("br i1 %enough, label %full, label %rest")
    call = f"(ptr {here}, ptr {xrow}, ptr {orow}, i64 {steps}, i64 {stride}, i64 {outs}, ptr {scaled}, i64 {tail})"
    code.label("full")
    code.do(f"call void @block{most}{call}")
    code.do(f"%row1 = add i64 %row, {most}")
    code.do("br label %rows_test")
    code.label("rest")
    code.do("switch i64 %left, label %last [" + " ".join(f"i64 {n}, label %rest{n}" for n in range(1, most)) + "]")
    for rows in range(1, most):
        code.label(f"rest{rows}")
        code.do(f"call void @block{rows}{call}")
        code.do("br label %last")
    code.label("last")
    code.do("br label %test")
    code.lines.append("}\n")
    header = HEADER + (DOT_BFLOAT16 if machine.dot_bfloat16 else "") + (DOT_INT8 if machine.dot_int8 else "")
    return header + "\n".join(blocks) + "\n".join(code.lines) + ATTRIBUTES


def prepare_ir(activation: Activation, offset: int) -> str:
    """The module of `prepare`: rows to integers, group by group.

    A row becomes its integers, then of each group its scale (float32) and `-offset` times the sum of its integers
    (int32).
    """
    code = Code()
    width = 4 if activation == "fp32" else 2
    code.lines.append(f"define void @prepare({ARGUMENTS}) #0 {{")
    code.label("entry")
    code.do("%plan = inttoptr i64 %plan_ to ptr")
    groups, stride, given, tail = (code.argument(place) for place in (2, 3, 5, 6))
    x, out = (code.let(f"inttoptr i64 {value} to ptr") for value in ("%x_", "%out_"))
    code.do("br label %test")
    code.label("test")
    code.do("%row = phi i64 [ 0, %entry ], [ %row1, %next ]")
    code.do("%row1 = add i64 %row, 1")
    code.do("%some = icmp slt i64 %row, %rows")
    code.do("br i1 %some, label %begin_row, label %over")
    code.label("over")
    code.do("ret void")
    code.label("begin_row")
    source = code.at(x, code.let(f"mul i64 %row, {given}"))
    target = code.at(out, code.let(f"mul i64 %row, {stride}"))
    tails = code.at(target, tail)
    code.do("br label %group")
    code.label("group")
    code.do("%g = phi i64 [ 0, %begin_row ], [ %g1, %group ]")
    code.do("%g1 = add i64 %g, 1")
    here = code.at(source, code.let(f"mul i64 %g, {GROUP * width}"))
    there = code.at(target, code.let(f"mul i64 %g, {GROUP}"))
    note = code.at(tails, code.let("mul i64 %g, 8"))
    count = GROUP // LANES
    values = [load_row(code, here, part * LANES * width, activation) for part in range(count)]
    # The bits of floats without sign are ordered as they are, and NaN is above all: what is not finite stays visible.
    sizes = [code.whole("and", code.let(f"bitcast {_F} {value} to {_I}"), 0x7FFFFFFF) for value in values]
    most = functools.reduce(lambda a, b: code.let(f"call {_I} @llvm.umax.v16i32({_I} {a}, {_I} {b})"), sizes)
    bits = code.let(f"call i32 @llvm.vector.reduce.umax.v16i32({_I} {most})")
    top = code.let(f"bitcast i32 {bits} to float")
    scale = code.let(f"fmul float {top}, {hexadecimal(1 / 127)}")
    zero = code.let(f"fcmp oeq float {top}, 0.0")
    inverse = code.let(f"select i1 {zero}, float 0.0, float {code.let(f'fdiv float 1.27e2, {top}')}")
    factor = code.splat("float", inverse)
    # What is added to 1.5 * 2^23 is rounded to nearest even, and stands in the low bits of the sum.
    rounded, total = [], constant("i32", 0)
    for value in values:
        up = code.let(f"fadd {_F} {code.let(f'fmul {_F} {value}, {factor}')}, {constant('float', hexadecimal(_MAGIC))}")
        low = code.whole("sub", code.let(f"bitcast {_F} {up} to {_I}"), 0x4B400000)
        rounded.append(code.let(f"trunc {_I} {low} to <16 x i8>"))
        total = code.let(f"add {_I} {total}, {low}")
    for part, value in enumerate(rounded):
        code.do(f"store <16 x i8> {value}, ptr {code.at(there, part * LANES)}, align 1")
    whole = code.let(f"call i32 @llvm.vector.reduce.add.v16i32({_I} {total})")
    code.do(f"store float {scale}, ptr {note}, align 4")
    code.do(f"store i32 {code.let(f'mul i32 {whole}, {-offset}')}, ptr {code.at(note, 4)}, align 4")
    code.do(f"%more = icmp slt i64 %g1, {groups}")
    code.do("br i1 %more, label %group, label %next")
    code.label("next")
    code.do("br label %test")
    code.lines.append("}\n")
    return HEADER + "\n".join(code.lines) + ATTRIBUTES
