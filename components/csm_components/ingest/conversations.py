"""Reads what ingest wrote: conversations, their turns, and their sound.

for conversation in read_conversations(folder, split="test"):
    for turn in conversation.turns:
        audio = conversation.audio(turn)      # float32 [S], 24 kHz
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from csm_components.artefacts import have
from csm_components.ingest.audio import Pcm, Samples, from_pcm
from csm_components.ingest.records import SPLITS, TurnRights
from csm_model.errors import ArtifactError, AudioError, DigestError, InputError
from csm_model.files import digest_of_file, read_json


@dataclass(frozen=True, kw_only=True)
class RecordedTurn:
    """One spoken turn."""

    id: str
    text: str
    speaker: int
    start: float
    """Seconds into the conversation."""
    duration: float
    """Seconds."""
    start_sample: int
    samples: int
    license: str
    voice: str | None = None
    """Name of the voice, where the corpus gives one."""
    tags: tuple[str, ...] = ()
    """What the corpus says of how it is spoken."""
    channel: int = 0
    """Channel of the conversation's sound that it is in; the others are of other speakers."""
    person: str | None = None
    """The corpus's name of the speaker, where numbers count in each conversation alone."""
    rights: TurnRights | None = None
    """Where the corpus says something of them."""

    @property
    def named(self) -> str:
        """What to call who speaks."""
        return self.voice or self.person or f"speaker {self.speaker}"


_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns in order, and one FLAC file with the sound of them all.

    A recording with a channel for each speaker keeps them: turns may then overlap, and each is heard alone.
    """

    id: str
    split: str
    turns: tuple[RecordedTurn, ...]
    folder: Path
    """What ingest wrote, or a part of it with the address of the rest."""
    file: str
    """Name of its sound there."""
    samples: int
    """Of one channel."""
    pcm_sha256: str
    channels: int = 1

    @property
    def path(self) -> Path:
        """Its sound."""
        return self.folder / self.file

    @contextmanager
    def _opened(self) -> Iterator[soundfile.SoundFile]:
        """Its sound, found to be what ingest wrote; raises `DigestError` where it is not."""
        path = have(self.folder, self.file)
        try:
            with soundfile.SoundFile(path) as file:
                digest = hashlib.sha256()
                while len(block := file.read(_BLOCK, dtype="int16")):
                    digest.update(np.ascontiguousarray(block, "<i2").data)
                if digest.hexdigest() != self.pcm_sha256:
                    raise DigestError(f"{self.path}: is not the sound that the manifest names; run ingest again")
                yield file
        except (soundfile.SoundFileError, OSError, RuntimeError) as error:
            raise AudioError(f"{path}: cannot be read ({error}); run ingest again") from None

    def audio(self, turn: RecordedTurn | None = None) -> Samples:
        """Sound of one turn, of its own channel alone, or of the whole conversation: float32 `[S]`, -1 to 1, 24 kHz.

        The whole of several channels is their sum; where that would clip, all of it is turned down to full scale, so
        that nobody grows softer only when another speaks.

        Raises `DigestError` when the file is not the one that ingest wrote.
        """
        with self._opened() as file:
            if turn is not None:
                return _of_turn(file, turn)
            file.seek(0)
            pcm: Pcm = file.read(dtype="int16")
            if self.channels == 1:
                return from_pcm(pcm)
            summed: Samples = from_pcm(pcm).sum(axis=1)
            summed /= max(1.0, float(np.abs(summed).max(initial=0.0)))
            return summed

    def turn_audios(self) -> Iterator[Samples]:
        """Sound of every turn, in order, one after another: of a long recording not all is held at once.

        Raises `DigestError` as `audio` does, before it yields anything.
        """
        with self._opened() as file:
            for turn in self.turns:
                yield _of_turn(file, turn)


def _of_turn(file: soundfile.SoundFile, turn: RecordedTurn) -> Samples:
    """The samples `[S]` of a turn."""
    file.seek(turn.start_sample)
    pcm: Pcm = file.read(turn.samples, dtype="int16", always_2d=True)
    return from_pcm(np.ascontiguousarray(pcm[:, turn.channel]))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that ingest wrote; raises `ArtifactError` when it is of another kind or format."""
    manifest: dict[str, Any] = read_json(folder / "manifest.json")
    if manifest.get("kind") != "conversations" or manifest.get("format") != 1:
        raise ArtifactError(f"{folder}: is not a folder of conversations of format 1; run ingest again")
    return manifest


def read_conversations(folder: Path, split: str | None = None) -> Iterator[Conversation]:
    """Yields the conversations of one split, or of all, in the order of their ids.

    Raises:
        InputError: ingest has not finished here, or there is no such split.
        DigestError: the list of conversations is not the one that the manifest names.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"unknown split {split!r}; valid are {', '.join(SPLITS)}")
    manifest = read_manifest(folder)
    path = folder / "cuts.jsonl.gz"
    if not path.exists() or digest_of_file(path) != manifest["cuts_sha256"]:
        raise DigestError(f"{path}: is not the list that the manifest names; run ingest again")
    from lhotse import CutSet

    for cut in CutSet.from_jsonl_lazy(path):
        if split is not None and cut.custom["split"] != split:
            continue
        yield Conversation(
            id=cut.id,
            split=cut.custom["split"],
            turns=tuple(
                RecordedTurn(
                    id=item.id,
                    text=item.text,
                    speaker=int(item.speaker),
                    start=item.start,
                    duration=item.duration,
                    start_sample=item.custom["start_sample"],
                    samples=item.custom["samples"],
                    license=item.custom["license"],
                    voice=item.custom.get("voice"),
                    tags=tuple(item.custom.get("tags", ())),
                    channel=item.channel,
                    person=item.custom.get("person"),
                    rights=TurnRights.of(item.custom.get("rights")),
                )
                for item in cut.supervisions
            ),
            folder=folder,
            file=str(cut.recording.sources[0].source),
            samples=cut.recording.num_samples,
            pcm_sha256=cut.custom["pcm_sha256"],
            channels=cut.recording.num_channels,
        )
