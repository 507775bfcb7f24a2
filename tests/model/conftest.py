"""Small real things for the model's tests: a random codec, tokens of turns, a bundle, a model twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tokens import write_tokens

from csm_model.bundle import Bundle, load_bundle, write_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    torch.manual_seed(0)
    RvqCodec(RvqConfig.debug()).eval().save(folder)
    return folder


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """Twelve conversations of four turns, and two held-out ones; codes follow the text, so that they can be learnt."""
    folder = tmp_path_factory.mktemp("tokens")
    write_tokens(folder, codec_folder)
    return folder


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "random"
    tokenizer, codec = PhonemeTokenizer(), RvqCodec.load(codec_folder)
    torch.manual_seed(1)
    config = debug_config(
        text_vocab_size=tokenizer.vocab_size, num_codebooks=codec.num_codebooks, codebook_size=codec.codebook_size
    )
    model = CsmModel(config).eval()
    with torch.no_grad():  # a fresh model's logits are all but flat; this one has opinions
        for weight in model.parameters():
            weight.mul_(6.0 if weight.dim() > 1 else 1.0)
    write_bundle(
        folder,
        model=model,
        tokenizer=tokenizer,
        codec_folder=codec_folder,
        precision="fp32",
        info={"dataset_digest": "0" * 64, "parent_digest": None, "speakers": {"0": "ann", "1": "bob"}},
    )
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder, kernels=False)


@dataclass(frozen=True, kw_only=True)
class Twins:
    """One random model twice: in transformers, the oracle, and converted to this program's."""

    hf: Any
    """`CsmForConditionalGeneration`, fp32, eval."""
    model: CsmModel
    """The same weights here."""
    hf_folder: Path
    """What transformers' `save_pretrained` wrote."""
    folder: Path
    """What was converted from it."""


def make_twins(folder: Path, *, num_codebooks: int = 8, codebook_size: int = 64, seed: int = 0) -> Twins:
    """Small, with the released model's structure: shared keys, heads of 64 and 128, Llama 3's rope, tied embeddings.

    Text ids: 0 to 199; 197 begins, 198 is both padding and the place of audio, 199 ends audio.
    """
    from transformers import CsmConfig, CsmForConditionalGeneration

    from csm_model.checkpoints import convert, load_model

    shared = {"num_codebooks": num_codebooks, "vocab_size": codebook_size + 3}
    rope = {"rope_type": "llama3", "factor": 32.0}
    config = CsmConfig(
        **shared,
        text_vocab_size=200,
        hidden_size=256,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_scaling={
            **rope, "low_freq_factor": 0.125, "high_freq_factor": 0.5, "original_max_position_embeddings": 1024
        },
        bos_token_id=197,
        pad_token_id=198,
        audio_token_id=198,
        audio_eos_token_id=199,
        codebook_pad_token_id=codebook_size + 2,
        depth_decoder_config={
            **shared,
            "backbone_hidden_size": 256,
            "hidden_size": 256,
            "intermediate_size": 288,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {
                **rope,
                "low_freq_factor": 0.001953125,
                "high_freq_factor": 0.0078125,
                "original_max_position_embeddings": 16,
            },
        },
        codec_config={
            "model_type": "mimi", "num_quantizers": num_codebooks, "codebook_size": codebook_size, "hidden_size": 32,
            "num_filters": 4, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32,
            "upsample_groups": 32,
        },
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = CsmForConditionalGeneration(config).eval()
        with torch.no_grad():  # as made, all norms are alike and logits all but flat
            for name, weight in hf.named_parameters():
                if name.startswith("codec_model."):
                    continue
                if weight.dim() == 1:
                    weight.uniform_(0.5, 1.5)
                else:
                    weight.normal_(std=1.0 if "embed" in name else weight.shape[-1] ** -0.5)
    hf.save_pretrained(folder / "hf")
    convert(folder / "hf", folder / "csm", to="csm")
    return Twins(hf=hf, model=load_model(folder / "csm"), hf_folder=folder / "hf", folder=folder / "csm")


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("twins"))
