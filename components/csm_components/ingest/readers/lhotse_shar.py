"""lhotse Shar: `cuts.000000.jsonl.gz` and `recording.000000.tar`, many pairs of them, in one folder or in several.

The archive holds `CUT.flac` (or another kind of sound) for each cut, from the cut's own beginning, so a turn's times
count from there. A cut is a conversation, its supervisions are the turns; `custom` may name `license`, `split`,
`tags`, `consent`, `expires`, `uses` and `url`. Sound is read out of the archive where it lies. Licence: what a
supervision or the corpus's LICENSE file names, or data.license. (https://lhotse.readthedocs.io/en/latest/shar.html)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csm_components.ingest.archives import in_archive
from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import read_lines
from csm_components.ingest.rights import rights_of
from csm_components.ingest.splits import given_split
from csm_components.ingest.tags import tags_of
from csm_model.errors import InputError

_NAME = re.compile(r"cuts\.(\d+)\.jsonl(\.gz)?")


def _shards(folder: Path) -> list[tuple[Path, str]]:
    found = ((path, _NAME.fullmatch(path.name)) for path in folder.rglob("cuts.*.jsonl*"))
    return sorted((path, name.group(1)) for path, name in found if name)


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there are numbered lists of cuts."""
    return bool(_shards(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each supervision."""
    for path, digits in _shards(folder):
        archive = relative(path.parent / f"recording.{digits}.tar", folder)
        for line in read_lines(path):
            source = relative(path, folder, line.number)
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem)
                continue
            try:
                yield from _turns(json.loads(line.text), archive, source)
            except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
                detail = f"torn line: not a cut of lhotse ({type(error).__name__}: {error})"
                yield BadRecord(source=source, reason="damaged record", detail=detail)


def _turns(cut: dict[str, Any], archive: str, source: str) -> list[TurnRecord]:
    name, turns = str(cut["id"]), []
    for item in cut.get("supervisions", ()):
        custom = item.get("custom") or {}
        channel, channels = item.get("channel", 0), cut.get("channel", 0)
        start = float(item["start"])
        turns.append(
            TurnRecord(
                id=str(item["id"]),
                conversation=name,
                sound=in_archive(archive, name),
                text=item.get("text") or "",
                speaker=item.get("speaker") or f"{name}-unknown",
                source=source,
                channel=channels.index(channel) if isinstance(channels, list) and channel in channels else None,
                start=start,
                end=start + float(item["duration"]),
                language=item.get("language"),
                license=custom.get("license"),
                split=given_split(name, {custom.get("split") or (cut.get("custom") or {}).get("split")}),
                tags=tags_of(custom.get("tags"), source),
                rights=rights_of(custom, source),
            )
        )
    return turns


READER = CorpusReader(
    name="lhotse-shar",
    title="lhotse Shar",
    license="as given",
    layout="cuts.000000.jsonl.gz, recording.000000.tar",
    gives="text, speaker, times, channel, language",
    reference="https://lhotse.readthedocs.io/en/latest/shar.html",
    detect=detect,
    read=corpus_of("lhotse-shar", records, keep_speaker_numbers=True),
)
