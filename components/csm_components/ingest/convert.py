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

import numpy as np

from csm_components.ingest.audio import Samples, digest_of_pcm, read_sound, to_model_rate, to_pcm, write_flac
from csm_components.ingest.checks import check_sound, check_text
from csm_components.ingest.policy import Rules
from csm_components.ingest.records import Reason, Rejection, SourceConversation, SourceTurn
from csm_model.errors import AudioError
from csm_model.files import digest_of, known_json, write_json
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE

PART_FORMAT = 1
_LATER = frozenset({"language", "text_heard", "figures", "rights"})
"""Fields of a turn that came after the first parts were made."""
Refusal = tuple[Reason, str]
"""Why a turn is left out: the reason, and the figure and the bound."""
GAP_SAMPLES = 3 * FRAME_SAMPLES
"""Silence between turns that come from files of their own: 0.24 s."""


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


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A kept turn and where it lies."""

    turn: SourceTurn
    start: int
    """Sample, at 24 kHz."""
    samples: int


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


class _Sounds:
    """The files of one conversation, each read once."""

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        self._read: dict[str, tuple[Samples, int] | AudioError] = {}

    def mono(self, audio: str, channel: int | None) -> tuple[Samples, int]:
        """Samples `[S]` of one channel, or of all mixed, and their rate."""
        if audio not in self._read:
            try:
                self._read[audio] = read_sound(self._corpus / audio)
            except AudioError as error:
                self._read[audio] = error
        found = self._read[audio]
        if isinstance(found, AudioError):
            raise found
        samples, rate = found
        if channel is None:
            return (samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)), rate
        if channel >= samples.shape[1]:
            raise AudioError(f"{audio}: has {samples.shape[1]} channels, channel {channel} was asked for")
        return samples[:, channel], rate


def _span(turn: SourceTurn, samples: int, rate: int) -> tuple[int, int]:
    """First sample of a turn and the one after its last; they may lie outside the file."""
    start = round((turn.start or 0.0) * rate)
    return start, samples if turn.duration is None else start + round(turn.duration * rate)


def _check(turn: SourceTurn, sounds: _Sounds, task: ConvertTask) -> Refusal | None:
    """What is wrong with a turn; none when nothing is."""
    found = task.refused.get(turn.id) or check_text(turn.text)
    if found:
        return found
    try:
        samples, rate = sounds.mono(turn.audio, turn.channel)
    except AudioError as error:
        return "unreadable", str(error)
    start, end = _span(turn, len(samples), rate)
    if start >= len(samples) or end > len(samples) + rate // 20:  # 50 ms: what codecs add and take away at the end
        seconds = len(samples) / rate
        return "outside its recording", f"from {start / rate:.2f} to {end / rate:.2f} s of {seconds:.2f} s"
    return check_sound(samples[start:end], rate, turn.text, task.rules)


def _one_timeline(source: SourceConversation, kept: set[str], sounds: _Sounds) -> tuple[Samples, list[_Piece]]:
    """A recording, or a stretch of it, as it is, but turns left out are made silent: no licence may cover them."""
    first = source.turns[0]
    samples, rate = sounds.mono(first.audio, first.channel)
    audio = to_model_rate(samples, rate)
    if audio is samples:
        audio = audio.copy()
    spans = {
        turn.id: [min(round(position * SAMPLE_RATE / rate), len(audio)) for position in _span(turn, len(samples), rate)]
        for turn in source.turns
    }
    silent = np.zeros(len(audio), bool)
    for turn in source.turns:
        start, end = spans[turn.id]
        if turn.id not in kept:
            silent[start:end] = True
    for name in kept:
        silent[slice(*spans[name])] = False
    audio[silent] = 0.0
    begin, end = 0, len(audio)
    if not source.whole:
        begin, end = min(spans[name][0] for name in kept), max(spans[name][1] for name in kept)
    return audio[begin:end], [
        _Piece(turn=turn, start=spans[turn.id][0] - begin, samples=spans[turn.id][1] - spans[turn.id][0])
        for turn in source.turns
        if turn.id in kept
    ]


def _laid_out(source: SourceConversation, kept: set[str], sounds: _Sounds) -> tuple[Samples, list[_Piece]]:
    """Turns from files (or channels) of their own, one after another with a short silence between."""
    pieces: list[_Piece] = []
    chunks: list[Samples] = []
    position = 0
    for turn in source.turns:
        if turn.id not in kept:
            continue
        samples, rate = sounds.mono(turn.audio, turn.channel)
        start, end = _span(turn, len(samples), rate)
        audio = to_model_rate(samples[start:end], rate)
        if chunks:
            chunks.append(np.zeros(GAP_SAMPLES, np.float32))
            position += GAP_SAMPLES
        pieces.append(_Piece(turn=turn, start=position, samples=len(audio)))
        chunks.append(audio)
        position += len(audio)
    return np.concatenate(chunks), pieces


def convert(task: ConvertTask) -> dict[str, Any]:
    """Checks every turn of a conversation, writes what is left as 24 kHz mono FLAC, and returns the part."""
    source, sounds = task.source, _Sounds(task.corpus)
    rejections: list[Rejection] = []
    kept: set[str] = set()
    for turn in source.turns:
        found = _check(turn, sounds, task)
        if found is None:
            kept.add(turn.id)
            continue
        rejections.append(
            Rejection(
                conversation=source.id,
                turn=turn.id,
                audio=turn.audio,
                reason=found[0],
                detail=found[1].replace(f"{task.corpus}/", ""),
                seconds=round(turn.duration or _seconds(turn, sounds), 3),
                text=turn.text,
            )
        )
    part: dict[str, Any] = {"key": task.key, "id": source.id, "file": None, "samples": 0, "turns": []}
    part["of"] = _names(source, task.refused)
    if kept:
        audio, pieces = (_one_timeline if source.one_timeline else _laid_out)(source, kept, sounds)
        pcm = to_pcm(audio)
        part["file"] = f"audio/{file_name(source.id)}.flac"
        part["samples"] = len(pcm)
        part["pcm_sha256"] = digest_of_pcm(pcm)
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
            for piece in pieces
        ]
        write_flac(task.out / part["file"], pcm)
    part["rejections"] = [asdict(rejection) for rejection in rejections]
    write_json(part_path(task.out, source.id), part)
    return part


def _names(source: SourceConversation, refused: Mapping[str, Refusal]) -> dict[str, list[str]]:
    """Who and what is in a conversation, kept or not: what it is found by when somebody is to be forgotten."""
    blocked = {turn for turn, (reason, _) in refused.items() if reason == "blocked"}
    turns = [turn for turn in source.turns if turn.id not in blocked]
    return {
        "speakers": sorted({turn.speaker for turn in turns}),
        "recordings": sorted({turn.audio for turn in turns}),
        "urls": sorted({turn.rights.url for turn in turns if turn.rights and turn.rights.url}),
    }


def _seconds(turn: SourceTurn, sounds: _Sounds) -> float:
    """Length of a turn whose record does not name it; 0 when its file cannot be read."""
    try:
        samples, rate = sounds.mono(turn.audio, turn.channel)
    except AudioError:
        return 0.0
    return max(0.0, len(samples) / rate - (turn.start or 0.0))
