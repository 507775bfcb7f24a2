"""Libri-Light: `{small,medium,large}/SPEAKER/BOOK/*.flac`, 16 kHz, and a `.json` of the same name beside each.

The `.json` has `speaker`, `voice_activity` (`[[start, end], ...]`, seconds), `snr` and `book_meta`. There are no texts:
its turns are left out as such by ingest, and wait for whoever transcribes them; a codec trains on the sound alone.
Licence: public domain (LibriVox). (Kahn et al. 2020, https://arxiv.org/abs/1912.07875)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of
from csm_components.ingest.readers.texts import EncodingError, read_text

_SIZES = ("small", "medium", "large", "duplicate")


def _described(folder: Path, sounds: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Sound files that have a description beside them."""
    for sound in sounds:
        path = folder / PurePosixPath(sound).with_suffix(".json")
        if sound.endswith(".flac") and path.is_file():
            yield sound, path


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether some sound has a description with voice activity beside it."""
    first = next(_described(folder, sounds), None)
    if first is None:
        return False
    try:
        value = json.loads(read_text(first[1]))
    except (EncodingError, ValueError):
        return bool({*PurePosixPath(first[0]).parts} & {*_SIZES})
    return isinstance(value, dict) and "voice_activity" in value


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each stretch with a voice."""
    for sound, path in _described(folder, sounds):
        source = path.relative_to(folder).as_posix()
        try:
            value: Any = json.loads(read_text(path))
            spans = [(float(start), float(end)) for start, end in value["voice_activity"]]
            speaker = str(value["speaker"])
        except EncodingError as error:
            yield BadRecord(source=source, reason="wrong encoding", detail=str(error), sound=sound)
            continue
        except (ValueError, KeyError, TypeError) as error:
            detail = f"not a description of Libri-Light ({type(error).__name__}: {error})"
            yield BadRecord(source=source, reason="damaged record", detail=detail, sound=sound)
            continue
        stem = str(PurePosixPath(sound).with_suffix(""))
        for count, (start, end) in enumerate(spans):
            yield TurnRecord(
                id=f"{stem}-{count:04}",
                conversation=stem,
                sound=sound,
                text="",
                speaker=speaker,
                source=source,
                start=start,
                end=end,
                language="en",
                license="Public-Domain",
            )


READER = CorpusReader(
    name="libri-light",
    title="Libri-Light",
    license="public domain",
    layout="SIZE/SPEAKER/BOOK/*.flac, a .json with voice_activity beside each",
    gives="speaker, times of speech; no text",
    reference="https://arxiv.org/abs/1912.07875",
    detect=detect,
    read=corpus_of("libri-light", records),
)
