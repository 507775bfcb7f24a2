"""The watches that stop a stream let recorded speech pass: held-out turns of the demo, through its codec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from csm_components.ingest.audio import read_sound
from csm_model.codec import load_codec
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_model.inference.safety import Bounds, Watch, frame_limit
from csm_model.text import PhonemeTokenizer

DEMO = Path(__file__).parents[2] / "deploy" / "demo"


def longest_turns(count: int) -> list[tuple[str, np.ndarray]]:
    """Text and sound of the longest turns of the test split."""
    rows = map(json.loads, (DEMO / "corpus" / "supervisions.jsonl").read_text(encoding="utf-8").splitlines())
    held_out = sorted((row for row in rows if row["custom"]["split"] == "test"), key=lambda row: -row["duration"])
    found = []
    for row in held_out[:count]:
        samples, rate = read_sound(DEMO / "corpus" / "audio" / f"{row['recording_id']}.opus")
        assert rate == SAMPLE_RATE
        found.append((row["text"], samples[round(row["start"] * rate) :][: round(row["duration"] * rate), 0]))
    return found


def test_the_longest_held_out_turns_pass() -> None:
    codec, tokenizer = load_codec(DEMO / "codec"), PhonemeTokenizer()
    for text, sound in longest_turns(8):
        with torch.inference_mode():
            codes = codec.encode(torch.from_numpy(sound)[None, None])
            decoded = codec.decode(codes)[0, 0].view(-1, FRAME_SAMPLES).numpy()
        watch = Watch(Bounds())
        assert [watch.see(codes[0, :, n], frame) for n, frame in enumerate(decoded)] == [None] * len(decoded), text
        assert codes.shape[2] <= frame_limit(tokenizer.sounds(tokenizer.encode(text, 0))), text
