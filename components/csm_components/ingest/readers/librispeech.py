"""LibriSpeech's layout: `[SUBSET/]SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, with the sound beside it.

Each line of the transcript is `SPEAKER-CHAPTER-NUMBER TEXT`, and names a file. A chapter is a conversation of one
speaker. Subsets called `train-...`, `dev-...` and `test-...` give the split. (Panayotov et al. 2015, openslr.org/12)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from csm_components.ingest.readers.record import CorpusReader
from csm_components.ingest.readers.texts import read_text
from csm_components.ingest.records import Corpus, SourceConversation, SourceTurn, Split
from csm_components.ingest.splits import given_split
from csm_model.errors import InputError


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
        for line in read_text(path).splitlines():
            cells = [cell.strip() for cell in line.split("|", 4)]
            if len(cells) == 5 and not line.startswith(";") and cells[4]:
                names[cells[0]] = cells[4]
    return names


def read_librispeech(folder: Path, transcripts: list[Path], sounds: Sequence[str]) -> Corpus:
    """Reads all `transcripts`; raises `InputError` for one that does not lie in a speaker's and a chapter's folder.

    Args:
        folder: the corpus.
        transcripts: those in it.
        sounds: paths of its sound files, relative to it.
    """
    beside: dict[str, dict[str, str]] = defaultdict(dict)
    for name in sorted(sounds):
        beside[str(PurePosixPath(name).parent)][PurePosixPath(name).stem] = name
    conversations: dict[str, SourceConversation] = {}
    for path in transcripts:
        chapter = path.parent
        if len(chapter.relative_to(folder).parts) < 2:
            raise InputError(f"{path}: a transcript must lie in SPEAKER/CHAPTER/ under the corpus's folder")
        speaker = chapter.parent.name
        here = chapter.relative_to(folder).as_posix()
        turns = []
        for line in read_text(path).splitlines():
            name, _, text = line.strip().partition(" ")
            if name:
                sound = beside[here].get(name, f"{here}/{name}.flac")
                turns.append(SourceTurn(id=name, text=sentence(text), speaker=speaker, audio=sound))
        conversation = f"{speaker}-{chapter.name}"
        if conversation in conversations:
            raise InputError(f"{path}: chapter {conversation} is there twice; remove one of them")
        if turns:
            conversations[conversation] = SourceConversation(
                id=conversation, turns=tuple(turns), split=_subset(folder, chapter)
            )
    return Corpus(
        layout="librispeech",
        conversations=tuple(conversations[name] for name in sorted(conversations)),
        keep_speaker_numbers=False,
        speaker_names=_speaker_names(folder),
    )


READER = CorpusReader(
    name="librispeech",
    title="LibriSpeech",
    license="CC-BY-4.0 (LICENSE.TXT)",
    layout="SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt, *.flac beside",
    gives="text, speaker, splits",
    reference="https://www.openslr.org/12",
    detect=lambda folder, sounds: bool(find_librispeech(folder)),
    read=lambda folder, sounds: read_librispeech(folder, find_librispeech(folder), sounds),
    rank="first",
)
