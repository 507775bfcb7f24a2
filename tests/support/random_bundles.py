"""A bundle of random weights, its sound nonsense and its arithmetic true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from csm_model.bundle import write_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer, Tokenizer


def random_bundle(folder: Path, *, layers: int = 2, tokenizer: Tokenizer | None = None, seed: int = 7) -> Path:
    """Two speakers, 4 codebooks of 32; guided, so that both rows of a guided batch are served."""
    torch.manual_seed(seed)
    config = RvqConfig.debug()
    codec = RvqCodec(config)
    codec.save(folder / "codec")
    tokenizer = tokenizer or PhonemeTokenizer(num_speakers=2)
    sizes = debug_config(
        text_vocab_size=tokenizer.vocab_size,
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
    )
    sizes = replace(sizes, text_prefix=tokenizer.text_prefix)
    model = CsmModel(replace(sizes, backbone=replace(sizes.backbone, layers=layers)))
    for parameter in model.parameters():
        parameter.data *= 8  # random weights of the usual size give one distribution whatever is asked
    model.codebook0_head.weight.data[model.config.end_code] = 0.0  # never the likeliest: a greedy stream does not end
    write_bundle(
        folder / "bundle",
        model=model,
        tokenizer=tokenizer,
        codec_folder=folder / "codec",
        precision="fp32",
        info={"speakers": {"0": "heart", "1": "kumo"}, "sampling": {"temperature": 0.9, "guidance": 1.5, "top_k": 10}},
    )
    return folder / "bundle"
