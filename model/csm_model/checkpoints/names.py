"""Names and forms of the weights in the three layouts.

This program's names are the hub: every layout maps to and from them. Sesame's are torchtune's; Hugging Face's are those
of `CsmForConditionalGeneration` (transformers, models/csm/convert_csm.py). The one difference of form is that Hugging
Face rotates halves where torchtune rotates adjacent pairs, so the rows of the query and key projections are permuted.

Shapes: N heads, H head dim, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from csm_model.config import ModelConfig
from csm_model.model import meta_model

Layout = Literal["csm", "sesame", "hf"]
"""This program's, Sesame's (Miso's too), Hugging Face's."""
LAYOUTS: dict[Layout, str] = {
    "csm": "this program's",
    "sesame": "Sesame's (Miso's too)",
    "hf": "Hugging Face's CsmForConditionalGeneration",
}
TIED = "depth_decoder.model.embed_tokens.weight"
"""Hugging Face's second name of the audio embeddings; its `save_pretrained` writes this one alone."""
CODEC = "codec_model."
"""What Hugging Face's names of the codec begin with."""

_ROTATED = re.compile(r"(backbone|decoder)\.layers\.\d+\.attn\.[qk]_proj\.weight")
_DERIVED = re.compile(r"(backbone|decoder)_causal_mask|.*\.(kv_cache|pos_embeddings)\..*|.*\.rotary_emb\..*")
_NORM = re.compile(r"((?:backbone|decoder)\.(?:layers\.\d+\.(?:sa|mlp)_)?norm)\.(?:weight|scale)")
_HF_PARTS = {
    "text_embeddings.weight": "embed_text_tokens.weight",
    "audio_embeddings.weight": "backbone_model.embed_tokens.embed_audio_tokens.weight",
    "projection.weight": "depth_decoder.model.inputs_embeds_projector.weight",
    "codebook0_head.weight": "lm_head.weight",
    "audio_head": "depth_decoder.codebooks_head.weight",
}
_HF_LAYER = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
    "sa_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_HF_STACK = {"backbone": "backbone_model", "decoder": "depth_decoder.model"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a model in a layout."""

    own: str
    """This program's name of it."""
    name: str
    """The layout's."""
    shape: tuple[int, ...]
    """The same in every layout."""
    head: int = 0
    """Rows of a head, where the layout has the halves of a head's rows where this program has pairs; 0 elsewhere."""

    @property
    def unit(self) -> int:
        """Rows that are moved together."""
        return self.head or 1

    def to_own(self, rows: Tensor) -> Tensor:
        """Whole units of rows of the layout's form, in this program's."""
        return halves_to_pairs(rows, self.head) if self.head else rows

    def from_own(self, rows: Tensor) -> Tensor:
        """Whole units of rows of this program's form, in the layout's."""
        return pairs_to_halves(rows, self.head) if self.head else rows


def pairs_to_halves(rows: Tensor, head: int) -> Tensor:
    """Rows `[N * H, D]`, of each head: first those that came first in their pairs, then the others."""
    return rows.view(-1, head // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def halves_to_pairs(rows: Tensor, head: int) -> Tensor:
    """The inverse of `pairs_to_halves`."""
    return rows.view(-1, 2, head // 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def entries_of(layout: Layout, config: ModelConfig) -> list[Entry]:
    """Every tensor of a model of these sizes."""
    renames: dict[Layout, Callable[[str], str]] = {"csm": str, "sesame": _sesame, "hf": _hf}
    found = []
    for own, tensor in meta_model(config).state_dict().items():
        head = 0
        if layout == "hf" and (match := _ROTATED.fullmatch(own)):
            part = config.backbone if match[1] == "backbone" else config.depth
            head = part.dim // part.heads
        found.append(Entry(own=own, name=renames[layout](own), shape=tuple(tensor.shape), head=head))
    return found


def sesame_to_own(name: str) -> str:
    """This program's name of a tensor in Sesame's layout."""
    match = _NORM.fullmatch(name)
    return f"{match[1]}.weight" if match else name


def is_derived(name: str) -> bool:
    """Whether a tensor is a mask or a table that every program computes, and that some store all the same."""
    return _DERIVED.fullmatch(name) is not None


def _sesame(own: str) -> str:
    match = _NORM.fullmatch(own)
    return f"{match[1]}.scale" if match else own


def _hf(own: str) -> str:
    if own in _HF_PARTS:
        return _HF_PARTS[own]
    stack, _, rest = own.partition(".")
    if rest == "norm.weight":
        return f"{_HF_STACK[stack]}.norm.weight"
    _, layer, inner = rest.split(".", 2)
    return f"{_HF_STACK[stack]}.layers.{layer}.{_HF_LAYER[inner.removesuffix('.weight')]}.weight"
