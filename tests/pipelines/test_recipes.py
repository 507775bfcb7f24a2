"""The recipe of every preset is one that the trainer takes, and trains, at debug size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_tokens import write_manifest

from csm_model.codec import RvqCodec
from csm_model.config import CONFIGS
from csm_model.files import read_json
from csm_model.text import PhonemeTokenizer
from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import World
from csm_model.training.shards import TokenTurn, write_index, write_shard
from csm_model.training.trainer import Trainer
from csm_pipelines.presets import PRESETS, preset
from csm_pipelines.tiny import random_codec

ALONE = World(rank=0, size=1)
SMALL = {"model": "debug", "steps": 2, "row_length": 256, "batch_packs": 1, "warmup_steps": 1, "validate_every": 2}
TURNS = [("Hello there.", 0, ()), ("Um, hello!", 1, ("laughing",)), ("How are you?", 1, ()), ("Fine.", 0, ())]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of two speakers, with a tagged turn, which has a filler word too."""
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer, codec = PhonemeTokenizer(), RvqCodec.load(random_codec(folder / "codec"))
    tokenizer.save(folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    turns = [
        TokenTurn(
            id=f"{conversation}-{number}",
            conversation=str(conversation),
            split="train",
            speaker=speaker,
            text=text,
            text_ids=np.array(tokenizer.encode(text, speaker), np.int32),
            codes=rng.integers(0, codec.codebook_size, (codec.num_codebooks, 12)).astype(np.int16),
            tags=tags,
        )
        for conversation in range(3)
        for number, (text, speaker, tags) in enumerate(TURNS)
    ]
    row = write_shard(folder / "train-00000.safetensors", turns)
    indexes = {"train": write_index(folder, "train", [row["file"]])}
    tags = {"laughing": 3}
    write_manifest(
        folder, tokenizer, codec, speakers=("heart", "kumo"), tags=tags, splits={"train": [row]}, indexes=indexes
    )
    return folder


def weights(config: TrainingConfig) -> dict[str, np.ndarray]:
    return load_file(Path(config.out) / "final" / "model.safetensors")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_recipe_trains(name: str, tokens: Path, tmp_path: Path) -> None:
    recipe = preset(name).train.recipe
    asked = TrainingConfig(tokens=str(tokens), out=str(tmp_path / "out"), **recipe)
    assert asked.model in CONFIGS
    scratch = TrainingConfig(tokens=str(tokens), out=str(tmp_path / "base"), **SMALL)
    Trainer(scratch, ALONE).run()
    small = TrainingConfig(
        tokens=str(tokens), out=str(tmp_path / "out"), base=str(tmp_path / "base" / "final"), **{**recipe, **SMALL}
    )
    manifest = Trainer(small, ALONE).run()
    assert manifest["recipe"]["trainable"] == asked.trainable
    assert manifest["parent_digest"] == read_json(tmp_path / "base" / "final" / "manifest.json")["digest"]
    before, after = weights(scratch), weights(small)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    expected = {
        "all": set(before),
        "lora": {key for key in before if ".attn." in key or ".mlp." in key},
        "depth": {key for key in before if key.startswith(("decoder.", "projection.", "audio_head"))},
    }
    assert changed == expected[asked.trainable]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("demo", [1.0, 1.0, 1.0, 1.0]),
        ("emotion", [0.25, 1.0, 0.25, 0.25]),
        ("one-voice", [0.0, 1.0, 1.0, 0.0]),
        ("fewer-fillers", [1.0, 0.0, 1.0, 1.0]),
    ],
)
def test_what_each_turn_counts(name: str, counts: list[float], tokens: Path, tmp_path: Path) -> None:
    small = {**preset(name).train.recipe, **SMALL, "batch_packs": 1}
    trainer = Trainer(TrainingConfig(tokens=str(tokens), out=str(tmp_path), **small), ALONE)
    found: dict[int, set[float]] = {}
    batch = trainer.train_data.batch([0])
    _, documents = trainer.train_data.packs[0]
    weight = {}
    place = 0
    for document in documents:
        for number in range(document.first, document.last):
            rows = int(trainer.train_data.packs.lengths.rows[number])
            weight |= {row: number % len(TURNS) for row in range(place, place + rows)}
            place += rows
    for row, counted in zip(batch.first.places.tolist(), batch.first.weights.tolist(), strict=True):
        found.setdefault(weight[row], set()).add(counted)
    assert found == {turn: {counts[turn]} for turn in set(weight.values()) if counts[turn]}
