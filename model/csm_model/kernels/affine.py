"""Layers and convolutions of a codec on a CPU: float32 products of rows that may overlap, and what follows at once.

A row of the product is a number of the inputs that lie one after another: the steps that a causal convolution's kernel
spans, which for the next row begin one step later. So a convolution copies nothing.

Every sum runs over the inputs in their order, in one chain of fused multiply-adds, and the bias is added last. That
order depends on nothing: not on how many rows there are, nor on a row's place, the threads, or the width of the
processor's vectors. So a row comes out the same to the bit in any company, and on any processor with FMA.

Shapes: M sequences, T rows of each, R = M * T rows, C channels in, K inputs of a row, N channels out.
"""

from __future__ import annotations

import functools
import itertools
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.kernels.code import ARGUMENTS, FLOATS, WORDS, Code, constant, floats, words
from csm_model.kernels.linear import pack_words
from csm_model.kernels.machine import Machine, compile_kernel, kernels_for, runner, this_machine
from csm_model.kernels.products import AHEAD, CHANNELS, TILES, UNROLL

Gelu = Literal["tanh", "erf"]
"""GELU by the hyperbolic tangent, or by the error function."""
After = Literal["nothing", "tanh", "erf", "plus"]
"""What is done to a sum with its bias: nothing, a GELU, or the addition of another row."""
_FORMS: dict[Gelu, str] = {"tanh": "tanh", "erf": "none"}  # what torch calls them
_SPLIT = 1 << 20
"""Multiplications below which one thread is sooner done than several."""
_SMALL = 1 << 19
"""Bytes of weights that stay in a core's cache; all of them are then used on some rows before the next rows."""
_TOGETHER = 96
"""Rows of such a part."""


class AffinePlan(IntEnum):
    """Words of what the kernel reads."""

    WEIGHTS = 0
    """Address: `[N / 32][K][2][16]` float32."""
    BIAS = 1
    """Address: `[N]` float32, padded to 32."""
    PLUS = 2
    """Address of the rows that are added."""
    TURNS = 3
    """Turns of the loop over the inputs, of `UNROLL` each."""
    EACH = 4
    """T."""
    STEP = 5
    """Bytes from one row of x to the next of the same sequence."""
    SEQUENCE = 6
    """Bytes from one sequence of x to the next."""
    OUT = 7
    """Bytes of a row of out, and of one that is added."""
    GROUPS = 8
    """Groups of 32 channels."""
    PART = 9
    """Rows of a part: item `p * GROUPS + g` is group g of the rows of part p."""


@functools.cache
def affine(after: After, machine: Machine) -> int:
    """Compiles the kernel."""
    return compile_kernel(affine_ir(after, machine), "affine", machine)


def affine_ir(after: After, machine: Machine) -> str:
    """The module of `affine`: `rows` is R, items are parts of the rows and groups of 32 channels."""
    most = 8 if machine.wide else 3  # rows whose sums, two or four registers each, are in hand with their operands
    code = Code()
    for count in range(1, most + 1):
        _block(code, after, count)
    code.begin(f"void @affine({ARGUMENTS})")
    plan, field = code.plan(AffinePlan), AffinePlan
    x, out, weights, bias, plus = (
        code.pointer(value) for value in ("%x_", "%out_", plan[field.WEIGHTS], plan[field.BIAS], plan[field.PLUS])
    )
    group_bytes = code.times(plan[field.TURNS], UNROLL * CHANNELS * 4)
    with code.loop("%begin", "%end") as item:
        part, group = (code.let(f"{how} i64 {item}, {plan[field.GROUPS]}") for how in ("sdiv", "srem"))
        first = code.times(part, plan[field.PART])
        last = code.least(code.plus(first, plan[field.PART]), "%rows")
        here, channel = code.at(weights, code.times(group, group_bytes)), code.times(group, CHANNELS * 4)
        whole = code.let(f"sdiv i64 {code.let(f'sub i64 {last}, {first}')}, {most}")
        rest = code.plus(first, code.times(whole, most))
        places = ", ".join(f"ptr {code.at(base, channel)}" for base in (bias, out, plus))

        def call(count: int, row: str, places: str = places, here: str = here) -> None:
            code.do(f"call void @block{count}(ptr %plan, ptr {here}, ptr {x}, {places}, i64 {row})")

        with code.loop("0", whole) as block:
            call(most, code.plus(first, code.times(block, most)))
        cases = " ".join(f"i64 {count}, label %rest{count}" for count in range(1, most))
        code.do(f"switch i64 {code.let(f'sub i64 {last}, {rest}')}, label %over [ {cases} ]")
        for count in range(1, most):
            code.label(f"rest{count}")
            call(count, rest)
            code.do("br label %over")
        code.label("over")
    code.end()
    return code.module()


def _block(code: Code, after: After, rows: int) -> None:
    """A function for `rows` rows from `row` on, and 32 channels; bias, out and plus point to the first of these."""
    places = list(itertools.product(range(rows), range(TILES)))
    code.begin(f"internal void @block{rows}(ptr %plan, ptr %w, ptr %x, ptr %bias, ptr %out, ptr %plus, i64 %row)")
    turns, each, step, sequence, out = (
        code.argument(word)
        for word in (AffinePlan.TURNS, AffinePlan.EACH, AffinePlan.STEP, AffinePlan.SEQUENCE, AffinePlan.OUT)
    )
    xs = _row_places(code, rows, each, step, sequence)
    names = {place: f"{place[0]}_{place[1]}" for place in places}
    with code.loop("0", turns, {names[place]: (FLOATS, "zeroinitializer") for place in places}) as turn:
        held = {place: code.carried[names[place]] for place in places}
        weights, before = code.at("%w", code.times(turn, UNROLL * CHANNELS * 4)), code.times(turn, UNROLL * 4)
        inputs = [code.at(x, before) for x in xs]
        for word in range(UNROLL):
            vectors = []
            for tile in range(TILES):
                offset = (word * TILES + tile) * 64
                code.do(f"call void @llvm.prefetch.p0(ptr {code.at(weights, AHEAD + offset)}, i32 0, i32 3, i32 1)")
                vectors.append(code.load(FLOATS, weights, offset, 64))
            for row, where in enumerate(inputs):
                value = code.splat("float", code.load("float", where, 4 * word))
                for tile, vector in enumerate(vectors):
                    held[row, tile] = code.fma(vector, value, held[row, tile])
        code.carry(**{names[place]: held[place] for place in places})
    first = code.times("%row", out)
    for tile in range(TILES):
        bias = code.load(FLOATS, "%bias", 64 * tile, 64)
        for row in range(rows):
            where = code.plus(first, code.plus(code.times(out, row), 64 * tile))
            value = code.real("fadd", code.carried[names[row, tile]], bias)
            if after == "plus":
                value = code.real("fadd", value, code.load(FLOATS, "%plus", where))
            elif after != "nothing":
                value = _gelu_tanh(code, value) if after == "tanh" else _gelu_erf(code, value)
            code.store(FLOATS, value, code.at("%out", where))
    code.end()


def _row_places(code: Code, rows: int, each: str, step: str, sequence: str) -> list[str]:
    """Where the inputs of `rows` rows from `%row` on begin."""
    item, place = code.let(f"sdiv i64 %row, {each}"), code.let(f"srem i64 %row, {each}")
    offset = code.plus(code.times(item, sequence), code.times(place, step))
    # From the last row of a sequence it is further to the next row than from the others.
    skip = code.let(f"sub i64 {sequence}, {code.times(step, code.plus(each, -1))}")
    found = []
    for _ in range(rows):
        found.append(code.at("%x", offset))
        place = code.plus(place, 1)
        over = code.let(f"icmp eq i64 {place}, {each}")
        place = code.let(f"select i1 {over}, i64 0, i64 {place}")
        offset = code.plus(offset, code.let(f"select i1 {over}, i64 {skip}, i64 {step}"))
    return found


def _gelu_tanh(code: Code, x: str) -> str:
    """`x (1 + tanh(u)) / 2`, which is `x sigmoid(2 u)`: `u = sqrt(2 / pi) (x + 0.044715 x^3)`."""
    square = code.real("fmul", x, x)
    inner = code.fma(square, floats(1.5957691216057308 * 0.044715), floats(1.5957691216057308))
    twice = code.real("fmul", x, inner)
    # Of whichever sign, the power is of a number below 0: it cannot be infinite.
    power = code.exponential(code.of_bits(code.let(f"or {WORDS} {code.bits(twice)}, {constant('i32', -(2**31))}")))
    positive = code.let(f"fcmp oge {FLOATS} {twice}, zeroinitializer")
    above = code.let(f"select <16 x i1> {positive}, {FLOATS} {floats(1.0)}, {FLOATS} {power}")
    return code.real("fmul", x, code.real("fdiv", above, code.real("fadd", power, floats(1.0))))


def _gelu_erf(code: Code, x: str) -> str:
    """`x (1 + erf(x / sqrt 2)) / 2`, to within 1e-7 of x (Abramowitz and Stegun, 7.1.26)."""
    size = code.of_bits(code.whole("and", code.bits(x), 0x7FFFFFFF))
    t = code.real("fdiv", floats(1.0), code.fma(size, floats(0.3275911 * 0.5**0.5), floats(1.0)))
    tail = floats(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = code.fma(tail, t, floats(factor))
    power = code.exponential(code.real("fmul", code.real("fmul", x, x), floats(-0.5)))
    tail = code.real("fmul", code.real("fmul", code.real("fmul", tail, t), power), floats(0.5))  # beyond |x|
    positive = code.let(f"fcmp oge {FLOATS} {x}, zeroinitializer")
    share = code.let(f"select <16 x i1> {positive}, {FLOATS} {code.real('fsub', floats(1.0), tail)}, {FLOATS} {tail}")
    return code.real("fmul", x, share)


class Affine:
    """`x @ weight.T + bias` of rows in float32, then a GELU or the addition of other rows.

    Weights on other devices, and all of them with `CSM_CPU_ISA=none`, are multiplied by torch; bits may then depend on
    the company.

    Args:
        weight: `[N, K]`; a copy is kept.
        bias: `[N]`.
        gelu: form of the GELU that follows.
        machine: what to compile for; None is this one.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        gelu: Gelu | None = None,
        machine: Machine | None = None,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            weight = weight.detach().float().contiguous()
            self.out_features, self.in_features = weight.shape
            self._gelu = gelu
            bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().float()
            self._compiled = kernels_for(weight.device)
            if not self._compiled:
                self._weight, self._bias = weight.clone(), bias.clone()
                return
            rows, columns = -self.out_features % CHANNELS, -self.in_features % UNROLL
            self._weight = _aligned(pack_words(F.pad(weight, (0, columns, 0, rows))).view(torch.float32))
            self._bias = _aligned(F.pad(bias, (0, rows)))
        machine = machine or this_machine()
        self._kernel, self._adding = affine(gelu or "nothing", machine), affine("plus", machine)
        self._run = runner()

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """`[..., K]` to `[..., N]`; `plus` `[..., N]` is added to what comes out."""
        y = self.windows(x.reshape(1, -1, self.in_features), plus)
        return y.view(*x.shape[:-1], self.out_features)

    def windows(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """A causal convolution: `[M, T + kernel - 1, C]` to `[M, T, N]`, K being kernel * C; `plus` is added."""
        assert plus is None or self._gelu is None
        count, length, channels = x.shape
        kernel = self.in_features // channels
        assert kernel * channels == self.in_features, (self.in_features, channels)
        each = length - kernel + 1
        x = x.contiguous()  # windows are counted from row to row, and a part of a sound has gaps between them
        if not self._compiled:
            return self._by_torch(x.as_strided((count, each, self.in_features), (x.stride(0), channels, 1)), plus)
        step = channels
        x = x.float()
        if self.in_features % UNROLL:
            x = x.as_strided((count, each, self.in_features), (x.stride(0), channels, 1))
            x = F.pad(x, (0, -self.in_features % UNROLL)).contiguous()
            step = x.shape[2]
        width = len(self._bias)
        out = torch.empty(count, each, width)
        if plus is not None:
            plus = plus.reshape(count, each, self.out_features).float()
            plus = F.pad(plus, (0, width - self.out_features)).contiguous()
        self._multiply(x, out, plus, each=each, step=step)
        return out if width == self.out_features else out[..., : self.out_features].contiguous()

    def _multiply(self, x: Tensor, out: Tensor, plus: Tensor | None, *, each: int, step: int) -> None:
        rows, width = len(x) * each, out.shape[2]
        if not rows:
            return
        small = self._weight.numel() * 4 <= _SMALL
        part = _TOGETHER if small else rows
        groups = width // CHANNELS
        plan = words(
            AffinePlan,
            weights=self._weight.data_ptr(),
            bias=self._bias.data_ptr(),
            plus=0 if plus is None else plus.data_ptr(),
            turns=self._weight.numel() // width // UNROLL,
            each=each,
            step=4 * step,
            sequence=4 * x.stride(0),
            out=4 * width,
            groups=groups,
            part=part,
        )
        read = np.array(plan, np.int64)
        items = groups * -(-rows // part)
        threads = 1 if rows * self._weight.numel() < _SPLIT else min(items, torch.get_num_threads())
        kernel = self._kernel if plus is None else self._adding
        self._run(0, kernel, read.ctypes.data, x.data_ptr(), 0, out.data_ptr(), rows, items, threads)

    def _by_torch(self, rows: Tensor, plus: Tensor | None) -> Tensor:
        y = F.linear(rows, self._weight, self._bias)
        if self._gelu:
            y = F.gelu(y, approximate=_FORMS[self._gelu])
        return y if plus is None else y + plus.view(y.shape)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raises TypeError: a copy would hold the addresses of this one's memory."""
        raise TypeError("layers of the kernels are not copied; load the codec again")


def _aligned(weights: Tensor) -> Tensor:
    """The same numbers at an address that 64 divides, as torch's allocator gives them."""
    found = torch.empty_like(weights).copy_(weights)
    assert found.data_ptr() % 64 == 0
    return found
