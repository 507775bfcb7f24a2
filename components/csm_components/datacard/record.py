"""One record: where it is, what its figures are, and why it is in the data or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csm_components.annotate.annotations import TURNS, read_rows
from csm_components.datacard.facts import read_cuts, read_rejected
from csm_model.errors import InputError, quoted
from csm_model.rules import nearest

CONVERSATIONS, ANNOTATIONS = "ingest", "annotate"
"""Folders of a run."""
_FEW = 2_000
"""Names among which the nearest to an unknown one is looked for."""


@dataclass(frozen=True, kw_only=True)
class DataFolders:
    """Where the data of a run lies."""

    conversations: Path
    annotations: Path | None


def find_folders(place: Path, annotations: Path | None = None) -> DataFolders:
    """The data of a run's folder, or of one that ingest wrote.

    Raises:
        InputError: there is none.
    """
    for folder in (place, place / CONVERSATIONS):
        if (folder / "cuts.jsonl.gz").exists():
            beside = annotations or folder.parent / ANNOTATIONS
            return DataFolders(conversations=folder, annotations=beside if beside.is_dir() else None)
    raise InputError(
        f"{place}: holds no conversations; name a run's folder, such as runs/demo, or one that ingest wrote"
    )


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """What is known of a turn."""

    id: str
    kept: bool
    conversation: str
    reason: str | None = None
    """Why it is left out."""
    detail: str | None = None
    """The figure and the bound."""
    split: str | None = None
    text: str = ""
    heard: str | None = None
    speaker: str | None = None
    language: str | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    sound: str | None = None
    """Where it lies: in the conversations, or in the corpus where it was left out."""
    channel: int | None = None
    start: float | None = None
    seconds: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What is known; what is not is absent."""
        values = {name: value for name, value in vars(self).items() if value is not None and value != ()}
        return values | ({"figures": dict(self.figures)} if self.figures else {})


def read_records(folders: DataFolders) -> Iterator[DataRecord]:
    """All records: those kept, then those left out, each with its figures where the corpus was annotated."""
    for cut in read_cuts(folders.conversations):
        for turn in cut["supervisions"]:
            yield _kept(cut, turn)
    known = {row["turn"] or row["audio"]: row for row in read_rejected(folders.conversations)}
    rows = {} if folders.annotations is None else _rows(folders.annotations, known)
    for name, row in known.items():
        yield _left_out(name, row, rows.get(name, {}))


def find_record(folders: DataFolders, name: str) -> list[DataRecord]:
    """A turn by its id, a conversation's turns by its, or what was left out of a file by its path.

    Raises:
        InputError: nothing has that name.
    """
    found: list[DataRecord] = []
    names: list[str] = []
    for row in read_records(folders):
        if row.id == name:
            return [row]
        if name in (row.conversation, row.sound):
            found.append(row)
        if len(names) < _FEW:
            names.append(row.id)
    if not found:
        raise InputError(
            f"{quoted(name)}: no turn, conversation or file of {folders.conversations}{nearest(name, names)}"
        )
    return found


def _kept(cut: Mapping[str, Any], turn: Mapping[str, Any]) -> DataRecord:
    custom = turn["custom"]
    return DataRecord(
        id=turn["id"],
        kept=True,
        conversation=cut["id"],
        split=cut["custom"]["split"],
        text=turn["text"],
        heard=custom.get("text_heard"),
        speaker=turn["speaker"],
        language=turn.get("language"),
        license=custom["license"],
        tags=tuple(custom.get("tags", ())),
        sound=cut["recording"]["sources"][0]["source"],
        start=turn["start"],
        seconds=turn["duration"],
        figures=custom.get("figures", {}),
    )


def _left_out(name: str, row: Mapping[str, Any], found: Mapping[str, Any]) -> DataRecord:
    return DataRecord(
        id=name,
        kept=False,
        conversation=row["conversation"],
        reason=row["reason"],
        detail=row["detail"],
        text=row["text"],
        heard=found.get("text_heard"),
        speaker=found.get("speaker"),
        sound=row["audio"],
        channel=found.get("channel"),
        start=found.get("start"),
        seconds=row["seconds"],
        figures=found.get("figures", {}),
    )


def _rows(annotations: Path, names: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the annotations say of some turns."""
    return {row["id"]: row for row in read_rows(annotations, TURNS) if row["id"] in names}


def why(record: DataRecord) -> str:
    """In a sentence, why a record is in the data or not."""
    if record.kept:
        marks = f", marked {', '.join(record.tags)}" if record.tags else ""
        return f"{record.id}: kept, in {record.split} ({record.conversation}){marks}"
    return f"{record.id}: left out, {record.reason}: {record.detail}"
