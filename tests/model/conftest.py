"""Small real things for the model's tests: a random debug codec, tokens of synthetic turns, a random bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from csm_model.bundle import Bundle, load_bundle, write_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.files import digest_of, write_json
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer
from csm_model.training.shards import TokenTurn, write_index, write_shard

LINES = ("Hello there.", "How are you today?", "It is sunny in Rome.", "See you at nine thirty.")


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
    tokenizer = PhonemeTokenizer()
    codec = RvqCodec.load(codec_folder)
    rng = np.random.default_rng(0)
    splits = {"train": 12, "validation": 2}
    rows, indexes = {}, {}
    for split, count in splits.items():
        turns = []
        for conversation in range(count):
            for number, line in enumerate(LINES):
                ids = tokenizer.encode(line, number % 2)
                codes = np.array(
                    [[(i * 7 + k) % codec.codebook_size for i in ids[2:]] for k in range(codec.num_codebooks)]
                )
                noise = rng.integers(0, codec.codebook_size, codes.shape)
                turns.append(
                    TokenTurn(
                        id=f"{split}-{conversation}-{number}",
                        conversation=f"{split}-{conversation}",
                        split=split,
                        speaker=number % 2,
                        text=line,
                        text_ids=np.array(ids, np.int32),
                        codes=np.where(rng.random(codes.shape) < 0.05, noise, codes).astype(np.int16),
                    )
                )
        rows[split] = [write_shard(folder / f"{split}-00000.safetensors", turns)]
        indexes[split] = write_index(folder, split, [row["file"] for row in rows[split]])
    tokenizer.save(folder / "tokenizer.json")
    codec.save(folder / "codec")
    manifest = {
        "format": 1,
        "codec_digest": codec.digest,
        "tokenizer_digest": tokenizer.digest,
        "dataset_digest": "0" * 64,
        "num_codebooks": codec.num_codebooks,
        "codebook_size": codec.codebook_size,
        "vocab_size": tokenizer.vocab_size,
        "text_prefix": tokenizer.text_prefix,
        "speakers": {"0": "ann", "1": "bob"},
        "splits": rows,
        "indexes": indexes,
    }
    write_json(folder / "manifest.json", {**manifest, "digest": digest_of(manifest)})
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
    return load_bundle(bundle_folder)
