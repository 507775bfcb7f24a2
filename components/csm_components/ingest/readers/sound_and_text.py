"""Sound and text of the same name: `x.wav` and `x.txt` beside it, in any folders.

The text is all that is said in the sound, which is a conversation of one turn. The folder that a file lies in is its
speaker; at the top all are one person's. Licence: what the corpus's LICENSE file names, or data.license.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import EncodingError, read_text


def _pairs(folder: Path, sounds: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for sound in sounds:
        path = folder / PurePosixPath(sound).with_suffix(".txt")
        if path.is_file():
            yield sound, path


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether some sound has a text beside it."""
    return next(_pairs(folder, sounds), None) is not None


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each sound with a text."""
    for sound, path in _pairs(folder, sounds):
        source, stem = relative(path, folder), str(PurePosixPath(sound).with_suffix(""))
        try:
            text = read_text(path)
        except EncodingError as error:
            detail = str(error).removeprefix(f"{path}: ")
            yield BadRecord(source=source, reason="wrong encoding", detail=detail, id=stem, sound=sound)
            continue
        yield TurnRecord(
            id=stem,
            conversation=stem,
            sound=sound,
            text=" ".join(text.split()),
            speaker=PurePosixPath(sound).parent.name or "speaker",
            source=source,
        )


READER = CorpusReader(
    name="sound-and-text",
    title="Sound and text of the same name",
    license="as given",
    layout="x.wav (or .flac, .mp3, ...) and x.txt beside it",
    gives="text; the folder is the speaker",
    reference="docs/data.md",
    detect=detect,
    read=corpus_of("sound-and-text", records),
    rank="shape",
)
