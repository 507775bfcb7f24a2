"""One conversation of the corpus to one FLAC file and one part: what was kept of it, and what was not and why.

The part is written last, so a conversation is there whole or not at all. It carries the key of what it was made from;
a later run with the same key takes it as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csm_components.ingest.audio import write_flac
from csm_components.ingest.checks import check_meter, check_text
from csm_components.ingest.intervals import Stretch
from csm_components.ingest.listening import AskedSpan, HeardFile, HeardSpan, listen
from csm_components.ingest.policy import Rules
from csm_components.ingest.records import Reason, Rejection, SourceConversation, SourceTurn, Track
from csm_components.ingest.scratch import Lane, LaneScratch, open_scratch
from csm_components.ingest.timeline import Laid, laid_out, one_timeline
from csm_model.errors import AudioError
from csm_model.files import digest_of, known_json, write_json
from csm_model.frames import SAMPLE_RATE

PART_FORMAT = 1
_LATER = frozenset({"language", "text_heard", "figures", "rights"})
"""Fields of a turn that came after the first parts were made."""
Refusal = tuple[Reason, str]
"""Why a turn is left out: the reason, and the figure and the bound."""


@dataclass(frozen=True, kw_only=True)
class ConvertTask:
    """One conversation to convert; goes to a worker process."""

    source: SourceConversation
    key: str
    corpus: Path
    out: Path
    rules: Rules
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    """Turns that the policy does not let in, by their ids."""


def file_name(conversation: str) -> str:
    """A name for files of a conversation: its id where that is a safe name, else made safe and told apart by a hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", conversation).strip(".-")
    if safe == conversation and len(safe) <= 100:
        return safe
    return f"{safe[:80]}-{hashlib.sha256(conversation.encode()).hexdigest()[:8]}".lstrip("-")


def part_path(out: Path, conversation: str) -> Path:
    """Where a conversation's part lies."""
    return out / "parts" / f"{file_name(conversation)}.json"


def key_of(
    source: SourceConversation, rules: Rules, sound_digests: Mapping[str, str], refused: Mapping[str, Refusal]
) -> str:
    """Digest of everything that a conversation's part is made from, wherever it lies."""
    left_out = {turn.id: refused[turn.id][0] for turn in source.turns if turn.id in refused}
    return digest_of(
        {
            "format": PART_FORMAT,
            "id": source.id,
            "turns": [_key_of_turn(turn) for turn in source.turns],
            "rules": rules.model_dump(),
            "sounds": {turn.audio: sound_digests[turn.audio] for turn in source.turns},
        }
        | ({} if source.whole else {"whole": False})
        | ({"tracks": len(source.tracks)} if source.one_timeline and len(source.tracks) > 1 else {})
        | ({"refused": left_out} if left_out else {})
    )


def _key_of_turn(turn: SourceTurn) -> dict[str, Any]:
    """What a turn's part depends on; what corpora have not always told adds nothing where it is not told."""
    values = asdict(turn) | {"rights": turn.rights and turn.rights.to_json()}
    return {name: value for name, value in values.items() if name not in _LATER or value is not None}


def committed_part(out: Path, source: SourceConversation, key: str) -> bool:
    """Whether the part of a conversation was made from `key`, and its sound is there."""
    part = known_json(part_path(out, source.id))
    if part is None or part.get("key") != key:
        return False
    return part["file"] is None or (out / part["file"]).exists()


class _Heard:
    """What was heard of the sound of one conversation: each file once, all its turns and channels in one pass."""

    def __init__(self, task: ConvertTask, refused: Mapping[str, object], scratch: LaneScratch) -> None:
        source = task.source
        self._turns: dict[str, HeardSpan | None] = {}
        self._lanes: dict[Track, Lane | None] = {}
        self._files: dict[str, HeardFile | AudioError] = {}
        by_file: dict[str, list[SourceTurn]] = {}
        for turn in source.turns:
            by_file.setdefault(turn.audio, []).append(turn)
        for audio, mine in by_file.items():
            asked = [turn for turn in mine if turn.id not in refused]
            if not asked and all(turn.duration is not None for turn in mine):
                continue  # nothing of it is to be known
            tracks = tuple(dict.fromkeys(turn.channel for turn in asked)) if source.one_timeline else ()
            spans = [AskedSpan(channel=channel, kept=True) for channel in tracks]
            for turn in asked:
                begin = turn.start or 0.0
                kept = not source.one_timeline
                spans.append(AskedSpan(channel=turn.channel, start=begin, duration=turn.duration, kept=kept))
            try:
                heard = listen(task.corpus / audio, spans, scratch)
            except AudioError as error:
                self._files[audio] = error
                continue
            self._files[audio] = heard
            for channel, span in zip(tracks, heard.spans[: len(tracks)], strict=True):
                self._lanes[(audio, channel)] = None if span is None else span.lane
            for turn, span in zip(asked, heard.spans[len(tracks) :], strict=True):
                self._turns[turn.id] = span

    def fault(self, turn: SourceTurn, rules: Rules) -> tuple[Reason, str] | None:
        """What is wrong with a turn's sound; none when nothing is."""
        heard = self._files[turn.audio]
        if isinstance(heard, AudioError):
            return "unreadable", str(heard)
        span, rate = self._turns[turn.id], heard.rate
        if span is None:
            what = f"{turn.audio}: has {heard.channels} channels, channel {turn.channel} was asked for"
            return "unreadable", what
        if not heard.samples:
            return "empty", f"{turn.audio}: holds no sound"
        if span.start >= heard.samples or span.end > heard.samples + rate // 20:  # 50 ms: what codecs add at the end
            start, end, seconds = (samples / rate for samples in (span.start, span.end, heard.samples))
            return "outside its recording", f"from {start:.2f} to {end:.2f} s of {seconds:.2f} s"
        return check_meter(span.meter, rate, turn.text, rules)

    def laid(self, source: SourceConversation, kept: set[str]) -> Laid:
        """The kept turns as one conversation."""
        if not source.one_timeline:
            return laid_out([(turn, self._lane(turn)) for turn in source.turns if turn.id in kept])
        spans = {turn.id: self._span(turn) for turn in source.turns}
        lanes = {track: lane for track, lane in self._lanes.items() if lane is not None}
        return one_timeline(source, kept, spans, lanes)

    def _lane(self, turn: SourceTurn) -> Lane:
        span = self._turns[turn.id]
        assert span is not None
        assert span.lane is not None
        return span.lane

    def _span(self, turn: SourceTurn) -> Stretch:
        """A turn in its file, in samples at 24 kHz; may lie outside."""
        heard = self._files.get(turn.audio)
        rate, length = (heard.rate, heard.samples) if isinstance(heard, HeardFile) else (SAMPLE_RATE, 0)
        span = AskedSpan(channel=turn.channel, start=turn.start or 0.0, duration=turn.duration, kept=False)
        start, end = span.samples(rate)
        return round(start * SAMPLE_RATE / rate), round((length if end is None else end) * SAMPLE_RATE / rate)

    def seconds(self, turn: SourceTurn) -> float:
        """Length of a turn, by its record or else by its file; 0 where that cannot be read."""
        if turn.duration is not None:
            return turn.duration
        heard = self._files[turn.audio]
        return 0.0 if isinstance(heard, AudioError) else max(0.0, heard.samples / heard.rate - (turn.start or 0.0))


def convert(task: ConvertTask) -> dict[str, Any]:
    """Checks every turn of a conversation, writes what is left as 24 kHz FLAC, and returns the part."""
    source = task.source
    faults = {turn.id: found for turn in source.turns if (found := _unheard_fault(turn, task))}
    part: dict[str, Any] = {"key": task.key, "id": source.id, "file": None, "samples": 0, "turns": []}
    part["of"] = _names(source, task.refused)
    with open_scratch(task.out) as scratch:
        heard = _Heard(task, faults, scratch)
        for turn in source.turns:
            if turn.id not in faults and (found := heard.fault(turn, task.rules)):
                faults[turn.id] = found
        kept = {turn.id for turn in source.turns} - faults.keys()
        if kept:
            laid = heard.laid(source, kept)
            part["file"] = f"audio/{file_name(source.id)}.flac"
            part["samples"], part["pcm_sha256"] = write_flac(task.out / part["file"], laid.blocks(), laid.channels)
            if laid.channels > 1:
                part["channels"] = laid.channels
            part["turns"] = [
                {
                    "id": piece.turn.id,
                    "text": " ".join(piece.turn.text.split()),
                    "speaker": piece.turn.speaker,
                    "start": piece.start,
                    "samples": piece.samples,
                    "license": piece.turn.license,
                    "voice": piece.turn.voice,
                    "origin": piece.turn.origin,
                }
                | ({"tags": list(piece.turn.tags)} if piece.turn.tags else {})
                | ({"language": piece.turn.language} if piece.turn.language else {})
                | ({"text_heard": piece.turn.text_heard} if piece.turn.text_heard is not None else {})
                | ({"figures": dict(piece.turn.figures)} if piece.turn.figures else {})
                | ({"rights": piece.turn.rights.to_json()} if piece.turn.rights else {})
                | ({"channel": piece.channel} if laid.channels > 1 else {})
                for piece in laid.pieces
            ]
        rejections = [
            Rejection(
                conversation=source.id,
                turn=turn.id,
                audio=turn.audio,
                reason=faults[turn.id][0],
                detail=faults[turn.id][1].replace(f"{task.corpus}/", ""),
                seconds=round(heard.seconds(turn), 3),
                text=turn.text,
            )
            for turn in source.turns
            if turn.id in faults
        ]
    part["rejections"] = [asdict(rejection) for rejection in rejections]
    write_json(part_path(task.out, source.id), part)
    return part


def _unheard_fault(turn: SourceTurn, task: ConvertTask) -> Refusal | None:
    """What is wrong with a turn whatever its sound is; none when nothing is."""
    return task.refused.get(turn.id) or check_text(turn.text)


def _names(source: SourceConversation, refused: Mapping[str, Refusal]) -> dict[str, list[str]]:
    """Who and what is in a conversation, kept or not: what it is found by when somebody is to be forgotten."""
    blocked = {turn for turn, (reason, _) in refused.items() if reason == "blocked"}
    turns = [turn for turn in source.turns if turn.id not in blocked]
    return {
        "speakers": sorted({turn.speaker for turn in turns}),
        "recordings": sorted({turn.audio for turn in turns}),
        "urls": sorted({turn.rights.url for turn in turns if turn.rights and turn.rights.url}),
    }
