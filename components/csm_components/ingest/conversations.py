"""Reads what ingest wrote: conversations, their turns, and their sound.

for conversation in read_conversations(folder, split="test"):
    for turn in conversation.turns:
        audio = conversation.audio(turn)      # float32 [S], 24 kHz
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_components.artefacts import have
from csm_components.ingest.audio import Samples, digest_of_pcm, from_pcm, read_flac
from csm_components.ingest.records import SPLITS, TurnRights
from csm_model.errors import ArtifactError, DigestError, InputError
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
    rights: TurnRights | None = None
    """Where the corpus says something of them."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns in order, and one FLAC file with the sound of them all."""

    id: str
    split: str
    turns: tuple[RecordedTurn, ...]
    folder: Path
    """What ingest wrote, or a part of it with the address of the rest."""
    file: str
    """Name of its sound there."""
    samples: int
    pcm_sha256: str

    @property
    def path(self) -> Path:
        """Its sound."""
        return self.folder / self.file

    def audio(self, turn: RecordedTurn | None = None) -> Samples:
        """Sound of one turn, or of the whole conversation: float32 `[S]`, -1 to 1, 24 kHz mono.

        Raises `DigestError` when the file is not the one that ingest wrote.
        """
        pcm = read_flac(have(self.folder, self.file))
        if digest_of_pcm(pcm) != self.pcm_sha256:
            raise DigestError(f"{self.path}: is not the sound that the manifest names; run ingest again")
        return from_pcm(pcm if turn is None else pcm[turn.start_sample : turn.start_sample + turn.samples])

    def turn_audios(self) -> list[Samples]:
        """Sound of every turn, in order; the file is read once."""
        whole = self.audio()
        return [whole[turn.start_sample : turn.start_sample + turn.samples] for turn in self.turns]


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
                    rights=TurnRights.of(item.custom.get("rights")),
                )
                for item in cut.supervisions
            ),
            folder=folder,
            file=str(cut.recording.sources[0].source),
            samples=cut.recording.num_samples,
            pcm_sha256=cut.custom["pcm_sha256"],
        )
