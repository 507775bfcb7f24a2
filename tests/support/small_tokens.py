"""Tokens of a few turns whose codes follow the text, so that they can be learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from csm_model.codec import RvqCodec
from csm_model.files import digest_of, write_json
from csm_model.text import PhonemeTokenizer
from csm_model.training.shards import TokenTurn, write_index, write_shard

LINES = ("Hello there.", "How are you today?", "It is sunny in Rome.", "See you at nine thirty.")


def write_tokens(folder: Path, codec_folder: Path) -> None:
    """Twelve conversations of four turns, and two held-out ones, as tokenise writes them."""
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
    write_manifest(folder, tokenizer, codec, speakers=("ann", "bob"), tags={}, splits=rows, indexes=indexes)


def write_manifest(
    folder: Path,
    tokenizer: PhonemeTokenizer,
    codec: RvqCodec,
    *,
    speakers: Sequence[str],
    tags: Mapping[str, int],
    splits: Mapping[str, Any],
    indexes: Mapping[str, Any],
) -> None:
    """Names all that tokenise wrote, with the digest of it."""
    manifest = {
        "format": 1,
        "codec_digest": codec.digest,
        "tokenizer_digest": tokenizer.digest,
        "dataset_digest": "0" * 64,
        "num_codebooks": codec.num_codebooks,
        "codebook_size": codec.codebook_size,
        "vocab_size": tokenizer.vocab_size,
        "text_prefix": tokenizer.text_prefix,
        "speakers": {str(number): name for number, name in enumerate(speakers)},
        "tags": tags,
        "splits": splits,
        "indexes": indexes,
    }
    write_json(folder / "manifest.json", {**manifest, "digest": digest_of(manifest)})
