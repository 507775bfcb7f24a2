"""A Llama-style transformer on one device: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Who may attend to whom is not the transformer's business: it is told by an `Attend`, which says at which position each
row stands and does the attention. `Causal` is one sequence an item, `PackedDocuments` is several documents laid end to
end, `KVCache` is rows that come after those read before.

Shapes: B batch, T rows, D model dim, N query heads, G key-value heads, H head dim, L rows of the cache.
Sources: [Llama](https://arxiv.org/abs/2302.13971), [RoFormer](https://arxiv.org/abs/2104.09864) (adjacent
pairs rotate, as in torchtune), [GQA](https://arxiv.org/abs/2305.13245), [SwiGLU](https://arxiv.org/abs/2002.05202).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from csm_model.config import RopeScaling, TransformerConfig


class Attend(Protocol):
    """Which rows attend to which."""

    def positions(self, x: Tensor) -> Tensor:
        """Positions of the rows of `[B, T, D]`: int64 `[T]` where all items share them, else `[B, T]`."""
        ...

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of one layer: queries `[B, N, T, H]`, keys and values `[B, G, T, H]`, to `[B, N, T, H]`."""
        ...


class Causal:
    """Each item of the batch is one sequence; a row attends to itself and those before it."""

    def positions(self, x: Tensor) -> Tensor:
        """0 to T - 1."""
        return torch.arange(x.shape[1], device=x.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=q.shape[1] != k.shape[1])


class PackedDocuments:
    """Documents laid end to end in each item; a row attends to those of its own document, positions begin anew.

    The attention runs document by document, so that its cost is that of the documents and not of the whole rows.

    Args:
        lengths: of each item of the batch, the lengths of its documents; they add up to T, padding being one of them.
    """

    def __init__(self, lengths: Sequence[Sequence[int]]) -> None:
        self.lengths = [list(item) for item in lengths]

    def positions(self, x: Tensor) -> Tensor:
        """0 to length - 1 of each document: `[B, T]`."""
        return torch.stack([torch.cat([torch.arange(n) for n in item]) for item in self.lengths]).to(x.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        causal = Causal()
        items = []
        for item, lengths in enumerate(self.lengths):
            parts = zip(*(torch.split(x[item : item + 1], lengths, dim=2) for x in (q, k, v)), strict=True)
            items.append(torch.cat([causal(layer, *part) for part in parts], dim=2))
        return torch.cat(items)


SlotAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Queries `[M, N, T, H]`, keys and values `[B, G, L, H]`, items `[M]` and their lengths `[B]` to `[M, N, T, H]`."""


class KVCache:
    """Keys and values of the rows read so far, in buffers of fixed size: `[layer][B, G, L, H]`.

    `at` gives the `Attend` of some of the items; as an `Attend` itself it is that of all. Nothing depends on what the
    tensors hold, so that a step can be compiled once, and no accelerator is waited for; that the rows fit is the
    caller's to see to.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        batch_size: int,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch_size, config.kv_heads, rows, config.dim // config.heads)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        """Rows that each item holds: int64 `[B]`."""
        self.places = torch.arange(rows, device=device)
        self.attend: SlotAttention | None = None
        """Does the attention in place of torch: of new queries over the rows that some items hold."""
        self._all = CacheItems(self, torch.arange(batch_size, device=device), whole=True, most=rows)

    @property
    def rows(self) -> int:
        """L, the most rows that an item can hold."""
        return len(self.places)

    def trim(self, lengths: Sequence[int] | Tensor) -> None:
        """Forgets, in each item, all rows after the first `lengths[item]`."""
        self.lengths.copy_(torch.as_tensor(lengths))

    def clear(self) -> None:
        """Forgets all rows of all items."""
        self.lengths.zero_()

    def at(self, items: Tensor, *, most: int | None = None) -> CacheItems:
        """The items `[M]` (int64, each once) as the batch of the next pass.

        Args:
            items: which ones.
            most: rows that none of them holds more of after the pass, where that is known: no others are looked at.
        """
        return CacheItems(self, items, whole=False, most=self.rows if most is None else min(most, self.rows))

    def positions(self, x: Tensor) -> Tensor:
        """Those after the rows that are held: `[B, T]`."""
        return self._all.positions(x)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`; the new rows are stored, and count from the last layer on."""
        return self._all(layer, q, k, v)


class CacheItems:
    """Some items of a `KVCache` as a batch of their own: M of its B."""

    def __init__(self, cache: KVCache, items: Tensor, *, whole: bool, most: int) -> None:
        self.cache, self.items, self._most = cache, items, most
        self._whole = whole  # all of them in order: their buffers are the cache's own, not copies

    def positions(self, x: Tensor) -> Tensor:
        """Those after the rows that are held: `[M, T]`."""
        return self.cache.lengths[self.items, None] + self.cache.places[: x.shape[1]]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`; the new rows are stored, and count from the last layer on."""
        cache, items = self.cache, self.items
        batch, heads, rows, width = q.shape
        groups = k.shape[1]
        places = self.positions(q[:, 0])
        keys, values = cache.keys[layer], cache.values[layer]
        keys[items[:, None], :, places] = k.transpose(1, 2)
        values[items[:, None], :, places] = v.transpose(1, 2)
        if cache.attend is not None:
            out = cache.attend(q, keys, values, items, cache.lengths)
            self._count(layer, rows)
            return out
        self._count(layer, rows)
        keys, values = (part[:, :, : self._most] for part in (keys, values))
        if not self._whole:
            keys, values = keys[items], values[items]
        seen = cache.places[: self._most] <= places[..., None]  # [M, T, L]
        # The queries that share a key-value head stand one after another as if they were rows: nothing is copied.
        shared = heads // groups
        mask = seen[:, None, None].expand(-1, -1, shared, -1, -1).reshape(batch, 1, shared * rows, -1)
        out = F.scaled_dot_product_attention(q.reshape(batch, groups, shared * rows, width), keys, values, mask)
        return out.view(batch, heads, rows, width)

    def _count(self, layer: int, rows: int) -> None:
        """The rows count from the last layer on."""
        if layer == len(self.cache.keys) - 1:
            self.cache.lengths.index_add_(0, self.items, torch.full_like(self.items, rows))


def rotary_frequencies(head_dim: int, base: float, scaling: RopeScaling | None) -> Tensor:
    """Radians a position of each pair of a head: float64 `[H / 2]`.

    With scaling, Llama 3's: pairs that turn `high` times or more in the original context stay, those that turn `low`
    times or less are slowed down by `factor`, those between are blended (torchtune's `Llama3ScaledRoPE.apply_scaling`).
    """
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if scaling is None:
        return frequencies
    turns = scaling.original_rows * frequencies / (2 * math.pi)
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


class RotaryTable(nn.Module):
    """Cosines and sines of every position: `[rows, H / 2]`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig, rows: int) -> None:
        super().__init__()
        self._frequencies = config.dim // config.heads, config.rope_base, config.rope_scaling
        self._rows = rows
        shape = (rows, config.dim // config.heads // 2)
        self.register_buffer("cos", torch.empty(shape), persistent=False)
        self.register_buffer("sin", torch.empty(shape), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Fills the tables, which no checkpoint carries; for a model whose memory was given to it after building."""
        if self.cos.is_meta:
            return
        angles = torch.arange(self._rows, dtype=torch.float64)[:, None] * rotary_frequencies(*self._frequencies)
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines at `[T]` or `[B, T]`, each `[B or 1, 1, T, H / 2]`."""
        cos, sin = self.cos[positions], self.sin[positions]
        return (cos[:, None], sin[:, None]) if positions.dim() == 2 else (cos[None, None], sin[None, None])


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the adjacent pairs of `[B, N, T, H]`, in float32; gives it back in the dtype of `x`."""
    cos, sin = angles
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def attended(attend: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See `Attend.__call__`."""
    return attend(layer, q, k, v)


class Attention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.dim // config.heads
        self.q_proj = nn.Linear(config.dim, config.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.kv_heads * self.head_dim, bias=False)
        self.output_proj = nn.Linear(config.heads * self.head_dim, config.dim, bias=False)
        self.attended: Callable[[Attend, int, Tensor, Tensor, Tensor], Tensor] = attended
        """Calls the `Attend`; torch.compile may be kept out of it."""

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend, layer: int) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`."""
        q = rotate(self._split(self.q_proj(x)), angles)
        k = rotate(self._split(self.k_proj(x)), angles)
        out = self.attended(attend, layer, q, k, self._split(self.v_proj(x)))
        return self.output_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: `w2(silu(w1 x) * w3 x)`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = FeedForward(config)
        self.sa_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.recomputed = False
        """Whether its activations are not kept for the backward pass, but computed again in it."""

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend, layer: int) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`."""
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(self._passed, x, angles, attend, layer, use_reentrant=False)  # type: ignore[no-any-return]
        return self._passed(x, angles, attend, layer)

    def _passed(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend, layer: int) -> Tensor:
        x = x + self.dropout(self.attn(self.sa_norm(x), angles, attend, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Blocks and a final norm over rows that are already embedded."""

    def __init__(self, config: TransformerConfig, *, max_rows: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.rotary = RotaryTable(config, max_rows)
        self.stepped: Callable[[Tensor, CacheItems], Tensor] | None = None
        """Does the passes over a cache in place of what follows (`csm_model.kernels.stack`)."""
        self.cache_dtype: torch.dtype | None = None
        """Of the keys and values to be kept, where it is not that of the rows; `stepped` then takes it."""

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`; without an `attend`, each item is one sequence."""
        if self.stepped is not None and isinstance(attend, CacheItems):
            return self.stepped(x, attend)
        attend = attend or Causal()
        x = x.to(self.norm.weight.dtype)  # autocast gives bfloat16; the residual stream has the dtype of the norms
        angles = self.rotary(attend.positions(x))
        for index, layer in enumerate(self.layers):
            x = layer(x, angles, attend, index)
        return self.norm(x)  # type: ignore[no-any-return]
