"""The conversational speech model: a backbone over text and audio rows, and a depth decoder over a frame's codebooks.

A re-creation of Sesame's CSM (Schalkwyk et al. 2025, "Crossing the uncanny valley of conversational voice"; layout
after SesameAILabs/csm models.py and generator.py).

Shapes: B batch, T rows, K codebooks, D backbone dim, E depth dim, V audio vocabulary, F frames picked for
the depth decoder.
A row is `[K + 1]` ids: K audio columns, then one text column. `mask` says which columns count.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from csm_model.config import ModelConfig
from csm_model.transformer import Attend, Transformer


class CsmModel(nn.Module):
    """Single-device model; parallelism is put on from outside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, depth_dim, vocab = config.backbone.dim, config.depth.dim, config.audio_vocab_size
        self.backbone = Transformer(config.backbone, max_rows=config.max_rows)
        self.decoder = Transformer(config.depth, max_rows=config.num_codebooks)
        self.text_embeddings = nn.Embedding(config.text_vocab_size, dim)
        self.audio_embeddings = nn.Embedding(config.num_codebooks * vocab, dim)
        self.projection = nn.Linear(dim, depth_dim, bias=False)
        self.codebook0_head = nn.Linear(dim, vocab, bias=False)
        self.audio_head = nn.Parameter(torch.empty(config.num_codebooks - 1, depth_dim, vocab))
        self.code_heads: nn.ModuleList | None = None
        """Heads of codebooks 1 to K - 1 that stand in for `audio_head`: rounded or packed."""
        self.register_buffer("offsets", torch.empty(config.num_codebooks, dtype=torch.long), persistent=False)
        if not self.offsets.is_meta:
            self.reset_tables()
            self.init_weights()

    offsets: Tensor
    """Of a codebook's ids in the one table: `[K]`."""

    def reset_tables(self) -> None:
        """Fills what no checkpoint carries; for a model that was built on the meta device and then given memory."""
        torch.arange(
            0, len(self.offsets) * self.config.audio_vocab_size, self.config.audio_vocab_size, out=self.offsets
        )
        self.backbone.rotary.reset()
        self.decoder.rotary.reset()

    def init_weights(self) -> None:
        """Normal(0, 0.02) everywhere; projections back into the residual stream shrink with the depth of the stack."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for stack in (self.backbone, self.decoder):
            scale = 0.02 / (2 * stack.config.layers) ** 0.5
            for name, parameter in stack.named_parameters():
                if name.endswith(("output_proj.weight", "w2.weight")):
                    nn.init.normal_(parameter, std=scale)
        nn.init.normal_(self.audio_head, std=0.02)
        nn.init.normal_(self.projection.weight, std=self.config.backbone.dim**-0.5)

    def embed_rows(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Rows `[B, T, K + 1]` to `[B, T, D]`: the sum of the embeddings of the columns that count."""
        table = self.audio_embeddings.weight
        weight = mask.to(table.dtype)
        audio = F.embedding_bag(
            (rows[..., :-1] + self.offsets).flatten(0, 1),
            table,
            mode="sum",
            per_sample_weights=weight[..., :-1].flatten(0, 1),
        )  # the K embeddings of a row never stand side by side in memory
        text = F.embedding(rows[..., -1], self.text_embeddings.weight)
        return audio.view(text.shape) + text * weight[..., -1:]

    def hidden(self, rows: Tensor, mask: Tensor, attend: Attend | None = None) -> Tensor:
        """Rows `[B, T, K + 1]` to hidden states `[B, T, D]`; the state at `t - 1` predicts the frame at `t`."""
        return self.backbone(self.embed_rows(rows, mask), attend)  # type: ignore[no-any-return]

    def embed_code(self, codes: Tensor, codebook: int) -> Tensor:
        """Codes `[...]` of one codebook to `[..., D]`."""
        return F.embedding(codes + codebook * self.config.audio_vocab_size, self.audio_embeddings.weight)

    def code_logits(self, out: Tensor, codebook: int) -> Tensor:
        """Outputs `[..., E]` of the depth decoder to the logits `[..., V]` of one codebook after the first."""
        if self.code_heads is not None:
            return self.code_heads[codebook - 1](out)  # type: ignore[no-any-return]
        return out @ self.audio_head[codebook - 1]

    def depth_logits(self, state: Tensor, codes: Tensor) -> Tensor:
        """States `[F, D]` and the true codes `[F, K]` to the logits `[F, K - 1, V]` of codebooks 1 to K - 1."""
        embedded = F.embedding(codes[:, :-1] + self.offsets[:-1], self.audio_embeddings.weight)
        out = self.decoder(self.projection(torch.cat([state[:, None], embedded], dim=1)))
        return torch.einsum("fke,kev->fkv", out[:, 1:], self.audio_head)


class _Unfilled(TorchFunctionMode):
    """Leaves `torch.nn.init` out: on the meta device it fills nothing, but makes torch import its compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def meta_model(config: ModelConfig) -> CsmModel:
    """A model of these sizes without memory for its weights: they are assigned, then `with_tables`."""
    with torch.device("meta"), _Unfilled():
        return CsmModel(config)


def with_tables(model: CsmModel) -> CsmModel:
    """Gives a model from `meta_model` the tables that no checkpoint carries, in place."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    model.reset_tables()
    return model
