"""Corpora of speech-like sound in every layout, and a real S3 service."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from object_store import seaweedfs

from csm_components.settings import Settings

RATE = 24_000
TALKS = {
    "talk-1": [("0", "Good morning."), ("1", "Hello, how are you?"), ("0", "Very well, thank you.")],
    "talk-2": [("0", "Is it raining?"), ("1", "No, the sun is out.")],
    "talk-3": [("1", "Two tickets, please."), ("0", "That is nine pounds.")],
    "talk-4": [("0", "Where is the station?"), ("1", "Over the bridge.")],
}


READINGS = (
    "CHAPTER ONE",
    "THE RAIN HAD STOPPED AND I WENT OUT",
    "NOBODY WAS THERE",
    "A DOG BARKED TWICE",
    "WE SAT DOWN TO SUPPER",
    "SHE LAUGHED ALOUD",
    "THE BOAT CAME IN",
    "IT WAS ALREADY DARK",
)


def speech(text: str, speaker: int = 0, rate: int = RATE) -> np.ndarray:
    """A voiced sound with a syllable's rhythm, as long as the text takes to say: float32 `[S]`."""
    seconds = 0.3 + len(text) / 15
    time_axis = np.arange(round(seconds * rate)) / rate
    pitch = (110, 210, 160)[speaker % 3] * (1 + 0.05 * np.sin(2 * np.pi * 2.1 * time_axis + len(text)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 12))
    rhythm = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * time_axis)
    return (0.2 * voiced * rhythm).astype(np.float32)


def write_lhotse(folder: Path, *, packed: bool = False, splits: dict[str, str] | None = None) -> Path:
    """`TALKS` as a lhotse corpus, one recording a conversation, sound in `audio/`."""
    (folder / "audio").mkdir(parents=True)
    recordings, supervisions = [], []
    for name, turns in TALKS.items():
        pieces, position = [np.zeros(RATE // 4, np.float32)], RATE // 4
        for number, (speaker, text) in enumerate(turns):
            audio = speech(text, int(speaker))
            custom = {"voice": ("anna", "ben")[int(speaker)], "license": "CC-BY-4.0", "origin": "made for tests"}
            if splits:
                custom["split"] = splits[name]
            supervisions.append(
                {
                    "id": f"{name}-{number}",
                    "recording_id": name,
                    "start": position / RATE,
                    "duration": round(len(audio) / RATE, 6),
                    "channel": 0,
                    "text": text,
                    "speaker": speaker,
                    "custom": custom,
                }
            )
            pieces += [audio, np.zeros(RATE // 4, np.float32)]
            position += len(audio) + RATE // 4
        soundfile.write(folder / "audio" / f"{name}.flac", np.concatenate(pieces), RATE)
        recordings.append(
            {
                "id": name,
                "sources": [{"type": "file", "channels": [0], "source": f"audio/{name}.flac"}],
                "sampling_rate": RATE,
                "num_samples": position,
                "duration": position / RATE,
                "channel_ids": [0],
            }
        )
    for kind, rows in (("recordings", recordings), ("supervisions", supervisions)):
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path = folder / f"{kind}.jsonl{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(text) if packed else text)
    return folder


def write_librispeech(folder: Path) -> Path:
    """Two people, two chapters each, in LibriSpeech's folders, 16 kHz."""
    texts = iter(READINGS)
    for speaker in ("84", "1089"):
        for chapter in ("101", "102"):
            here = folder / "train-clean-5" / speaker / chapter
            here.mkdir(parents=True)
            lines = []
            for number in range(2):
                name, text = f"{speaker}-{chapter}-{number:04}", next(texts)
                soundfile.write(here / f"{name}.flac", speech(text, int(speaker), 16_000), 16_000)
                lines.append(f"{name} {text}\n")
            (here / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (folder / "SPEAKERS.TXT").write_text(";ID|SEX|SUBSET|MINUTES|NAME\n84 | F | train-clean-5 | 8.02 | Ann Lee\n")
    (folder / "LICENSE.TXT").write_text("Attribution 4.0 International\n\nCreative Commons is not a law firm.")
    return folder


@pytest.fixture
def lhotse_corpus(tmp_path: Path) -> Path:
    """A lhotse corpus without splits."""
    return write_lhotse(tmp_path / "corpus")


@pytest.fixture(scope="session")
def write_corpus() -> dict[str, Callable[..., Path]]:
    """The writers of corpora by the name of their layout."""
    return {"lhotse": write_lhotse, "librispeech": write_librispeech}


@pytest.fixture
def say() -> Callable[..., np.ndarray]:
    """`speech`."""
    return speech


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real SeaweedFS on loopback; yields the settings that reach it."""
    with seaweedfs(tmp_path_factory.mktemp("seaweed")) as settings:
        yield settings


@pytest.fixture(scope="session")
def debug_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny codec with random weights, always the same: its codes mean nothing, but everything about it works."""
    import torch

    from csm_model.codec import RvqCodec, RvqConfig

    folder = tmp_path_factory.mktemp("codec") / "codec"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RvqCodec(RvqConfig.debug()).save(folder)
    return folder


@pytest.fixture(scope="session")
def tokens(
    tmp_path_factory: pytest.TempPathFactory, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> Path:
    """Token shards of four small talks: two to train on, one to validate, one to test."""
    from csm_components.ingest.step import ingest
    from csm_components.tokenise.knobs import CheckSettings
    from csm_components.tokenise.step import tokenise

    home = tmp_path_factory.mktemp("talks")
    splits = {"talk-1": "train", "talk-2": "train", "talk-3": "validation", "talk-4": "test"}
    corpus = write_corpus["lhotse"](home / "corpus", splits=splits)
    ingest(corpus, home / "ingest")
    tokenise(home / "ingest", debug_codec, None, home / "tokens", 1, check=CheckSettings(min_energy_correlation=-1))
    return home / "tokens"
