"""Whether a bundle uses the turn before: which turns are compared, what is measured, and how far it is followed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from csm_components.evaluate.context import Prosody, followed, nats_of, pairs_of, planted_answers, prosody_of
from csm_model.config import debug_config
from csm_model.frames import SAMPLE_RATE
from csm_model.model import CsmModel
from csm_model.training.data import DropoutSettings, PackedTokens, TurnsInMemory
from csm_model.training.loss import LossModule
from csm_model.training.packing import Packing
from csm_model.training.shards import TokenTurn


def turn(number: int, conversation: str, speaker: int, *, frames: int = 3) -> TokenTurn:
    rng = np.random.default_rng(number)
    return TokenTurn(
        id=f"{conversation}-{number}",
        conversation=conversation,
        split="test",
        speaker=speaker,
        text="Hello.",
        text_ids=rng.integers(0, 40, 5).astype(np.int32),
        codes=rng.integers(0, 32, (4, frames)).astype(np.int16),
    )


@pytest.mark.parametrize("seed", range(40))
def test_another_turn_is_of_the_same_voice_and_of_another_conversation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    speakers = [rng.integers(0, 3, rng.integers(1, 8)).tolist() for _ in range(rng.integers(1, 9))]
    if seed % 4 == 0:
        speakers = [[0, 1, 0, 1, 0]] * int(rng.integers(2, 9))
    turns = [turn(n, f"c{name}", who) for name, talk in enumerate(speakers) for n, who in enumerate(talk)]
    pairs = pairs_of(turns, seed=seed)
    place = {each.id: number for number, each in enumerate(turns)}
    for pair in pairs:
        assert place[pair.before.id] + 1 == place[pair.answer.id]
        assert pair.before.conversation == pair.answer.conversation != pair.other.conversation
        assert pair.before.speaker == pair.other.speaker != pair.answer.speaker
    for ids in (Counter(pair.answer.id for pair in pairs), Counter(pair.other.id for pair in pairs)):
        assert max(ids.values(), default=1) == 1
    assert pairs == pairs_of(turns, seed=seed)
    if seed % 4 == 0:
        assert len(pairs) == 4 * len(speakers), "talks that are alike have another one for every answer"


def test_likelihood_is_that_of_training() -> None:
    torch.manual_seed(1)
    model = CsmModel(debug_config(text_vocab_size=40, num_codebooks=4, codebook_size=32)).eval()
    turns = [turn(0, "a", 0), turn(1, "a", 1, frames=4)]
    reading = DropoutSettings(depth_share=1.0)
    packed = PackedTokens(TurnsInMemory(turns), model.config, packing=Packing(row_length=32), reading=reading)
    with torch.inference_mode():
        whole = float(LossModule(model)(packed.in_order(1)[0]).first)
    first = nats_of(model, turns[:1])
    second = nats_of(model, turns)
    assert whole == pytest.approx((4 * first + 5 * second) / 9, rel=1e-5)


def voice(*, level_db: float, swing: float, seconds: float) -> np.ndarray:
    """A tone of eight harmonics whose pitch swings by semitones, silence around it."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 150 * 2 ** (swing * np.sin(2 * np.pi * 1.5 * time) / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tone = sum(np.cos(k * phase) / k for k in range(1, 9))
    tone *= 10 ** (level_db / 20) / np.sqrt(np.mean(tone**2))
    silence = np.zeros(SAMPLE_RATE // 2)
    return np.concatenate([silence, tone, silence]).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_prosody_is_what_was_made(seed: int) -> None:
    level, swing, seconds = np.random.default_rng(seed).uniform((-40, 0.5, 1.0), (-15, 4, 2.5))
    found = prosody_of(voice(level_db=level, swing=swing, seconds=seconds), 30)
    assert found is not None
    assert found.loudness == pytest.approx(level, abs=0.7)
    assert found.pitch_range == pytest.approx(swing / 2**0.5, rel=0.3, abs=0.3)
    assert found.pace == pytest.approx(30 / seconds, rel=0.05)


@pytest.mark.parametrize("sound", [np.zeros(48_000, np.float32), np.zeros(100, np.float32)])
def test_silence_has_no_prosody(sound: np.ndarray) -> None:
    assert prosody_of(sound, 10) is None


@pytest.mark.parametrize("seed", range(10))
def test_following_is_a_correlation_within_the_voices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 300
    voices = [(int(a), int(b)) for a, b in rng.integers(0, 2, (count, 2))]
    before = rng.normal(size=(count, 3))
    answers = np.stack([before[:, 0], 0.6 * before[:, 1] + 0.8 * rng.normal(size=count), rng.normal(size=count)], 1)
    apart = np.array([[20.0 * a, 3.0 * b, a] for a, b in voices])  # what a voice is like explains nothing
    sides = [
        [Prosody(loudness=a, pitch_range=b, pace=c) for a, b, c in side] for side in (answers + apart, before + apart)
    ]
    loudness, pitch_range, pace = followed(*sides, voices)
    assert loudness == pytest.approx(1.0)
    assert pitch_range == pytest.approx(0.6, abs=0.15)
    assert pace == pytest.approx(0.0, abs=0.2)


def test_answers_that_follow_are_named_by_the_corpus(tmp_path: Path) -> None:
    planted = [
        ("a", "follows", None),
        ("a", "follows", 0),
        ("a", "follows", None),
        ("b", "mood", None),
        ("b", "mood", 0),
        ("b", "follows", 0),
    ]
    rows = [
        {"id": f"{name}{place}", "recording_id": name, "custom": {"planted": {"kind": kind, "follows": follows}}}
        for place, (name, kind, follows) in enumerate(planted)
    ]
    rows.append({"id": "c0", "recording_id": "c"})
    (tmp_path / "supervisions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert planted_answers(tmp_path) == {"a1"}
