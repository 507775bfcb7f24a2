"""A transformer's pass over the caches of slots as one call: a list of kernels and what each works on.

The blocks of a small model, and those of any model that is read at the speed of memory, are over before Python has
called the next operation. So all of them are listed once, with the addresses of their buffers, and one call runs the
list. Queries, keys and values are one product, and so are the two that the gate multiplies.

Shapes: M sequences, T rows of each, R = M * T, D width, N query heads, G key-value heads, H head dim, F feed-forward.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from csm_model.config import TransformerConfig
from csm_model.kernels import rows
from csm_model.kernels.attention import AttentionPlan, attention
from csm_model.kernels.code import LANES, Activation, words
from csm_model.kernels.linear import JoinedLinear, KernelLinear
from csm_model.kernels.machine import Machine, program
from csm_model.transformer import Block, CacheItems, KVCache, Transformer

_MOST_ROWS = 128
"""R of one pass; longer ones are cut along T."""
_ALONE = 1 << 15
"""Numbers below which one thread does the norms, gates and rotations."""
_ALONE_ATTENDING = 1 << 18
"""Numbers in reach of the queries below which one thread does the attention."""
_ROWS, _ITEMS, _PARTS = 6, 7, 8
"""Columns of the list."""
Words = npt.NDArray[np.int64]


def _up(columns: int) -> int:
    return columns + -columns % 64


@dataclass(frozen=True, kw_only=True)
class _Products:
    """The products of one block, and the weights of its norms."""

    qkv: JoinedLinear
    out: KernelLinear
    up: JoinedLinear
    down: KernelLinear
    attention_norm: Tensor
    feed_forward_norm: Tensor


class KernelStack:
    """The blocks and the final norm of a transformer whose layers are packed.

    Args:
        stack: the transformer; its layers go on sharing the weights.
        machine: what to compile for.
    """

    def __init__(self, stack: Transformer, machine: Machine) -> None:
        config = stack.config
        self.config, self.machine = config, machine
        self.head = config.dim // config.heads
        self.blocks: list[_Products] = []
        for layer in stack.layers:
            assert isinstance(layer, Block)
            attn, mlp = layer.attn, layer.mlp
            self.blocks.append(
                _Products(
                    qkv=JoinedLinear(_packed(attn.q_proj, attn.k_proj, attn.v_proj)),
                    out=_packed(attn.output_proj)[0],
                    up=JoinedLinear(_packed(mlp.w1, mlp.w3)),
                    down=_packed(mlp.w2)[0],
                    attention_norm=layer.sa_norm.weight.detach().float(),
                    feed_forward_norm=layer.mlp_norm.weight.detach().float(),
                )
            )
        self.final_norm = stack.norm.weight.detach().float()
        self.dtype = self.blocks[0].down.dtype
        self.cos = stack.rotary.cos.float().repeat_interleave(2, 1).contiguous()
        sign = torch.tensor([-1.0, 1.0]).repeat(self.head // 2)
        self.sin = (stack.rotary.sin.float().repeat_interleave(2, 1) * sign).contiguous()
        self._programs: weakref.WeakKeyDictionary[KVCache, _Program] = weakref.WeakKeyDictionary()

    @staticmethod
    def fits(config: TransformerConfig) -> bool:
        """Whether the widths are such that the kernels of rows take them."""
        return config.dim % LANES == 0 and config.dim // config.heads % 2 == 0

    def __call__(self, x: Tensor, attend: CacheItems) -> Tensor:
        """`[M, T, D]` to `[M, T, D]`; the new rows are stored in the cache, and count."""
        mine = self._programs.get(attend.cache)
        if mine is None:
            mine = self._programs[attend.cache] = _Program(self, attend.cache)
        step = max(1, _MOST_ROWS // len(x))
        if x.shape[1] <= step:
            return mine(x, attend.items)
        return torch.cat([mine(part, attend.items) for part in torch.split(x, step, dim=1)], dim=1)


def _packed(*layers: torch.nn.Module) -> list[KernelLinear]:
    assert all(isinstance(layer, KernelLinear) for layer in layers), layers
    return list(layers)  # type: ignore[arg-type]


class _Program:
    """The list for one cache, with its buffers."""

    def __init__(self, stack: KernelStack, cache: KVCache) -> None:
        self._stack = stack
        config, first = stack.config, stack.blocks[0]
        assert cache.rows <= len(stack.cos), (cache.rows, len(stack.cos))
        most = max(_MOST_ROWS, len(cache.lengths))

        def buffer(columns: int) -> Tensor:
            return torch.zeros(most, _up(columns), dtype=stack.dtype)

        self._x, self._normed, self._added = (buffer(config.dim) for _ in range(3))
        self._qkv, self._attended = buffer(first.qkv.width), buffer(config.dim)
        self._up, self._gated = buffer(first.up.width), buffer(config.ffn_dim)
        layers = [layer for block in stack.blocks for layer in (block.qkv, block.out, block.up, block.down)]
        self._scratch = torch.zeros(most * max(layer.scratch for layer in layers), dtype=torch.uint8)
        self._slots = torch.zeros(most, dtype=torch.long)
        self._kept: list[object] = [cache.keys, cache.values, cache.lengths]
        self._list: list[tuple[Sequence[int], str, int]] = []
        self._fill(cache)
        self._lists: dict[tuple[int, int, int], Words] = {}
        self._run = program()

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """See `KernelStack`; T is not too large."""
        sequences, each, width = x.shape
        count = sequences * each
        self._x[:count, :width] = x.reshape(count, width)
        self._slots[:sequences] = slots
        case = sequences, each, torch.get_num_threads()
        mine = self._lists.get(case)
        if mine is None:
            mine = self._lists[case] = self._listed(*case)
        self._run(mine)
        return self._normed[:count, :width].reshape(sequences, each, width).clone()

    def _fill(self, cache: KVCache) -> None:
        """Lists all kernels, without what depends on M and T."""
        stack, config = self._stack, self._stack.config
        own: Activation = "bf16" if stack.dtype == torch.bfloat16 else "fp32"
        kept: Activation = "bf16" if cache.keys[0].dtype == torch.bfloat16 else "fp32"
        plain, adding = (rows.norm(config.dim, config.norm_eps, own, stack.machine, add=add) for add in (False, True))
        turn = rows.rotation(stack.head, own, kept, stack.machine)
        attend = attention(stack.head, config.heads // config.kv_heads, own, kept, stack.machine)
        silu = rows.gate(own, stack.machine)
        norms = [block.attention_norm for block in stack.blocks[1:]] + [stack.final_norm]
        places = {"slots": self._slots.data_ptr(), "lengths": cache.lengths.data_ptr()}
        self._normalise(plain, stack.blocks[0].attention_norm)
        for block, following, keys, values in zip(stack.blocks, norms, cache.keys, cache.values, strict=True):
            self._multiply(block.qkv, self._normed, self._qkv)
            offsets = [offset * stack.dtype.itemsize for offset in block.qkv.offsets]
            strides = [keys.stride(axis) * keys.itemsize for axis in (0, 1, 2)]
            row = _bytes(self._qkv)
            held = {
                **places, "keys": keys.data_ptr(), "values": values.data_ptr(), "slot": strides[0], "group": strides[1],
                "place": strides[2], "groups": config.kv_heads,
            }  # fmt: skip
            plan = words(
                rows.RotationPlan, **held, x_row=row, x_keys=offsets[1], x_values=offsets[2],
                cos=stack.cos.data_ptr(), sin=stack.sin.data_ptr(), heads=config.heads, last=cache.rows - 1,
            )  # fmt: skip
            self._add("rotate", turn, plan, self._qkv, self._qkv)
            head = stack.head * stack.dtype.itemsize
            out = _bytes(self._attended)
            plan = words(
                AttentionPlan, **held, q_sequence=0, q_head=head, q_row=row, q_sequence_row=row, out_sequence=0,
                out_head=head, out_row=out, out_sequence_row=out, scores=cache.rows + -cache.rows % LANES,
                most=cache.rows,
            )  # fmt: skip
            self._add("attend", attend, plan, self._qkv, self._attended, size=config.kv_heads * cache.rows * stack.head)
            self._multiply(block.out, self._attended, self._added)
            self._normalise(adding, block.feed_forward_norm)
            self._multiply(block.up, self._normed, self._up)
            offset = block.up.offsets[1]
            plan = words(
                rows.GatePlan, x_row=_bytes(self._up), out_row=_bytes(self._gated), vectors=offset // LANES,
                second=offset * stack.dtype.itemsize,
            )  # fmt: skip
            self._add("row", silu, plan, self._up, self._gated, size=config.ffn_dim)
            self._multiply(block.down, self._gated, self._added)
            self._normalise(adding, following)
        self._add("count", rows.counting(stack.machine), words(rows.CountingPlan, **places), self._x, self._x)

    def _multiply(self, layer: KernelLinear | JoinedLinear, x: Tensor, out: Tensor) -> None:
        plan = layer.plan(given=_bytes(x), out=_bytes(out))
        self._add("multiply", layer.kernel, plan, x, out, size=layer.weight_bytes, items=layer.items,
                  prepare=layer.prepare)  # fmt: skip

    def _normalise(self, kernel: int, weight: Tensor) -> None:
        plan = words(
            rows.NormPlan, added=self._added.data_ptr(), weight=weight.data_ptr(), x_row=_bytes(self._x),
            added_row=_bytes(self._added), out_row=_bytes(self._normed),
        )  # fmt: skip
        self._add("row", kernel, plan, self._x, self._normed, size=self._stack.config.dim)

    def _add(
        self, kind: str, kernel: int, plan: Sequence[int], x: Tensor, out: Tensor, *, size: int = 0, items: int = 0,
        prepare: int = 0,
    ) -> None:  # fmt: skip
        words = np.array(plan, np.int64)
        self._kept.append(words)
        entry = (
            prepare,
            kernel,
            words.ctypes.data,
            x.data_ptr(),
            self._scratch.data_ptr(),
            out.data_ptr(),
            0,
            items,
            1,
        )
        self._list.append((entry, kind, size))

    def _listed(self, sequences: int, each: int, threads: int) -> Words:
        """The list for M sequences of T rows."""
        count = sequences * each
        made = np.array([entry for entry, _, _ in self._list], np.int64)
        for line, (_, kind, size) in zip(made, self._list, strict=True):
            line[_ROWS] = count if kind == "multiply" else each
            if kind == "multiply":
                wide = size * (4 + count) >= KernelLinear.ALONE
            elif kind == "attend":
                line[_ITEMS] = sequences * self._stack.config.kv_heads
                wide = size * count >= _ALONE_ATTENDING
            else:
                line[_ITEMS] = sequences if kind == "count" else count
                wide = kind != "count" and count * size >= _ALONE
            line[_PARTS] = threads if wide else 1
        return made


def _bytes(buffer: Tensor) -> int:
    """Of a row."""
    return buffer.stride(0) * buffer.itemsize
