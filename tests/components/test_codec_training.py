"""Training a codec from a corpus: it ends with a codec that tokenise can load, resumes, and refuses what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from csm_components.codec.step import load_clips, train_codec
from csm_model.codec import RvqCodec, RvqConfig, load_codec
from csm_model.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LibriSpeech folders with two chapters of tones."""
    root = tmp_path_factory.mktemp("corpus")
    time = np.arange(24_000 * 2) / 24_000
    for chapter in range(8):
        folder = root / "1" / str(chapter)
        folder.mkdir(parents=True)
        sound = 0.3 * np.sin(2 * np.pi * (200 + 20 * chapter) * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
        soundfile.write(folder / f"1-{chapter}-0000.flac", sound, 24_000)
        (folder / f"1-{chapter}.trans.txt").write_text(
            f"1-{chapter}-0000 THIS IS SENTENCE NUMBER {'ABCDEFGH'[chapter]}\n"
        )
    (root / "LICENSE").write_text("CC0-1.0\n")
    return root


def test_both_stages_make_a_codec_once(corpus: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    first = train_codec([corpus, corpus], tmp_path, minutes=20, sizes="debug", max_steps=12, say=lines.append)
    assert first.clips == 2 * len(load_clips(tmp_path / "conversations/0")), "a corpus named twice counts twice"
    assert first.steps == 24
    assert load_codec(tmp_path).digest == first.digest
    assert lines[0].startswith("joint")
    assert train_codec([corpus, corpus], tmp_path, minutes=20, sizes="debug", max_steps=12, say=print).reused
    with pytest.raises(InputError, match="other data or settings"):
        train_codec([corpus, corpus], tmp_path, minutes=20, sizes="debug", max_steps=13, say=print)
    with pytest.raises(InputError, match="other data or settings"):
        train_codec([corpus], tmp_path, minutes=20, sizes="debug", max_steps=12, say=print)


def test_sounds_without_texts_add_to_the_clips(corpus: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "sounds" / "anna"
    sounds.mkdir(parents=True)
    for number in range(3):
        soundfile.write(sounds / f"{number}.wav", np.zeros((22_050, 2)), 22_050)
    options = {"minutes": 20, "sizes": "debug", "max_steps": 2, "stage": "joint"}
    alone = train_codec([corpus], tmp_path / "alone", **options)
    both = train_codec([corpus], tmp_path / "both", sounds=[sounds.parent, sounds], **options)
    assert both.clips == alone.clips + 2 * 3
    assert both.dataset_digest != alone.dataset_digest
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="nothing: holds no sound files"):
        train_codec([corpus], tmp_path / "again", sounds=[tmp_path / "nothing"], **options)


@pytest.mark.parametrize("stage", ["joint", "decoder"])
def test_a_training_goes_on_with_more_codebooks(corpus: Path, tmp_path: Path, stage: str) -> None:
    begun = RvqCodec(replace(RvqConfig.debug(), num_codebooks=2)).eval()
    begun.save(tmp_path / "begun")
    options = {"minutes": 20, "sizes": "debug", "max_steps": 2, "stage": stage, "start": tmp_path / "begun"}
    train_codec([corpus], tmp_path / "out", codebooks=3, **options)
    made = load_codec(tmp_path / "out")
    assert isinstance(made, RvqCodec)
    assert made.num_codebooks == made.quantizer.filled == 3
    assert torch.equal(made.quantizer.codebooks[:2], begun.quantizer.codebooks.half().float()) == (stage == "decoder")
    assert train_codec([corpus], tmp_path / "out", codebooks=3, **options).reused
    with pytest.raises(InputError, match="0 codebooks: a codec has at least one"):
        train_codec([corpus], tmp_path / "again", codebooks=0, **options)


def test_refusals(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are joint, decoder, both"):
        train_codec([corpus], tmp_path, minutes=1, stage="all")
    with pytest.raises(InputError, match="needs a codec to begin from"):
        train_codec([corpus], tmp_path, minutes=1, stage="decoder")
    with pytest.raises(InputError, match="there are demo, debug"):
        train_codec([corpus], tmp_path, minutes=1, sizes="huge")
    with pytest.raises(InputError, match="nowhere"):
        train_codec([tmp_path / "nowhere"], tmp_path, minutes=1)
