"""LibriSpeech's layout: `[SUBSET/]SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, with the sound beside it.

Each line of the transcript is `SPEAKER-CHAPTER-NUMBER TEXT`, and names a file. A chapter is a conversation of one
speaker. Subsets called `train-...`, `dev-...` and `test-...` give the split. (Panayotov et al. 2015, openslr.org/12)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import read_lines
from csm_components.ingest.records import Split
from csm_components.ingest.splits import given_split


def find_librispeech(folder: Path) -> list[Path]:
    """The transcripts under `folder`, sorted."""
    return sorted(folder.rglob("*.trans.txt"))


def sentence(text: str) -> str:
    """LibriSpeech prints in capitals, which a reader would spell out: gives such text the case of a sentence."""
    text = " ".join(text.split())
    if not text.isupper():
        return text
    return re.sub(r"\bi\b", "I", text.capitalize())


def _subset(folder: Path, chapter: Path) -> Split | None:
    """The split that the folder above the speaker's is named after, if it is."""
    for name in reversed(chapter.relative_to(folder).parts[:-2]):
        found = re.match(r"(train|dev|test)\b", name)
        if found:
            return given_split(name, {found.group(1)})
    return None


def _speaker_names(folder: Path) -> dict[str, str]:
    """People's names from `SPEAKERS.TXT`, whose lines are `ID | SEX | SUBSET | MINUTES | NAME`."""
    names = {}
    for path in sorted(folder.rglob("SPEAKERS.TXT")):
        for line in read_lines(path):
            cells = [cell.strip() for cell in line.text.split("|", 4)]
            if len(cells) == 5 and not line.text.startswith(";") and cells[4]:
                names[cells[0]] = cells[4]
    return names


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line of each transcript."""
    beside: dict[str, dict[str, str]] = defaultdict(dict)
    for name in sorted(sounds):
        beside[str(PurePosixPath(name).parent)][PurePosixPath(name).stem] = name
    for path in find_librispeech(folder):
        chapter = path.parent
        if len(chapter.relative_to(folder).parts) < 2:
            where = "a transcript must lie in SPEAKER/CHAPTER/ under the corpus's folder"
            yield BadRecord(source=relative(path, folder), reason="damaged record", detail=where)
            continue
        speaker, here = chapter.parent.name, chapter.relative_to(folder).as_posix()
        conversation, split = f"{speaker}-{chapter.name}", _subset(folder, chapter)
        for line in read_lines(path):
            source = relative(path, folder, line.number)
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem, conversation=conversation)
                continue
            name, _, text = line.text.strip().partition(" ")
            if name:
                yield TurnRecord(
                    id=name,
                    conversation=conversation,
                    sound=beside[here].get(name, f"{here}/{name}.flac"),
                    text=sentence(text),
                    speaker=speaker,
                    source=source,
                    split=split,
                )


READER = CorpusReader(
    name="librispeech",
    title="LibriSpeech",
    license="CC-BY-4.0 (LICENSE.TXT)",
    layout="SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt, *.flac beside",
    gives="text, speaker, splits",
    reference="https://www.openslr.org/12",
    detect=lambda folder, sounds: bool(find_librispeech(folder)),
    read=corpus_of("librispeech", records, speaker_names=_speaker_names),
    rank="first",
)
