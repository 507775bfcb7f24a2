"""lhotse's layout: `recordings.jsonl[.gz]` and `supervisions.jsonl[.gz]`; one recording is one conversation.

Paths of sound files are relative to the corpus's folder. `supervision.custom` may carry `split`, `license`, `voice`,
`origin`, `tags` (a list of words) and the rights `consent`, `expires`, `uses` and `url`.
(https://lhotse.readthedocs.io/en/latest/corpus.html)
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import read_lines
from csm_components.ingest.records import Reason
from csm_components.ingest.rights import rights_of
from csm_components.ingest.splits import given_split
from csm_components.ingest.tags import tags_of
from csm_model.errors import InputError

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment

T = TypeVar("T")


def _manifest(folder: Path, name: str) -> Path | None:
    """`NAME.jsonl` or `NAME.jsonl.gz` in `folder`."""
    return next((path for suffix in ("", ".gz") if (path := folder / f"{name}.jsonl{suffix}").is_file()), None)


def find_lhotse(folder: Path) -> bool:
    """Whether both manifests are in `folder`."""
    return _manifest(folder, "recordings") is not None and _manifest(folder, "supervisions") is not None


@dataclass(frozen=True)
class _Item(Generic[T]):
    """An item of a manifest, and the file and line that it was read from."""

    value: T
    source: str


def _items(path: Path | None, folder: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[_Item[T] | BadRecord]:
    """The items of a manifest, one a line."""
    assert path is not None
    for line in read_lines(path):
        source = relative(path, folder, line.number)
        if line.problem:
            yield BadRecord(source=source, reason=line.reason, detail=line.problem)
        elif line.text.strip():
            try:
                yield _Item(parse(json.loads(line.text)), source)
            except Exception as error:  # lhotse raises whatever its parts raise
                detail = f"torn line: not a lhotse manifest's ({type(error).__name__}: {error})"
                yield BadRecord(source=source, reason="damaged record", detail=detail)


def _place(recording: Recording, channel: int) -> tuple[str, int | None] | None:
    """File, and channel within it, that hold `channel` of a recording; none where it is not a file or not there."""
    for source in recording.sources:
        if source.type == "file" and channel in source.channels:
            return str(source.source), source.channels.index(channel) if len(source.channels) > 1 else None
    return None


def _turn(recording: Recording | None, found: _Item[SupervisionSegment]) -> TurnRecord | BadRecord:
    """One supervision as a turn."""
    item = found.value

    def bad(reason: Reason, detail: str) -> BadRecord:
        return BadRecord(
            source=found.source,
            reason=reason,
            detail=detail,
            id=item.id,
            conversation=item.recording_id,
            sound=str(recording.sources[0].source) if recording else "",
            text=item.text or "",
            seconds=item.duration,
        )

    if recording is None:
        return bad("unreadable", "its recording is not in the manifest")
    channels = item.channel if isinstance(item.channel, list) else [item.channel]
    place = _place(recording, channels[0])
    if place is None:
        return bad("unreadable", f"channel {item.channel} of the recording is not in a file")
    custom = item.custom or {}
    try:
        return TurnRecord(
            id=item.id,
            conversation=item.recording_id,
            sound=place[0],
            text=item.text or "",
            speaker=item.speaker or "unknown",
            source=found.source,
            channel=place[1] if len(channels) == 1 else None,
            start=item.start,
            duration=item.duration,
            license=custom.get("license"),
            split=given_split(item.recording_id, {custom.get("split")}),
            voice=custom.get("voice"),
            origin=custom.get("origin"),
            tags=tags_of(custom.get("tags"), item.id),
            rights=rights_of(custom, item.id),
        )
    except InputError as error:
        return bad("damaged record", str(error))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each supervision."""
    from lhotse import Recording, SupervisionSegment

    recordings: dict[str, _Item[Recording]] = {}
    for found in _items(_manifest(folder, "recordings"), folder, Recording.from_dict):
        if isinstance(found, BadRecord):
            yield found
        elif found.value.id in recordings:
            detail = f"recording {found.value.id} is there before ({recordings[found.value.id].source})"
            yield BadRecord(source=found.source, reason="twice", detail=detail, conversation=found.value.id)
        else:
            recordings[found.value.id] = found
    by_recording: dict[str, list[_Item[SupervisionSegment]]] = defaultdict(list)
    for item in _items(_manifest(folder, "supervisions"), folder, SupervisionSegment.from_dict):
        if isinstance(item, BadRecord):
            yield item
        else:
            by_recording[item.value.recording_id].append(item)
    for name in sorted(recordings.keys() | by_recording.keys()):
        recording = recordings.get(name)
        for one in sorted(by_recording[name], key=lambda one: (one.value.start, one.value.id)):
            yield _turn(recording.value if recording else None, one)
        if recording is not None and not by_recording[name]:
            yield BadRecord(
                source=recording.source,
                reason="no text",
                detail="no supervision belongs to the recording",
                conversation=name,
                sound=str(recording.value.sources[0].source),
                seconds=recording.value.duration,
            )


READER = CorpusReader(
    name="lhotse",
    title="lhotse manifests",
    license="as given",
    layout="recordings.jsonl[.gz], supervisions.jsonl[.gz]",
    gives="text, speaker, channel, times, splits, tags",
    reference="https://lhotse.readthedocs.io/en/latest/corpus.html",
    detect=lambda folder, sounds: find_lhotse(folder),
    read=corpus_of("lhotse", records, keep_speaker_numbers=True),
    rank="first",
)
