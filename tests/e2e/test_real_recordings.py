"""Recordings of a person, with what she says: Debian's prompts of Asterisk (Allison Smith, CC-BY-SA-3.0).

They are laid out in LibriSpeech's folders, ingested, tokenised by a codec with random weights, and trained on for a few
steps. Needs `apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav`.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.records import SPLITS
from csm_components.ingest.step import ingest
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_model.bundle import load_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.frames import FRAME_SECONDS, seconds_of
from csm_model.training.config import TrainingConfig
from csm_model.training.main import main
from csm_model.training.shards import load_tokens

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
CHAPTER = 10
PROMPTS = 120


def read_texts() -> dict[str, str]:
    """What is said in each sound file; lines in brackets describe a noise and are left out."""
    with gzip.open(TEXTS, "rt", encoding="utf-8", errors="replace") as file:
        rows = [line.strip().partition(":") for line in file if not line.startswith(";")]
    return {name: text.strip() for name, _, text in rows if text.strip() and text.strip()[0] not in "[(<"}


def lay_out(folder: Path) -> int:
    """Writes prompts of some length as `1/CHAPTER/1-CHAPTER-NUMBER.wav` with transcripts; returns how many."""
    known = [(SOUNDS / f"{name}.wav", text) for name, text in sorted(read_texts().items())]
    chosen = [(path, text) for path, text in known if path.is_file() and len(text.split()) >= 4][:PROMPTS]
    for number, (path, text) in enumerate(chosen):
        chapter = str(number // CHAPTER + 1)
        here = folder / "1" / chapter
        here.mkdir(parents=True, exist_ok=True)
        name = f"1-{chapter}-{number % CHAPTER:04}"
        (here / f"{name}.wav").symlink_to(path)
        with (here / f"1-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name} {text}\n")
    (folder / "SPEAKERS.TXT").write_text("1 | F | core | 25 | Allison Smith\n")
    (folder / "LICENSE").write_text("CC-BY-SA-3.0\n")
    return len(chosen)


@pytest.mark.skipif(
    not (SOUNDS.is_dir() and TEXTS.is_file()),
    reason="needs recordings: apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav",
)
def test_from_recordings_to_a_trained_bundle(tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    count = lay_out(tmp_path / "corpus")
    assert count == PROMPTS
    ingested = ingest(tmp_path / "corpus", tmp_path / "ingest", workers=2, console=quiet)
    assert ingested.speakers == {"0": "Allison Smith"}
    assert ingested.turns + ingested.rejected == count
    assert ingested.turns > 0.9 * count, "most of these recordings are good"
    found = list(read_conversations(tmp_path / "ingest"))
    assert {item.split for item in found} == {"train", "validation", "test"}
    assert {turn.license for item in found for turn in item.turns} == {"CC-BY-SA-3.0"}
    texts = {split: {t.text.lower() for i in found if i.split == split for t in i.turns} for split in SPLITS}
    assert not texts["train"] & texts["test"]

    torch.manual_seed(0)
    RvqCodec(RvqConfig.debug()).save(tmp_path / "codec")
    tokens = tokenise(
        tmp_path / "ingest",
        tmp_path / "codec",
        None,
        tmp_path / "tokens",
        1,
        check=CheckSettings(min_energy_correlation=-1),
        console=quiet,
    )
    assert tokens.turns == ingested.turns
    assert tokens.left_out == 0
    turns = [turn for split in texts for turn in load_tokens(tmp_path / "tokens", split)]
    seconds = seconds_of(sum(turn.codes.shape[1] for turn in turns))
    assert seconds == pytest.approx(ingested.speech_seconds, abs=FRAME_SECONDS * len(turns))

    config = TrainingConfig(
        tokens=str(tmp_path / "tokens"),
        out=str(tmp_path / "train"),
        model="debug",
        steps=20,
        row_length=512,
        batch_packs=1,
        log_every=1,
        warmup_steps=2,
        learning_rate=1e-2,
        validate_every=20,
    )
    config.save(tmp_path / "config.json")
    assert main(["--config", str(tmp_path / "config.json")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < sum(losses[:5]), "it learns something in twenty steps"
    bundle = load_bundle(tmp_path / "train/final")
    assert bundle.manifest["dataset_digest"] == ingested.digest
