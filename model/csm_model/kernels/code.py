"""LLVM IR as text: what all kernels are written with. Vectors have 16 lanes of 32 bits, whatever the machine has."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Literal, TypeVar

Activation = Literal["fp32", "bf16"]
"""Dtype of rows that go in and out."""
Field = TypeVar("Field", bound=IntEnum)
"""A word of a kernel's plan: an int64 at a place that its writer and the kernel both know by name."""
LANES = 16
FLOATS, WORDS = "<16 x float>", "<16 x i32>"
MAGIC = 1.5 * 2**23
"""What is added to it is rounded to the nearest even integer, and stands in the low bits of the sum."""
MAGIC_BITS = 0x4B400000
ARGUMENTS = "i64 %plan_, i64 %x_, i64 %out_, i64 %rows, i64 %begin, i64 %end"
"""Of every kernel."""
_HEADER = """
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
declare <16 x i32> @llvm.umax.v16i32(<16 x i32>, <16 x i32>)
declare i32 @llvm.vector.reduce.umax.v16i32(<16 x i32>)
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
declare float @llvm.vector.reduce.fmax.v16f32(<16 x float>)
declare float @llvm.vector.reduce.fadd.v16f32(float, <16 x float>)
declare i64 @llvm.smin.i64(i64, i64)
declare float @llvm.sqrt.f32(float)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""
_ATTRIBUTES = 'attributes #0 = { nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" }\n'


def hexadecimal(value: float) -> str:
    """A float32 as LLVM writes it: the bits of the double that has its value."""
    (single,) = struct.unpack("f", struct.pack("f", value))
    return f"0x{struct.unpack('Q', struct.pack('d', single))[0]:016X}"


def constant(kind: str, value: object) -> str:
    """16 times a constant."""
    return "<" + ", ".join([f"{kind} {value}"] * LANES) + ">"


def floats(value: float) -> str:
    """16 times a float."""
    return constant("float", hexadecimal(value))


def words(fields: type[IntEnum], **values: int) -> list[int]:
    """A plan: one value for each field, by its name in lower case."""
    named = {field.name.lower(): field for field in fields}
    assert values.keys() == named.keys(), values.keys() ^ named.keys()
    return [values[name] for name, _ in sorted(named.items(), key=lambda item: item[1])]


class Code:
    """Lines of IR with names that never repeat."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.carried: dict[str, str] = {}
        """Values that the loop at hand carries from turn to turn; after it, what they came to."""
        self._count = itertools.count()
        self._block = ""
        self._next: dict[str, str] = {}

    def module(self, *declarations: str) -> str:
        """The whole text."""
        return _HEADER + "".join(declarations) + "\n".join(self.lines) + "\n" + _ATTRIBUTES

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

    def begin(self, head: str) -> None:
        """Begins a function and its first block."""
        self.lines.append(f"define {head} #0 {{")
        self.label("entry")

    def end(self) -> None:
        """Ends a function."""
        self.do("ret void")
        self.lines.append("}\n")

    def label(self, name: str) -> None:
        """Begins a block."""
        self.lines.append(f"{name}:")
        self._block = name

    @contextlib.contextmanager
    def loop(self, begin: str, end: str, starts: Mapping[str, tuple[str, str]] | None = None) -> Iterator[str]:
        """Turns from `begin` to before `end`; gives the number of the turn.

        `starts` names the values that are carried, each with its type and its start; `carry` sets them for the turn
        that follows.
        """
        starts = starts or {}
        name = f"loop{next(self._count)}"
        before, outer = self._block, (self.carried, self._next)
        self.do(f"br label %{name}")
        self.label(name)
        place, turn = len(self.lines), self.name()
        held = {key: self.name() for key in starts}
        more = self.let(f"icmp slt i64 {turn}, {end}")
        self.do(f"br i1 {more}, label %{name}_turn, label %{name}_after")
        self.label(f"{name}_turn")
        self.carried, self._next = {**self.carried, **held}, {}
        yield turn
        following, last = self.let(f"add nsw i64 {turn}, 1"), self._block
        self.do(f"br label %{name}")
        phis = [f"  {turn} = phi i64 [ {begin}, %{before} ], [ {following}, %{last} ]"]
        for key, (kind, start) in starts.items():
            phis.append(f"  {held[key]} = phi {kind} [ {start}, %{before} ], [ {self._next[key]}, %{last} ]")
        self.lines[place:place] = phis
        self.label(f"{name}_after")
        self.carried, self._next = {**outer[0], **held}, outer[1]

    def carry(self, **values: str) -> None:
        """Sets what the loop at hand carries into the next turn."""
        self._next.update(values)

    def argument(self, field: IntEnum) -> str:
        """A word of the plan at `%plan`."""
        return self.load("i64", "%plan", 8 * field, 8)

    def plan(self, fields: type[Field]) -> dict[Field, str]:
        """All words of the plan that the kernel was given."""
        self.do("%plan = inttoptr i64 %plan_ to ptr")
        return {field: self.argument(field) for field in fields}

    def pointer(self, address: str) -> str:
        """An address as a pointer."""
        return self.let(f"inttoptr i64 {address} to ptr")

    def times(self, a: str, b: str | int) -> str:
        """Product of two i64."""
        return self.let(f"mul i64 {a}, {b}")

    def plus(self, a: str, b: str | int) -> str:
        """Sum of two i64."""
        return self.let(f"add i64 {a}, {b}")

    def least(self, a: str, b: str) -> str:
        """The lesser of two i64."""
        return self.let(f"call i64 @llvm.smin.i64(i64 {a}, i64 {b})")

    def at(self, base: str, offset: str | int) -> str:
        """The address some bytes further."""
        return self.let(f"getelementptr i8, ptr {base}, i64 {offset}")

    def load(self, kind: str, base: str, offset: str | int = 0, align: int = 4) -> str:
        """What lies there."""
        return self.let(f"load {kind}, ptr {self.at(base, offset)}, align {align}")

    def store(self, kind: str, value: str, where: str, align: int = 4) -> None:
        """Puts it there."""
        self.do(f"store {kind} {value}, ptr {where}, align {align}")

    def splat(self, kind: str, value: str) -> str:
        """16 times the value."""
        one = self.let(f"insertelement <16 x {kind}> poison, {kind} {value}, i32 0")
        return self.let(f"shufflevector <16 x {kind}> {one}, <16 x {kind}> poison, {WORDS} zeroinitializer")

    def whole(self, operation: str, value: str, number: int) -> str:
        """An operation of 16 int32 and a constant."""
        return self.let(f"{operation} {WORDS} {value}, {constant('i32', number)}")

    def real(self, operation: str, a: str, b: str) -> str:
        """An operation of twice 16 floats."""
        return self.let(f"{operation} {FLOATS} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        """`a * b + c`."""
        return self.let(f"call {FLOATS} @llvm.fmuladd.v16f32({FLOATS} {a}, {FLOATS} {b}, {FLOATS} {c})")

    def bits(self, value: str) -> str:
        """16 floats as words."""
        return self.let(f"bitcast {FLOATS} {value} to {WORDS}")

    def of_bits(self, value: str) -> str:
        """16 words as floats."""
        return self.let(f"bitcast {WORDS} {value} to {FLOATS}")

    def load_row(self, where: str, offset: str | int, activation: Activation, lanes: int = LANES) -> str:
        """Reads `lanes` floats of a dtype; the other lanes are 0."""
        element = "float" if activation == "fp32" else "i16"
        row = self.load(f"<{lanes} x {element}>", where, offset, 4 if activation == "fp32" else 2)
        if lanes < LANES:
            order = ", ".join(f"i32 {lane if lane < lanes else lanes}" for lane in range(LANES))
            kind = f"<{lanes} x {element}>"
            row = self.let(f"shufflevector {kind} {row}, {kind} zeroinitializer, {WORDS} <{order}>")
        if activation == "fp32":
            return row
        return self.of_bits(self.whole("shl", self.let(f"zext <16 x i16> {row} to {WORDS}"), 16))

    def store_row(self, value: str, where: str, activation: Activation, lanes: int = LANES) -> None:
        """Stores `lanes` floats, rounded to nearest even where bfloat16 is asked for."""
        element, align = ("float", 4) if activation == "fp32" else ("i16", 2)
        if activation == "bf16":
            bits = self.bits(value)
            odd = self.whole("and", self.whole("lshr", bits, 16), 1)
            high = self.whole("lshr", self.whole("add", self.let(f"add {WORDS} {bits}, {odd}"), 0x7FFF), 16)
            value = self.let(f"trunc {WORDS} {high} to <16 x i16>")
        kind = f"<{lanes} x {element}>"
        if lanes < LANES:
            order = ", ".join(f"i32 {lane}" for lane in range(lanes))
            wide = f"<16 x {element}>"
            value = self.let(f"shufflevector {wide} {value}, {wide} poison, <{lanes} x i32> <{order}>")
        self.store(kind, value, where, align)

    def exponential(self, x: str) -> str:
        """e to the power of 16 floats of at most 88, to within 2e-7 of it; below -87 as at -87."""
        low = self.let(f"fcmp olt {FLOATS} {x}, {floats(-87.0)}")
        x = self.let(f"select <16 x i1> {low}, {FLOATS} {floats(-87.0)}, {FLOATS} {x}")
        up = self.fma(x, floats(1.4426950408889634), floats(MAGIC))
        turns = self.real("fsub", up, floats(MAGIC))
        rest = self.fma(turns, floats(-0.693359375), x)
        rest = self.fma(turns, floats(2.12194440e-4), rest)
        power = floats(1 / 720)
        for factor in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
            power = self.fma(power, rest, floats(factor))
        exponent = self.whole("add", self.bits(up), 127 - MAGIC_BITS)
        return self.real("fmul", power, self.of_bits(self.whole("shl", exponent, 23)))
