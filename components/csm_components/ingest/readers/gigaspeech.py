"""GigaSpeech: `GigaSpeech.json` beside `audio/{audiobook,podcast,youtube}/...opus`.

`audios`: aid, path, and `segments` of sid, begin_time, end_time, speaker, text_tn, subsets (`{XL}`, `{DEV}`, ...).
Text is in capitals with `<COMMA>` and the like, which become sentences; segments of `<SIL>`, `<MUSIC>`, `<NOISE>` and
`<OTHER>` are no speech. A recording is a conversation; a speaker `N/A` is called after it. The whole list is in memory
while it is read. Licence: its own terms, for research; records name them, so allow them first if you have agreed.
(Chen et al. 2021, https://arxiv.org/abs/2106.06909)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csm_components.ingest.readers.marks import gigaspeech
from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, number
from csm_components.ingest.readers.texts import read_text
from csm_components.ingest.records import Split
from csm_model.errors import InputError

LIST = "GigaSpeech.json"
LICENSE = "LicenseRef-GigaSpeech"


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether the list is there."""
    return (folder / LIST).is_file()


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each segment with speech; raises `InputError` where the list itself cannot be read."""
    try:
        audios = json.loads(read_text(folder / LIST))["audios"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / LIST}: not GigaSpeech's list ({type(error).__name__}: {error})") from None
    for count, audio in enumerate(audios):
        at = f"{LIST} (audio {count})"
        try:
            name, sound, segments = str(audio["aid"]), str(audio["path"]), list(audio["segments"])
        except (KeyError, TypeError) as error:
            yield BadRecord(source=at, reason="damaged record", detail=f"names no aid, path or segments ({error})")
            continue
        for segment in segments:
            yield from _segment(name, sound, segment, str(audio.get("language", "en")).lower())


def _segment(name: str, sound: str, segment: Any, language: str) -> Found:
    source = f"{LIST} ({segment.get('sid', name) if isinstance(segment, dict) else name})"
    try:
        text, speaker = gigaspeech(str(segment["text_tn"])), str(segment.get("speaker", "N/A"))
        if not text and str(segment["text_tn"]).strip():
            return  # no speech, and marked so
        yield TurnRecord(
            id=str(segment["sid"]),
            conversation=name,
            sound=sound,
            text=text,
            speaker=f"{name}-unknown" if speaker in ("N/A", "") else speaker,
            source=source,
            start=number(str(segment["begin_time"])),
            end=number(str(segment["end_time"])),
            language=language,
            license=LICENSE,
            split=_split([str(subset) for subset in segment.get("subsets", ())]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        detail = f"not a segment ({type(error).__name__}: {error})"
        yield BadRecord(source=source, reason="damaged record", detail=detail, conversation=name, sound=sound)


def _split(subsets: list[str]) -> Split:
    return "test" if "{TEST}" in subsets else "validation" if "{DEV}" in subsets else "train"


READER = CorpusReader(
    name="gigaspeech",
    title="GigaSpeech",
    license="own terms (research)",
    layout="GigaSpeech.json, audio/**.opus",
    gives="text, speaker where known, times, splits",
    reference="https://arxiv.org/abs/2106.06909",
    detect=detect,
    read=corpus_of("gigaspeech", records),
)
