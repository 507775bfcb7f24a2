"""The JSONL layout: one line a turn, for a corpus that comes from nowhere in particular.

```json
{"audio": "calls/17.wav", "text": "Good morning.", "speaker": "anna", "start": 0.4, "duration": 1.1}
{"audio": "calls/17.wav", "text": "Hello, Anna.", "speaker": "ben", "start": 1.7, "duration": 0.9}
```

`audio`, `text` and `speaker` are needed; `start`, `duration`, `channel`, `conversation`, `id`, `license`, `split`,
`voice`, `origin`, `tags` (a list of words, such as `["laughing"]`) and the rights `consent`, `expires`, `uses` and
`url` (`csm_components.ingest.rights`) may be there. Turns of one `conversation` follow each other as their lines do;
lines without one belong together when they name the same sound file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csm_components.ingest.readers.record import CorpusReader
from csm_components.ingest.readers.texts import EncodingError, read_lines
from csm_components.ingest.records import Corpus, SourceConversation, SourceTurn
from csm_components.ingest.rights import FIELDS, rights_of
from csm_components.ingest.splits import given_split
from csm_components.ingest.tags import tags_of
from csm_model.errors import InputError


class JsonlTurn(BaseModel):
    """One line of the file; fields that are not named here are let be."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    audio: str = Field(min_length=1)
    text: str
    speaker: str = Field(min_length=1)
    id: str | None = None
    conversation: str | None = None
    start: float | None = Field(default=None, ge=0)
    duration: float | None = Field(default=None, gt=0)
    channel: int | None = Field(default=None, ge=0)
    license: str | None = None
    split: str | None = None
    voice: str | None = None
    origin: str | None = None
    tags: Any = None
    consent: str | None = None
    expires: str | None = None
    uses: Any = None
    url: str | None = None


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields number and value of each line that is not blank."""
    for line in read_lines(path):
        if line.problem:
            raise EncodingError(f"{path}:{line.number}: {line.problem}")
        if not line.text.strip():
            continue
        try:
            yield line.number, json.loads(line.text)
        except ValueError as error:
            raise InputError(f"{path}:{line.number}: not valid JSON ({error})") from None


def find_jsonl(folder: Path) -> list[Path]:
    """The `.jsonl` files at the top of `folder` whose first line names sound and text, sorted."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        first = next(_rows(path), None)
        if first and isinstance(first[1], dict) and {"audio", "text"} & first[1].keys():
            found.append(path)
    return found


def read_jsonl(folder: Path, tables: list[Path]) -> Corpus:
    """Reads the turns of all `tables`; raises `InputError` with file and line for a line that breaks a rule."""
    turns: dict[str, list[SourceTurn]] = {}
    splits: dict[str, set[str | None]] = {}
    for path in tables:
        for number, value in _rows(path):
            try:
                row = JsonlTurn.model_validate(value)
            except ValidationError as error:
                problem = error.errors()[0]
                field = ".".join(map(str, problem["loc"])) or "the line"
                raise InputError(f"{path}:{number}: {field}: {problem['msg']}") from None
            conversation = row.conversation or str(Path(row.audio).with_suffix(""))
            known = turns.setdefault(conversation, [])
            known.append(
                SourceTurn(
                    id=row.id or f"{conversation}-{len(known):03}",
                    text=row.text,
                    speaker=row.speaker,
                    audio=row.audio,
                    channel=row.channel,
                    start=row.start,
                    duration=row.duration,
                    license=row.license,
                    voice=row.voice,
                    origin=row.origin,
                    tags=tags_of(row.tags, f"{path}:{number}"),
                    rights=rights_of(row.model_dump(include=set(FIELDS)), f"{path}:{number}"),
                )
            )
            splits.setdefault(conversation, set()).add(row.split)
    return Corpus(
        layout="jsonl",
        conversations=tuple(
            SourceConversation(id=name, turns=tuple(turns[name]), split=given_split(name, splits[name]))
            for name in sorted(turns)
        ),
        keep_speaker_numbers=True,
        speaker_names={},
    )


READER = CorpusReader(
    name="jsonl",
    title="JSONL, one line a turn",
    license="as given",
    layout="*.jsonl at the top with audio, text, speaker",
    gives="whatever its fields name",
    reference="docs/data.md",
    detect=lambda folder, sounds: bool(find_jsonl(folder)),
    read=lambda folder, sounds: read_jsonl(folder, find_jsonl(folder)),
    rank="first",
)
