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

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import read_lines
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


_LINES_TO_TELL = 20
"""Lines of a file that are looked at to tell what it is: the first ones may be torn."""


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def find_jsonl(folder: Path) -> list[Path]:
    """The `.jsonl` files at the top of `folder` whose first readable line names sound and text, sorted."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        values = (_value(line.text) for line in itertools.islice(read_lines(path), _LINES_TO_TELL) if not line.problem)
        first = next((value for value in values if isinstance(value, dict)), None)
        if first and {"audio", "text"} & first.keys():
            found.append(path)
    return found


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line that is not blank."""
    counts: Counter[str] = Counter()
    for path in find_jsonl(folder):
        for line in read_lines(path):
            source = relative(path, folder, line.number)
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem)
            elif line.text.strip():
                yield _record(line.text, source, counts)


def _record(text: str, source: str, counts: Counter[str]) -> TurnRecord | BadRecord:
    """A line's turn; `counts` holds how many each conversation has had, for ids that are not given."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRecord(source=source, reason="damaged record", detail=f"not valid JSON ({error})")
    try:
        row = JsonlTurn.model_validate(value)
        conversation = row.conversation or str(Path(row.audio).with_suffix(""))
        record = TurnRecord(
            id=row.id or f"{conversation}-{counts[conversation]:03}",
            conversation=conversation,
            sound=row.audio,
            text=row.text,
            speaker=row.speaker,
            source=source,
            channel=row.channel,
            start=row.start,
            duration=row.duration,
            license=row.license,
            split=given_split(conversation, {row.split}),
            voice=row.voice,
            origin=row.origin,
            tags=tags_of(row.tags, "the line"),
            rights=rights_of(row.model_dump(include=set(FIELDS)), "the line"),
        )
    except (ValidationError, InputError) as error:
        detail = str(error)
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            detail = f"{'.'.join(map(str, problem['loc'])) or 'the line'}: {problem['msg']}"
        named = str(value.get("audio") or "") if isinstance(value, dict) else ""
        return BadRecord(source=source, reason="damaged record", detail=detail, sound=named)
    counts[conversation] += 1
    return record


READER = CorpusReader(
    name="jsonl",
    title="JSONL, one line a turn",
    license="as given",
    layout="*.jsonl at the top with audio, text, speaker",
    gives="whatever its fields name",
    reference="docs/data.md",
    detect=lambda folder, sounds: bool(find_jsonl(folder)),
    read=corpus_of("jsonl", records, by_time=False, keep_speaker_numbers=True),
    rank="first",
)
