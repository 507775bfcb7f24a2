"""Conversations keep the times of their recordings: pauses, overlap, and each speaker in a channel of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import corpus_layouts as layouts
import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from rich.console import Console

from csm_components.ingest.conversations import Conversation, read_conversations
from csm_components.ingest.intervals import union, without
from csm_components.ingest.step import IngestResult, ingest

RATE = 8_000
WORDS = "A good and honest sentence of words."


def quiet(corpus: Path, out: Path, **options: object) -> IngestResult:
    return ingest(corpus, out, workers=1, console=Console(quiet=True), **options)  # type: ignore[arg-type]


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    axis = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * axis)).astype(np.float32)


Turn = tuple[int, float, float]
"""Channel, start and seconds."""


def write_call(
    corpus: Path, name: str, turns: Sequence[Turn], *, channels: int = 2, rate: int = RATE, bleed: float = 0.0
) -> None:
    """A recording with a tone of its own in each channel while its speaker speaks, and a line in `calls.jsonl` a turn.

    `bleed` is what each channel hears of the others.
    """
    corpus.mkdir(exist_ok=True)
    length = round((max(start + seconds for _, start, seconds in turns) + 0.5) * rate)
    own = np.zeros((length, channels), np.float32)
    for channel, start, seconds in turns:
        first = round(start * rate)
        sound = tone(300 * (channel + 1), seconds, rate)
        own[first : first + len(sound), channel] = sound
    heard = own + bleed * (own.sum(axis=1, keepdims=True) - own)
    soundfile.write(corpus / f"{name}.wav", heard, rate, subtype="PCM_16")
    with (corpus / "calls.jsonl").open("a") as file:
        for number, (channel, start, seconds) in enumerate(turns):
            row = {
                "id": f"{name}-{number}", "audio": f"{name}.wav", "text": f"{WORDS} {name} {number}", "license": "MIT",
                "speaker": f"{name}-{channel}", "channel": channel, "start": start, "duration": seconds,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def share_of(hertz: float, samples: np.ndarray) -> float:
    """Share of a sound's energy within 40 Hz of a pitch."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    pitch = np.fft.rfftfreq(len(samples), 1 / 24_000)
    return float(power[np.abs(pitch - hertz) < 40].sum() / power.sum())


def some_call(rng: random.Random, channels: int) -> list[Turn]:
    """Turns with pauses, answers within others' turns, and turns at once."""
    turns: list[Turn] = []
    free, now = [0.0] * channels, 0.2
    for _ in range(rng.randint(2, 9)):
        channel = rng.randrange(channels)
        seconds = round(rng.uniform(1.6, 3.5), 3)
        start = round(max(free[channel], now + rng.choice([-0.7, -0.1, 0.0, 0.4, 2.0])), 3)
        turns.append((channel, start, seconds))
        free[channel] = start + seconds + 0.01
        now = max(now, start + seconds)
    return sorted(turns, key=lambda turn: turn[1])


@pytest.mark.parametrize("seed", range(8))
def test_channels_of_a_recording_keep_their_times_and_are_heard_alone(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    calls = {}
    for number in range(4):
        channels = rng.choice([2, 2, 3])
        calls[f"call-{number}"] = some_call(rng, channels)
        rate = rng.choice([8_000, 16_000, 44_100])
        write_call(
            tmp_path / "corpus", f"call-{number}", calls[f"call-{number}"], channels=channels, rate=rate, bleed=0.1
        )
    result = quiet(tmp_path / "corpus", tmp_path / "out")
    assert (result.conversations, result.rejected) == (4, 0)
    for conversation in read_conversations(tmp_path / "out"):
        turns = calls[conversation.id]
        used = sorted({channel for channel, _, _ in turns})
        assert conversation.channels == len(used)
        for turn, (channel, start, seconds) in zip(conversation.turns, turns, strict=True):
            assert turn.start == pytest.approx(start, abs=0.001)
            assert turn.duration == pytest.approx(seconds, abs=0.001)
            audio = conversation.audio(turn)
            assert len(audio) == turn.samples
            for other in used:
                share = share_of(300 * (other + 1), audio)
                assert share > 0.9 if other == channel else share < 0.02


def test_the_pauses_of_a_call_stay(tmp_path: Path) -> None:
    starts = [0.24, 2.33, 4.35]  # once laid end to end: 0.0, 2.09, 4.11
    write_call(tmp_path / "corpus", "call", [(0, starts[0], 1.85), (1, starts[1], 1.78), (0, starts[2], 2.0)])
    quiet(tmp_path / "corpus", tmp_path / "out")
    call = next(read_conversations(tmp_path / "out"))
    assert [turn.start for turn in call.turns] == pytest.approx(starts, abs=0.02)


def test_a_track_holds_its_own_turns_and_the_sum_is_the_conversation(tmp_path: Path) -> None:
    turns = [(0, 0.5, 2.0), (1, 1.5, 2.0), (0, 5.0, 2.0)]
    write_call(tmp_path / "corpus", "call", turns, bleed=0.5)
    quiet(tmp_path / "corpus", tmp_path / "out")
    call = next(read_conversations(tmp_path / "out"))
    tracks, _ = soundfile.read(call.path, dtype="float32")
    for channel in (0, 1):
        own = np.zeros(len(tracks), bool)
        for turn in call.turns:
            own[turn.start_sample : turn.start_sample + turn.samples] |= turn.channel == channel
        assert not tracks[~own, channel].any()
        assert tracks[own, channel].any()
    np.testing.assert_allclose(call.audio(), tracks.sum(axis=1), atol=1e-6)
    (cut,) = CutSet.from_jsonl_lazy(tmp_path / "out/cuts.jsonl.gz")
    assert cut.channel == [0, 1]
    assert [item.channel for item in cut.supervisions] == [0, 1, 0]
    np.testing.assert_array_equal(cut.recording.with_path_prefix(tmp_path / "out").load_audio(), tracks.T)


def test_the_sum_never_clips(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    loud = np.stack([tone(300, 3) * 3.2, tone(300, 3) * 3.2], axis=1)
    soundfile.write(tmp_path / "corpus/call.wav", loud, RATE, subtype="PCM_16")
    rows = [
        {"audio": "call.wav", "text": WORDS, "speaker": str(channel), "channel": channel, "start": 0.1, "duration": 2.5,
         "license": "MIT"}
        for channel in (0, 1)
    ]  # fmt: skip
    (tmp_path / "corpus/calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet(tmp_path / "corpus", tmp_path / "out")
    call = next(read_conversations(tmp_path / "out"))
    assert np.abs(call.audio()).max() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(call.audio(call.turns[0])).max() == pytest.approx(0.96, abs=0.02)


def test_a_turn_that_is_left_out_is_heard_in_no_channel(tmp_path: Path) -> None:
    turns = [(0, 0.5, 3.0), (1, 2.0, 3.0), (0, 6.0, 2.0)]
    write_call(tmp_path / "corpus", "call", turns, bleed=0.3)
    rows = [json.loads(line) for line in (tmp_path / "corpus/calls.jsonl").read_text().splitlines()]
    rows[1]["license"] = "All rights reserved"
    (tmp_path / "corpus/calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet(tmp_path / "corpus", tmp_path / "out")
    call = next(read_conversations(tmp_path / "out"))
    assert call.channels == 1  # the other speaker has nothing to say
    assert [turn.start for turn in call.turns] == pytest.approx([0.5, 6.0], abs=0.001)
    assert not call.audio()[round(3.6 * 24_000) : round(5.9 * 24_000)].any()


def test_overlapping_turns_of_one_channel_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    soundfile.write(tmp_path / "corpus/talk.wav", tone(440, 6.0, 24_000), 24_000, subtype="PCM_16")
    rows = [
        {"audio": "talk.wav", "text": f"{WORDS} {number}", "speaker": str(number), "start": start, "duration": 2.5,
         "license": "MIT"}
        for number, start in enumerate((0.5, 1.5, 3.0))
    ]  # fmt: skip
    (tmp_path / "corpus/talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet(tmp_path / "corpus", tmp_path / "out")
    talk = next(read_conversations(tmp_path / "out"))
    original, _ = soundfile.read(tmp_path / "corpus/talk.wav", dtype="float32")
    np.testing.assert_array_equal(talk.audio(), original)
    assert [turn.start for turn in talk.turns] == [0.5, 1.5, 3.0]


def test_microphones_of_one_meeting_share_a_clock(tmp_path: Path) -> None:
    layouts.ami(tmp_path / "corpus")
    expected = {turn[0]: turn for turn in layouts.ami(tmp_path / "again")}
    quiet(tmp_path / "corpus", tmp_path / "out")
    found: list[Conversation] = list(read_conversations(tmp_path / "out"))
    assert found
    for meeting in found:
        assert meeting.channels > 1
        for turn in meeting.turns:
            assert turn.start == pytest.approx(expected[turn.id][3], abs=0.001)


@pytest.mark.parametrize("seed", range(20))
def test_sets_of_stretches_are_sets_of_samples(seed: int) -> None:
    rng = random.Random(seed)

    def some() -> list[tuple[int, int]]:
        starts = [rng.randrange(100) for _ in range(rng.randrange(12))]
        return [(start, start + rng.randrange(15)) for start in starts]

    def samples(stretches: Sequence[tuple[int, int]]) -> set[int]:
        return {sample for start, end in stretches for sample in range(start, end)}

    ours, others = some(), some()
    both: list[Callable[[], list[tuple[int, int]]]] = [
        lambda: union(ours), lambda: without(union(ours), union(others))
    ]  # fmt: skip
    for found, wanted in zip(both, (samples(ours), samples(ours) - samples(others)), strict=True):
        stretches = found()
        assert samples(stretches) == wanted
        assert all(start < end for start, end in stretches)
        assert stretches == sorted(stretches)
