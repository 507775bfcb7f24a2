"""lhotse's layout: `recordings.jsonl[.gz]` and `supervisions.jsonl[.gz]`; one recording is one conversation.

Paths of sound files are relative to the corpus's folder. `supervision.custom` may carry `split`, `license`, `voice`,
`origin`, `tags` (a list of words) and the rights `consent`, `expires`, `uses` and `url`.
(https://lhotse.readthedocs.io/en/latest/corpus.html)
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_components.ingest.readers.record import CorpusReader
from csm_components.ingest.records import Corpus, Rejection, SourceConversation, SourceTurn
from csm_components.ingest.rights import rights_of
from csm_components.ingest.splits import given_split
from csm_components.ingest.tags import tags_of
from csm_model.errors import InputError

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment


def _manifest(folder: Path, name: str) -> Path | None:
    """`NAME.jsonl` or `NAME.jsonl.gz` in `folder`."""
    return next((path for suffix in ("", ".gz") if (path := folder / f"{name}.jsonl{suffix}").is_file()), None)


def find_lhotse(folder: Path) -> bool:
    """Whether both manifests are in `folder`."""
    return _manifest(folder, "recordings") is not None and _manifest(folder, "supervisions") is not None


def _load(path: Path | None, kind: str) -> list[Any]:
    """All items of a manifest; raises `InputError` when lhotse cannot read it."""
    from lhotse import RecordingSet, SupervisionSet

    assert path is not None
    reader = RecordingSet if kind == "recordings" else SupervisionSet
    try:
        return list(reader.from_jsonl_lazy(path))
    except Exception as error:  # lhotse raises whatever its parts raise
        raise InputError(f"{path}: not a lhotse manifest of {kind} ({type(error).__name__}: {error})") from None


def _place(recording: Recording, channel: int) -> tuple[str, int | None] | None:
    """File, and channel within it, that hold `channel` of a recording; none where it is not a file or not there."""
    for source in recording.sources:
        if source.type == "file" and channel in source.channels:
            return str(source.source), source.channels.index(channel) if len(source.channels) > 1 else None
    return None


def _turn(recording: Recording, item: SupervisionSegment) -> SourceTurn | None:
    """One supervision as a turn; none where its sound is not in a file."""
    channels = item.channel if isinstance(item.channel, list) else [item.channel]
    place = _place(recording, channels[0])
    if place is None:
        return None
    custom = item.custom or {}
    return SourceTurn(
        id=item.id,
        text=item.text or "",
        speaker=item.speaker or "unknown",
        audio=place[0],
        channel=place[1] if len(channels) == 1 else None,
        start=item.start,
        duration=item.duration,
        license=custom.get("license"),
        voice=custom.get("voice"),
        origin=custom.get("origin"),
        tags=tags_of(custom.get("tags"), item.id),
        rights=rights_of(custom, item.id),
    )


def read_lhotse(folder: Path) -> Corpus:
    """Reads both manifests; raises `InputError` when one cannot be read or names an id twice."""
    recordings: dict[str, Recording] = {}
    for recording in _load(_manifest(folder, "recordings"), "recordings"):
        if recording.id in recordings:
            raise InputError(f"{folder}: recording {recording.id} is there twice; ids must differ")
        recordings[recording.id] = recording
    by_recording: dict[str, list[SupervisionSegment]] = defaultdict(list)
    for item in _load(_manifest(folder, "supervisions"), "supervisions"):
        by_recording[item.recording_id].append(item)

    conversations: list[SourceConversation] = []
    rejections: list[Rejection] = []
    for name in sorted(recordings.keys() | by_recording.keys()):
        items = sorted(by_recording[name], key=lambda item: (item.start, item.id))
        recording = recordings.get(name)
        if recording is None:
            rejections += [
                Rejection(
                    conversation=name,
                    turn=item.id,
                    audio="",
                    reason="unreadable",
                    detail="its recording is not in the manifest",
                    seconds=item.duration,
                    text=item.text or "",
                )
                for item in items
            ]
            continue
        if not items:
            rejections.append(
                Rejection(
                    conversation=name,
                    turn="",
                    audio=str(recording.sources[0].source),
                    reason="no text",
                    detail="no supervision belongs to the recording",
                    seconds=recording.duration,
                )
            )
            continue
        turns = []
        for item in items:
            turn = _turn(recording, item)
            if turn is not None:
                turns.append(turn)
                continue
            rejections.append(
                Rejection(
                    conversation=name,
                    turn=item.id,
                    audio=str(recording.sources[0].source),
                    reason="unreadable",
                    detail=f"channel {item.channel} of the recording is not in a file",
                    seconds=item.duration,
                    text=item.text or "",
                )
            )
        if turns:
            splits = {(item.custom or {}).get("split") for item in items}
            conversations.append(SourceConversation(id=name, turns=tuple(turns), split=given_split(name, splits)))
    return Corpus(
        layout="lhotse",
        conversations=tuple(conversations),
        keep_speaker_numbers=True,
        speaker_names={},
        rejections=tuple(rejections),
    )


READER = CorpusReader(
    name="lhotse",
    title="lhotse manifests",
    license="as given",
    layout="recordings.jsonl[.gz], supervisions.jsonl[.gz]",
    gives="text, speaker, channel, times, splits, tags",
    reference="https://lhotse.readthedocs.io/en/latest/corpus.html",
    detect=lambda folder, sounds: find_lhotse(folder),
    read=lambda folder, sounds: read_lhotse(folder),
    rank="first",
)
