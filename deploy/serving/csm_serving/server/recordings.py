"""What makes a recording fit to be a voice: a whole file, clean sound, words that fit it, and no mark of ours in it.

Sound that carries the mark was spoken by a model: as somebody's recording it would launder a consent that nobody gave.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from csm_model.errors import AudioError, InputError
from csm_model.frames import SAMPLE_RATE
from csm_serving.wire.tensors import Array, Samples

if TYPE_CHECKING:
    from csm_model.text import Tokenizer
    from csm_model.watermark import Detector

MAX_PROMPT_SECONDS: Final = 30.0
MIN_PROMPT_SECONDS: Final = 1.0
MAX_TEXT: Final = 500
QUIETEST_PEAK: Final = 0.01
MOST_OFFSET: Final = 0.02
"""The mean of a clean recording is 0; the demo's corpus has 0.0003 at most."""
MOST_CLIPPED: Final = 0.01
"""Share of samples within 3 % of the loudest one; speech has less than a tenth of that."""
MOST_CHARACTERS_A_SECOND: Final = 30.0
"""Letters and digits; the quickest speakers say 25."""
FEWEST_CHARACTERS_A_SECOND: Final = 1.0
_TOP: Final = 0.97
_UNKNOWN_SIZES: Final = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFFFFFFFFFF)
"""What writers into a pipe put where a size belongs."""
_STRETCH_S: Final = 2.0
"""Sound is looked at for a mark in stretches of so many seconds, each half over the last, so that spliced sound is
found too."""


def check_whole(path: Path) -> None:
    """Raises `AudioError` for a file that is cut short, or of which that cannot be told.

    libsndfile reads the first half of a WAV, AIFF or Ogg file without a word. FLAC and MP3 it tells by itself, where
    they say how long they are.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            size = path.stat().st_size
            if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
                _check_riff(path, file, size, big=magic == b"RIFX", wide=magic in (b"RF64", b"BW64"))
            elif magic == b"FORM":
                _check_aiff(path, file, size)
            elif magic == b"OggS":
                _check_ogg(path, file, size)
            elif magic != b"fLaC" and magic[:3] != b"ID3" and not (magic[:1] == b"\xff" and magic[1:2] >= b"\xe0"):
                raise AudioError(
                    f"{path}: is no WAV, AIFF, FLAC, Ogg or MP3; others do not tell whether they are whole"
                )
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from None


def _check_riff(path: Path, file: BinaryIO, size: int, *, big: bool, wide: bool) -> None:
    file.seek(12)
    wide_size = None
    while len(head := file.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], "big" if big else "little")
        if name == b"ds64" and wide:
            sizes = file.read(24)
            wide_size = int.from_bytes(sizes[8:16], "little")
            file.seek(max(0, length - 24) + length % 2, os.SEEK_CUR)
            continue
        if name == b"data":
            promised = wide_size if wide and length == 0xFFFFFFFF and wide_size is not None else length
            _compare(path, promised, size - file.tell())
            return
        file.seek(length + length % 2, os.SEEK_CUR)
    raise AudioError(f"{path}: ends before its sound begins; give the whole file")


def _check_aiff(path: Path, file: BinaryIO, size: int) -> None:
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], "big")
        if name == b"SSND":
            _compare(path, length, size - file.tell())
            return
        file.seek(length + length % 2, os.SEEK_CUR)
    raise AudioError(f"{path}: ends before its sound begins; give the whole file")


def _compare(path: Path, promised: int, there: int) -> None:
    if promised in _UNKNOWN_SIZES or promised == 0:
        raise AudioError(f"{path}: its header does not say how long it is; write it into a file again, not into a pipe")
    if there < promised:
        raise AudioError(
            f"{path}: is cut short: {there} of the {promised} bytes of sound are there; give the whole file"
        )


def _check_ogg(path: Path, file: BinaryIO, size: int) -> None:
    """An Ogg stream ends with a page that says so (RFC 3533, flag 4) and is whole."""
    file.seek(max(0, size - 2 * 65_307))  # the largest page, twice
    tail = file.read()
    at = tail.rfind(b"OggS")
    header = tail[at : at + 27] if at >= 0 else b""
    whole = len(header) == 27 and bool(header[5] & 4)
    if whole:
        segments = tail[at + 27 : at + 27 + header[26]]
        whole = len(segments) == header[26] and at + 27 + len(segments) + sum(segments) <= len(tail)
    if not whole:
        raise AudioError(f"{path}: is cut short: the page that ends an Ogg stream is missing; give the whole file")


def mixed_down(samples: Array) -> Samples:
    """One channel `[S]` of `[S, C]`: the mean, or the loudest where the others would take sound away from it."""
    mean = samples.mean(axis=1)
    loudest = samples[:, int(np.argmax(np.square(samples, dtype=np.float64).mean(axis=0)))]
    quieter = np.square(mean, dtype=np.float64).mean() < 0.36 * np.square(loudest, dtype=np.float64).mean()
    return np.ascontiguousarray(loudest if quieter else mean, np.float32)


def check_clean(samples: Samples) -> None:
    """Raises `AudioError`, with the figure, for sound `[S]` that is silent, too quiet, shifted or clipped."""
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise AudioError("the recording holds samples that are no numbers; give one with speech")
    peak = float(np.abs(samples).max())
    if peak == 0.0:
        raise AudioError("the recording is silent: all its samples are 0; give one with speech")
    offset = float(samples.mean(dtype=np.float64))
    if abs(offset) > MOST_OFFSET:
        raise AudioError(
            f"the recording is shifted by {offset:+.2f}: speech lies around 0, to {MOST_OFFSET:g}; remove the offset"
        )
    if peak <= QUIETEST_PEAK:
        raise AudioError(
            f"the recording is too quiet: it reaches {peak:.4f} of 1, and must reach {QUIETEST_PEAK:g}; be louder"
        )
    clipped = float((np.abs(samples) >= _TOP * peak).mean())
    if clipped > MOST_CLIPPED:
        raise AudioError(
            f"the recording is clipped: {clipped:.1%} of its samples are at its peak, of speech at most "
            f"{MOST_CLIPPED:.0%} are; record it with less gain"
        )


def check_words(text: str, seconds: float) -> None:
    """Raises `InputError` where a text cannot be what is said in a recording of that length."""
    if len(text) > MAX_TEXT:
        raise InputError(f"a text of {len(text)} characters: of a voice's recording it has at most {MAX_TEXT}")
    said = sum(character.isalnum() for character in text)
    if not said:
        raise InputError(f"text {text[:40]!r}: must be what is said in the recording, word by word")
    if said > MOST_CHARACTERS_A_SECOND * seconds:
        raise InputError(
            f"a text of {said} letters in {seconds:.1f} s: nobody says more than {MOST_CHARACTERS_A_SECOND:g} a "
            "second; give the whole recording, and the words said in it"
        )
    if said < FEWEST_CHARACTERS_A_SECOND * seconds:
        raise InputError(
            f"a text of {said} letters for {seconds:.1f} s: speech has more; give all words that are said in it, or "
            "cut the recording to them"
        )


def check_speakable(tokenizer: Tokenizer, text: str, speaker: int) -> None:
    """Raises `InputError` where a model of that tokenizer could not read the prompt."""
    if not 0 <= speaker < tokenizer.num_speakers:
        raise InputError(
            f"speaker {speaker}: the model has speakers 0 to {tokenizer.num_speakers - 1}; give one of them"
        )
    tokenizer.encode(text, speaker)


def check_unmarked(samples: Samples, *, key: str | None = None) -> None:
    """Raises `AudioError` for sound `[S]`, 24 kHz, that carries the watermark in any part of it.

    Args:
        samples: the recording.
        key: the watermark's key, hexadecimal, where the servers have one of their own.

    Raises:
        MissingDependencyError: resemble-perth is not installed.
    """
    import torch

    detector, audio, size = _detector(key), torch.from_numpy(samples), int(_STRETCH_S * SAMPLE_RATE)
    report = detector.find(audio)
    if report.marked:
        _refuse_marked(report.whole.presence, report.payload, 0.0)
    for start in range(0, len(samples) - size + 1, size // 2):
        part = audio[start : start + size]
        if float(part.abs().max()) > QUIETEST_PEAK and (found := detector.find(part).whole).presence > 0.5:
            _refuse_marked(found.presence, found.payload, start / SAMPLE_RATE)


def _refuse_marked(presence: float, payload: int | None, begin: float) -> None:
    read = "" if payload is None else f", payload {payload}"
    raise AudioError(
        f"the recording carries our own watermark (presence {presence:.2f}{read}, from {begin:.0f} s on): a model "
        "spoke it; a voice needs a recording of the person"
    )


@functools.cache
def _detector(key: str | None) -> Detector:
    from csm_model.watermark import open_detector

    return open_detector("perth", key=key)
