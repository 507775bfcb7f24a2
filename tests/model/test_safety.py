"""What stops a stream that the model does not end, and that speech is not stopped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from csm_model.bundle import Bundle
from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.generator import Generator
from csm_model.inference.safety import (
    LONGEST_CYCLE,
    SILENCE_FLOOR,
    SILENCE_SHARE,
    Bounds,
    Reason,
    RepeatWatch,
    SilenceWatch,
    Watch,
    frame_limit,
)
from csm_model.inference.sampling import Sampling


def sound(level: float) -> np.ndarray:
    """A frame of this root mean square."""
    return np.full(FRAME_SAMPLES, level, np.float32)


def stops(codes: Sequence[int], levels: Sequence[float], bounds: Bounds) -> tuple[int, Reason] | None:
    """Frames until the watch stops the stream, and why; None where it does not."""
    watch = Watch(bounds)
    for number, (code, level) in enumerate(zip(codes, levels, strict=True), start=1):
        reason = watch.see(torch.tensor([code, 0, 0]), sound(level))
        if reason is not None:
            return number, reason
    return None


BOUNDS = Bounds(silent_frames=6, repeated_frames=5)
LOUD = 0.1


def test_silence_stops_before_in_and_after_speech() -> None:
    fresh = range(100)
    assert stops(fresh, [0.0] * 100, BOUNDS) == (6, Reason.SILENCE)
    assert stops(fresh, [LOUD] * 10 + [0.0] * 90, BOUNDS) == (16, Reason.SILENCE)
    assert stops(fresh, ([LOUD] + [0.0] * 5) * 16 + [LOUD] * 4, BOUNDS) is None


def test_silence_is_below_a_floor_or_far_below_what_was_loud() -> None:
    watch = SilenceWatch()
    assert [watch.see(sound(level)) for level in (0.9 * SILENCE_FLOOR, 1.1 * SILENCE_FLOOR)] == [1, 0]
    watch.see(sound(LOUD))
    quiet = SILENCE_SHARE * LOUD
    assert [watch.see(sound(level)) for level in (1.1 * quiet, 0.9 * quiet)] == [0, 1]


@pytest.mark.parametrize("cycle", [1, 2, 5, 7, LONGEST_CYCLE])
def test_a_cycle_stops_once_it_came_again_for_long_enough(cycle: int) -> None:
    codes = list(range(100, 110)) + [n % cycle for n in range(100)]
    again = max(5, cycle)
    assert stops(codes, [LOUD] * len(codes), BOUNDS) == (10 + cycle + again, Reason.REPEAT)


def test_what_is_no_cycle_goes_on() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1000, 300).tolist()
    assert stops(codes, [LOUD] * 300, BOUNDS) is None
    too_long = [n % (LONGEST_CYCLE + 1) for n in range(300)]
    assert stops(too_long, [LOUD] * 300, BOUNDS) is None
    stammer = [*codes[:10], *codes[6:10], *codes[50:60]]  # four frames said twice at once
    assert stops(stammer, [LOUD] * len(stammer), BOUNDS) is None


def test_the_refrain_of_a_longer_cycle_is_none_yet() -> None:
    watch = RepeatWatch()
    verse = [*range(20), *range(6)]
    for code in verse:
        watch.see(code, 0)
    assert (watch.run, watch.whole) == (6, 0)


def test_a_silent_cycle_is_left_to_the_other_watch() -> None:
    codes = [*range(10), *([7] * 50)]
    assert stops(codes, [LOUD] * 10 + [0.0] * 50, Bounds(silent_frames=0, repeated_frames=5)) is None
    assert stops(codes, [LOUD] * 10 + [0.0] * 50, BOUNDS) == (16, Reason.SILENCE)
    beats = [n % 4 for n in range(60)]  # a click and a pause, again and again: not silence, but a cycle
    levels = [LOUD if n % 4 == 0 else 0.0 for n in range(60)]
    assert stops(beats, levels, BOUNDS) == (4 + 5, Reason.REPEAT)


def test_a_bound_of_zero_switches_off_and_below_is_refused() -> None:
    assert stops([1] * 60, [LOUD] * 60, Bounds(silent_frames=0, repeated_frames=0)) is None
    with pytest.raises(InputError, match="silent_frames -1: must be 0"):
        Bounds(silent_frames=-1)


def test_frame_limit_grows_with_the_text_and_can_only_be_lowered() -> None:
    assert frame_limit(10) < frame_limit(100)
    assert frame_limit(10, 5) == 5
    assert frame_limit(10, 10_000) == frame_limit(10)
    with pytest.raises(InputError, match="max_frames 0"):
        frame_limit(10, 0)


LIKELIEST = Sampling(temperature=0.0, depth_temperature=0.0)


def test_a_stream_says_why_it_stopped(bundle: Bundle) -> None:
    """Without chance a random model falls into a cycle, and its codec's mumble is not silent but can be called so."""
    text = "Hello there, how are you today?"
    off = Generator(bundle, bounds=Bounds(silent_frames=0, repeated_frames=0))
    free = off.speak(text, 1, sampling=LIKELIEST)
    watched = Generator(bundle, bounds=Bounds(repeated_frames=5)).speak(text, 1, sampling=LIKELIEST)
    assert watched.reason is Reason.REPEAT
    frames = watched.codes.shape[1]
    assert frames < free.codes.shape[1]
    assert torch.equal(watched.codes, free.codes[:, :frames]), "a watch stops speech and changes nothing else"
    cut = off.speak(text, 1, sampling=LIKELIEST, max_frames=3)
    assert (cut.reason, cut.codes.shape[1], cut.ended) == (Reason.CUT, 3, False)


def test_silence_stops_a_stream_and_an_end_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(bundle, bounds=Bounds(silent_frames=4, repeated_frames=0))
    reasons = {generator.speak("Hello there.", 0, sampling=Sampling(seed=seed)).reason for seed in range(20)}
    assert Reason.ENDED in reasons
    monkeypatch.setattr("csm_model.inference.safety.SILENCE_FLOOR", 10.0)
    quiet = generator.speak("Hello there.", 0, sampling=LIKELIEST)
    assert (quiet.reason, quiet.codes.shape[1]) == (Reason.SILENCE, 4)
