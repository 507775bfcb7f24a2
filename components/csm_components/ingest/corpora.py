"""A corpus to be ingested: a folder, or a tree of the storage, of which the texts are fetched and some of the sound.

with open_corpus("s3://bucket/corpora/calls") as files:
    described = describe(files)                       # needs no sound
    files.fetch({"audio/17.flac", "audio/18.flac"})   # now these two lie in files.folder
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from csm_components.ingest.annotated import read_annotated
from csm_components.ingest.archives import file_of, is_archive, member_of
from csm_components.ingest.catalogue import thin_out, with_default_license
from csm_components.ingest.convert import Refusal, key_of
from csm_components.ingest.layouts import find_sounds, is_sound, read_corpus
from csm_components.ingest.licenses import license_of_folder
from csm_components.ingest.readers.marks import read_marks
from csm_components.ingest.records import Corpus, Rejection, SourceConversation
from csm_components.ingest.rights import RecordGate
from csm_components.ingest.select import selected
from csm_components.settings import Settings, worker_count
from csm_components.storage import Storage, open_tree
from csm_model.errors import InputError
from csm_model.files import digest_of_file

MISSING = "missing"
"""Stands for the digest of a file that is not there."""


@dataclass(frozen=True, kw_only=True)
class CorpusFiles:
    """A corpus in a folder."""

    folder: Path
    """Holds the texts, and the sound that has been fetched."""
    sounds: Sequence[str]
    """Paths of all sound files and archives, relative to the folder, sorted."""

    def digest(self, audio: str) -> str:
        """SHA-256 of a sound file; `MISSING` where it is not there."""
        try:
            return digest_of_file(self.folder / audio)
        except OSError:
            return MISSING

    def size(self, audio: str) -> int:
        """Bytes of a sound file; 0 where it is not there."""
        try:
            return (self.folder / audio).stat().st_size
        except OSError:
            return 0

    def fetch(self, audios: Iterable[str]) -> None:
        """Has these sound files in the folder."""


@dataclass(frozen=True, kw_only=True)
class StoredCorpus(CorpusFiles):
    """A corpus in the storage."""

    storage: Storage
    key: str
    rows: Mapping[str, Mapping[str, Any]]
    """The tree's list."""

    def digest(self, audio: str) -> str:
        """See `CorpusFiles.digest`; the tree's list names it, so that nothing is fetched."""
        row = self.rows.get(posixpath.normpath(audio))
        return str(row["sha256"]) if row else MISSING

    def size(self, audio: str) -> int:
        """See `CorpusFiles.size`."""
        row = self.rows.get(posixpath.normpath(audio))
        return int(row["size"]) if row else 0

    def fetch(self, audios: Iterable[str]) -> None:
        """See `CorpusFiles.fetch`; what is not in the storage is found missing by whoever reads it."""
        names = sorted({posixpath.normpath(file_of(audio)) for audio in audios} & self.rows.keys())
        self.storage.get_files(self.key, {name: self.rows[name] for name in names}, self.folder)


def corpus_in(folder: Path, *, leave_out: Path | None = None) -> CorpusFiles:
    """A corpus that lies in a folder.

    Args:
        folder: the corpus.
        leave_out: a folder that may lie in it and is not part of it.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; a corpus is a folder of audio and text")
    return CorpusFiles(folder=folder, sounds=find_sounds(folder, leave_out=leave_out, archives=True))


@contextmanager
def open_corpus(url: str, settings: Settings | None = None) -> Iterator[CorpusFiles]:
    """A corpus in a folder, or in the storage; what was fetched of it is gone when the block ends.

    Raises:
        InputError: there is no such folder or tree.
        DigestError: a file of the tree is damaged.
    """
    if "://" not in url:
        yield corpus_in(Path(url))
        return
    storage, key = open_tree(url, settings)
    rows = storage.read_tree(key)["files"]
    with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
        folder = Path(scratch) / key
        folder.mkdir()
        storage.get_files(key, {name: row for name, row in rows.items() if not _is_late(name)}, folder)
        visible = (name for name in rows if not any(part.startswith(".") for part in name.split("/")))
        yield StoredCorpus(folder=folder, sounds=sorted(filter(_is_late, visible)), storage=storage, key=key, rows=rows)


def _is_late(name: str) -> bool:
    """Whether a file is fetched only by who reads its sound."""
    return is_sound(name) or is_archive(name)


@dataclass(frozen=True, kw_only=True)
class Described:
    """A corpus as it is to be ingested, known from its texts and the names of its sound files."""

    corpus: Corpus
    others: tuple[Rejection, ...]
    """Records left out before any sound was looked at."""
    refused: Mapping[str, Refusal]
    """Turns that the policy does not let in, by their ids."""
    gate: RecordGate
    """What has refused them."""


class Chosen(TypedDict, total=False):
    """What of a corpus is taken, as every part of ingest is given it."""

    layout: str | None
    """Name of the reader to read it with; without it, the one that recognises it."""
    default_license: str | None
    """Licence of records that name none; without it, what the corpus's LICENSE file names."""
    max_conversations: int | None
    """Take only so many, evenly spread over the corpus and over its splits."""
    annotations: Path | None
    """Folder that annotate wrote of it (`annotated`); without it, its own texts are all that is known."""
    gate: RecordGate | None
    """Which records may be taken, and the bounds of the checks; the packaged policy without it."""


def describe(files: CorpusFiles, **chosen: Unpack[Chosen]) -> Described:
    """Reads the texts of a corpus.

    Args:
        files: the corpus.
        chosen: what of it is taken.

    Raises:
        InputError: no sound or no text in it.
    """
    layout, annotations = chosen.get("layout"), chosen.get("annotations")
    gate = chosen.get("gate") or RecordGate()
    license_name = chosen.get("default_license") or license_of_folder(files.folder, gate.policy.documents)
    if annotations is None:
        found = read_corpus(files.folder, list(files.sounds), layout)
    else:
        found = read_annotated(files.folder, list(files.sounds), annotations, layout)
    corpus = with_default_license(read_marks(found, gate.policy.text), license_name)
    sounds = files.sounds
    if (max_conversations := chosen.get("max_conversations")) is not None:
        corpus, sounds = thin_out(corpus, max_conversations), ()
    corpus, refused = gate.passed(corpus)
    corpus, refused = selected(corpus, gate.policy.figures, refused)
    others = (*corpus.rejections, *_without_text(corpus, sounds))
    return Described(corpus=corpus, others=others, refused=refused, gate=gate)


def sounds_of(sources: Iterable[SourceConversation]) -> list[str]:
    """The sound files that conversations need, sorted."""
    return sorted({turn.audio for source in sources for turn in source.turns})


def digests_of_sounds(files: CorpusFiles, sources: Iterable[SourceConversation]) -> dict[str, str]:
    """The digest of the file that holds each sound of some conversations."""
    audios = sounds_of(sources)
    named = sorted({file_of(audio) for audio in audios})
    with ThreadPoolExecutor(worker_count()) as threads:
        digests = dict(zip(named, threads.map(files.digest, named), strict=True))
    return {audio: digests[file_of(audio)] for audio in audios}


def keys_of(sources: Iterable[SourceConversation], described: Described, digests: Mapping[str, str]) -> dict[str, str]:
    """The key of each conversation of a corpus, which covers the bytes of its sound files."""
    rules = described.gate.policy.checks
    return {source.id: key_of(source, rules, digests, described.refused) for source in sources}


def work_of(files: CorpusFiles, sources: Sequence[SourceConversation]) -> list[int]:
    """How much work each conversation is, against one another, known before any sound is opened.

    Milliseconds of sound where all records say when they end, else bytes of their files, else turns.
    """
    seconds = [known for source in sources if (known := _known_seconds(source)) is not None]
    if len(seconds) == len(sources):
        return [max(1, round(1000 * known)) for known in seconds]
    if not any(member_of(audio) for audio in sounds_of(sources)):
        return [max(1, sum(files.size(audio) for audio in sounds_of([source]))) for source in sources]
    return [len(source.turns) for source in sources]


def _known_seconds(source: SourceConversation) -> float | None:
    """Seconds of sound that are read for a conversation; none where a turn does not say when it ends."""
    ends: dict[str, float] = {}
    for turn in source.turns:
        if turn.duration is None:
            return None
        ends[turn.audio] = max(ends.get(turn.audio, 0.0), (turn.start or 0.0) + turn.duration)
    return sum(ends.values())


def _without_text(corpus: Corpus, sounds: Iterable[str]) -> list[Rejection]:
    """Sound files that no record names."""
    named = {file_of(turn.audio) for source in corpus.conversations for turn in source.turns}
    named |= {row.audio for row in corpus.rejections}
    return [
        Rejection(conversation="", turn="", audio=sound, reason="no text", detail="no record names this file")
        for sound in sounds
        if sound not in named and not is_archive(sound)
    ]
