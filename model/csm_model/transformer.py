"""A Llama-style transformer on one device: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Shapes: B batch, T rows, D model dim, N query heads, G key-value heads, H head dim, L rows of the cache.
Sources: [Llama](https://arxiv.org/abs/2302.13971), [RoFormer](https://arxiv.org/abs/2104.09864) (adjacent
pairs rotate, as in torchtune), [GQA](https://arxiv.org/abs/2305.13245), [SwiGLU](https://arxiv.org/abs/2002.05202).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.config import TransformerConfig


class KVCache:
    """Keys and values of the rows read so far, in buffers of fixed size: `[layer][B, G, L, H]`."""

    def __init__(self, config: TransformerConfig, *, batch_size: int, rows: int) -> None:
        shape = (batch_size, config.kv_heads, rows, config.dim // config.heads)
        self.keys = [torch.zeros(shape) for _ in range(config.layers)]
        self.values = [torch.zeros(shape) for _ in range(config.layers)]
        self.rows = rows
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the next rows `[B, G, t, H]` of one layer; returns all rows so far, these included."""
        end = self.length + keys.shape[2]
        assert end <= self.rows, (end, self.rows)
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class RotaryTable(nn.Module):
    """Cosines and sines of every position: `[rows, H / 2]`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, rows: int, base: float) -> None:
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.arange(rows, dtype=torch.float64)[:, None] * frequencies
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor, start: int) -> Tensor:
        """Rotates `[B, N, T, H]`, whose first row stands at position `start`."""
        cos, sin = self.cos[start : start + x.shape[2]], self.sin[start : start + x.shape[2]]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.dim // config.heads
        self.q_proj = nn.Linear(config.dim, config.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.kv_heads * self.head_dim, bias=False)
        self.output_proj = nn.Linear(config.heads * self.head_dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotary: RotaryTable, cache: KVCache | None, layer: int) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`; with a cache, the rows come after those in it."""
        batch, rows, _ = x.shape
        start = cache.length if cache is not None else 0
        q = rotary(self._split(self.q_proj(x), self.heads), start)
        k = rotary(self._split(self.k_proj(x), self.kv_heads), start)
        v = self._split(self.v_proj(x), self.kv_heads)
        mask = None
        if cache is not None:
            k, v = cache.append(layer, k, v)
            if rows > 1 and start > 0:
                mask = torch.ones(rows, start + rows, dtype=torch.bool, device=x.device).tril(start)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and rows > 1, enable_gqa=self.heads != self.kv_heads
        )
        return self.output_proj(out.transpose(1, 2).reshape(batch, rows, -1))  # type: ignore[no-any-return]

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)


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

    def forward(self, x: Tensor, rotary: RotaryTable, cache: KVCache | None, layer: int) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`."""
        x = x + self.dropout(self.attn(self.sa_norm(x), rotary, cache, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Blocks and a final norm over rows that are already embedded."""

    def __init__(self, config: TransformerConfig, *, max_rows: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.rotary = RotaryTable(config.dim // config.heads, max_rows, config.rope_base)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`; with a cache, the rows go on after those in it and are added to it."""
        for index, layer in enumerate(self.layers):
            x = layer(x, self.rotary, cache, index)
        if cache is not None:
            cache.length += x.shape[1]
        return self.norm(x)  # type: ignore[no-any-return]
