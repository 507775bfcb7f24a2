"""The turns of a conversation before this one, read from a file for `csm say --context`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csm_model.errors import InputError
from csm_model.files import read_json
from csm_serving.wire.protocol import Turn


def read_turns(path: Path | None) -> tuple[Turn, ...]:
    """The turns in `path`: JSON, a list of objects with speaker, text and perhaps audio, a sound file beside it.

    Raises:
        InputError: no such file, another form, sound of another rate.
    """
    if path is None:
        return ()
    if not path.is_file():
        raise InputError(f"{path}: no such file; give JSON, a list of turns with speaker and text")
    turns = read_json(path)
    if not isinstance(turns, list):
        raise InputError(f"{path}: must be a list of turns with speaker and text")
    return tuple(_turn(path, number, turn) for number, turn in enumerate(turns))


def _turn(path: Path, number: int, turn: Any) -> Turn:
    if (
        not isinstance(turn, dict)
        or not {"speaker", "text"} <= turn.keys() <= {"speaker", "text", "audio"}
        or type(turn["speaker"]) is not int
        or not isinstance(turn["text"], str)
        or not isinstance(turn.get("audio", ""), str)
    ):
        raise InputError(f"{path}: turn {number} must have speaker, a number, text, and may have audio, a file's name")
    audio = None if "audio" not in turn else _sound(path.parent / turn["audio"])
    return Turn(speaker=turn["speaker"], text=turn["text"], audio=audio)


def _sound(path: Path) -> Any:
    """Mono samples [S] of 24 kHz."""
    import soundfile

    from csm_model.frames import SAMPLE_RATE

    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{path}: cannot be read as sound ({error})") from None
    if rate != SAMPLE_RATE:
        raise InputError(f"{path}: {rate} Hz; a context has {SAMPLE_RATE} Hz, resample it")
    return audio.mean(axis=1)
