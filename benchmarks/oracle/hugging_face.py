"""What the benchmarks compare with: Hugging Face's CSM over the same weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csm_model.checkpoints.names import entries_of
from csm_model.checkpoints.sizes import to_hf
from csm_model.config import ModelConfig
from csm_model.model import CsmModel, meta_model
from csm_model.training.data import Batch


def random_model(config: ModelConfig, dtype: torch.dtype) -> CsmModel:
    """A model of random weights."""
    torch.manual_seed(0)
    model = meta_model(config).to(dtype).to_empty(device="cpu")
    model.reset_tables()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.03, 0.03) if parameter.dim() > 1 else nn.init.ones_(parameter)
    return model.eval().requires_grad_(False)


def as_hf(model: CsmModel) -> Any:
    """Hugging Face's model over the same weights (those of queries and keys permuted)."""
    from transformers import CsmConfig, CsmForConditionalGeneration

    values = to_hf(model.config, dtype=str(model.audio_head.dtype).removeprefix("torch."))
    small_codec = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2,
                   "num_key_value_heads": 2, "num_filters": 4, "codebook_size": 16, "codebook_dim": 8,
                   "upsample_groups": 1, "vector_quantization_hidden_dimension": 8}  # fmt: skip
    config = CsmConfig(**{**values, "codec_config": {"model_type": "mimi", **small_codec}})
    with torch.device("meta"):
        hf = CsmForConditionalGeneration(config)
    hf.codec_model = None
    ours = model.state_dict()
    state = {each.name: each.from_own(ours[each.own]) for each in entries_of("hf", model.config)}
    state["depth_decoder.model.embed_tokens.weight"] = ours["audio_embeddings.weight"]
    hf.load_state_dict(state, strict=False, assign=True)
    hf.tie_weights()
    for module in hf.modules():  # what no checkpoint carries
        if hasattr(module, "inv_freq"):
            module.inv_freq, module.attention_scaling = module.rope_init_fn(module.config, "cpu")
            module.original_inv_freq = module.inv_freq
        if hasattr(module, "audio_tokens_offsets"):
            module.audio_tokens_offsets = torch.arange(model.config.num_codebooks) * model.config.audio_vocab_size
    left = [name for name, tensor in [*hf.named_parameters(), *hf.named_buffers()] if tensor.is_meta]
    assert not left, left
    return hf.eval().requires_grad_(False)


class Labelled(NamedTuple):
    """A document as transformers takes it."""

    rows: Tensor  # [T, K + 1] int64
    mask: Tensor  # [T, K + 1] bool
    labels: Tensor  # [T, K] int64: -100 where nothing is asked, and beyond codebook 0 where only that is

    def embedded(self, hf: Any) -> Tensor:
        """Its rows `[T, D]` as transformers embeds them: text by its table, frames by the sum over the codebooks."""
        text = hf.embed_text_tokens(self.rows[:, -1])
        return torch.where(self.mask[:, -1:], text, hf.backbone_model.embed_tokens(self.rows[None, :, :-1])[0])


def documents_of(batch: Batch) -> list[Labelled]:
    """The documents of packed rows one by one, with the same targets."""
    rows, mask = batch.rows.flatten(0, 1), batch.mask.flatten(0, 1)
    labels = torch.full_like(rows[:, :-1], -100)
    labels[batch.first.places, 0] = rows[batch.first.places, 0]
    labels[batch.depth.places] = rows[batch.depth.places, :-1]
    lengths = [length for item in batch.lengths for length in item]
    parts = zip(*(part.split(lengths) for part in (rows, mask, labels)), strict=True)
    return [Labelled(*part) for part in parts if part[1].any()]
