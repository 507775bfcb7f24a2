"""Sound as it arrives: into a file, into this machine's loudspeaker."""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from csm_model.errors import InputError, MissingDependencyError
from csm_model.files import atomic_path
from csm_model.frames import SAMPLE_RATE
from csm_serving.wire.tensors import Samples

Listener = Callable[[Samples], None]
"""Hears each chunk of samples `[1920]` as it arrives."""
Writer = Callable[[Samples, bytes], object]
"""Takes each chunk's samples, and the bytes that they came in where they came encoded."""

_FORMATS = {".wav": ("WAV", "PCM_16"), ".opus": ("OGG", "OPUS")}

_PLAYERS = (
    ("pw-play", "--rate=24000", "--channels=1", "--format=s16", "-"),
    ("paplay", "--raw", "--rate=24000", "--channels=1", "--format=s16le"),
    ("aplay", "-q", "-t", "raw", "-r", "24000", "-c", "1", "-f", "S16_LE"),
    ("ffplay", "-loglevel", "quiet", "-nodisp", "-autoexit", "-f", "s16le", "-ar", "24000", "-i", "-"),
)


@contextlib.contextmanager
def sound_writer(path: Path) -> Iterator[Writer]:
    """Yields a function that appends sound to a 16-bit WAV or an Ogg Opus file, by the name's suffix.

    `path` appears, complete, when the block ends well. What comes as Opus goes into an Opus file as it came.

    Raises:
        MissingDependencyError: soundfile is not installed.
        InputError: nothing can be written there, told before the block begins where that can be known.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path}: speech is written as WAV or Ogg Opus; give a name that ends in .wav or .opus")
    try:
        import soundfile
    except ImportError:
        raise MissingDependencyError(
            f"{path}: sound files need soundfile: pip install soundfile, or take the chunks as they come"
        ) from None
    kind, subtype = _FORMATS[path.suffix.lower()]

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except (OSError, soundfile.SoundFileError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise InputError(f"{path}: cannot be written ({reason}); name a place that can be written to") from None

    with contextlib.ExitStack() as files:
        with told():  # before anything is said
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            partial = files.enter_context(atomic_path(path))
            partial.touch()
        append: Writer | None = None

        def write(audio: Samples, encoded: bytes) -> None:
            nonlocal append
            with told():
                if append is None and encoded and subtype == "OPUS":
                    copy = files.enter_context(partial.open("wb"))
                    append = lambda audio, encoded: copy.write(encoded)  # noqa: E731
                elif append is None:
                    file = soundfile.SoundFile(partial, "w", SAMPLE_RATE, 1, subtype=subtype, format=kind)
                    files.enter_context(file)
                    append = lambda audio, encoded: file.write(audio)  # noqa: E731
                append(audio, encoded)

        yield write
        if append is None:
            write(np.zeros(0, np.float32), b"")
        with told():
            files.pop_all().close()


@contextlib.contextmanager
def player() -> Iterator[Listener | None]:
    """Yields a function that plays samples on this machine's loudspeaker, or None where no player program is found."""
    command = next((command for command in _PLAYERS if shutil.which(command[0])), None)
    if command is None:
        yield None
        return
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    pipe = process.stdin

    def play(samples: Samples) -> None:
        with contextlib.suppress(BrokenPipeError):  # no sound device: the file is still written
            pipe.write((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
            pipe.flush()

    try:
        yield play
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        process.wait()
