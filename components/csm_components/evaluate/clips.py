"""Clips to be judged, each committed by itself: `NAME.wav`, then `NAME.json` that says how it was made.

A clip whose JSON has the key of what is asked for is there already and is not made again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from csm_components.evaluate.judges import Audio
from csm_components.evaluate.sources import Speaker, SpeechSource
from csm_model.errors import AudioError
from csm_model.files import atomic_path, known_json, write_json
from csm_model.frames import SAMPLE_RATE
from csm_serving.wire.protocol import SpeechRequest


@dataclass(frozen=True, kw_only=True)
class ClipPlace:
    """Where a clip lies."""

    wav: Path
    key: str
    """Digest of all that the sound depends on."""

    @property
    def note(self) -> Path:
        """The JSON file beside the sound, written after it."""
        return self.wav.with_suffix(".json")

    @property
    def committed(self) -> bool:
        """Whether the clip is there, and is this one."""
        return self.wav.exists() and (known_json(self.note) or {}).get("key") == self.key


def commit_clip(place: ClipPlace, audio: Audio, **facts: Any) -> None:
    """Writes float32 sound `[S]` as 16-bit WAV, then its note."""
    place.note.unlink(missing_ok=True)
    with atomic_path(place.wav) as partial:
        pcm = np.clip(np.rint(audio * 32767.0), -32768, 32767).astype(np.int16)
        soundfile.write(partial, pcm, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    write_json(place.note, {"key": place.key, "samples": len(audio), **facts})


def read_clip(path: Path) -> Audio:
    """Float32 sound `[S]` at 24 kHz."""
    try:
        audio, rate = soundfile.read(path, dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read ({error}); remove it and run evaluate again") from None
    assert rate == SAMPLE_RATE, rate
    sound: Audio = audio
    return sound


@dataclass(frozen=True, kw_only=True)
class SpeakTask:
    """One sentence to be spoken and committed."""

    source: SpeechSource
    request: SpeechRequest
    place: ClipPlace


_opened: tuple[SpeechSource, Speaker, contextlib.ExitStack] | None = None


def _speaker(source: SpeechSource) -> Speaker:
    """The speaker of `source`; loaded once in a process, and the one before is let go."""
    global _opened
    if _opened is None or _opened[0] != source:
        close_speaker()
        stack = contextlib.ExitStack()
        _opened = (source, stack.enter_context(source.open()), stack)
    return _opened[1]


def close_speaker() -> None:
    """Lets go of the model or the connection that this process holds."""
    global _opened
    if _opened is not None:
        _opened[2].close()
        _opened = None


def one_thread() -> None:
    """A worker computes on one core; the others have their own."""
    torch.set_num_threads(1)


def speak_clip(task: SpeakTask) -> float:
    """Speaks and commits one sentence; returns the seconds of sound."""
    speech = _speaker(task.source)(task.request)
    commit_clip(task.place, speech.audio, ended=speech.ended, took=speech.seconds)
    return len(speech.audio) / SAMPLE_RATE
