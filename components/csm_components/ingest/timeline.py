"""Kept turns as one conversation: on the times of their recording, or one after another where they have none.

Recordings of one channel stay as they are, but for turns that were left out: those are made silent, for no licence may
cover them. Where each speaker has a channel, each keeps it as a track, which holds its own kept turns and is silent
elsewhere: what a microphone hears of the others (crosstalk, echo) is no sound of its speaker, and where several speak
at once each is still heard alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from csm_components.ingest.audio import Pcm
from csm_components.ingest.intervals import Stretch, union, without
from csm_components.ingest.records import SourceConversation, SourceTurn, Track
from csm_components.ingest.scratch import Lane
from csm_model.frames import FRAME_SAMPLES

GAP_SAMPLES = 3 * FRAME_SAMPLES
"""Silence between turns that come from files of their own: 0.24 s."""
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class PlacedTurn:
    """A kept turn and where it lies."""

    turn: SourceTurn
    start: int
    """Sample, at 24 kHz."""
    samples: int
    channel: int = 0


@dataclass(frozen=True, kw_only=True)
class Laid:
    """A conversation's sound and turns."""

    pieces: tuple[PlacedTurn, ...]
    channels: int
    blocks: Callable[[], Iterator[Pcm]]
    """Its sound at 24 kHz, once: blocks `[S]`, or `[S, C]` of several channels."""


def one_timeline(
    source: SourceConversation,
    kept: set[str],
    spans: Mapping[str, Stretch],
    lanes: Mapping[Track, Lane],
) -> Laid:
    """Turns on the times of their recording.

    Args:
        source: the conversation.
        kept: ids of the turns that are kept.
        spans: where each turn lies in its file, in samples at 24 kHz; may lie outside.
        lanes: sound of each track that has been read.
    """
    used = [track for track in source.tracks if any(turn.id in kept for turn in source.turns if _of(turn) == track)]
    length = max(len(lanes[track]) for track in used)
    places = {name: (min(start, length), min(end, length)) for name, (start, end) in spans.items()}
    begin, end = 0, length
    if not source.whole:
        begin, end = min(places[name][0] for name in kept), max(places[name][1] for name in kept)
    silent = []
    for track in used:
        own = union(places[turn.id] for turn in source.turns if turn.id in kept and _of(turn) == track)
        if len(source.tracks) > 1:
            silent.append(without([(0, length)], own))
        else:
            silent.append(without(union(places[turn.id] for turn in source.turns if turn.id not in kept), own))
    pieces = (
        PlacedTurn(
            turn=turn,
            start=places[turn.id][0] - begin,
            samples=places[turn.id][1] - places[turn.id][0],
            channel=used.index(_of(turn)),
        )
        for turn in source.turns
        if turn.id in kept
    )
    tracks = [(lanes[track], hush) for track, hush in zip(used, silent, strict=True)]
    return Laid(pieces=tuple(pieces), channels=len(used), blocks=lambda: _interleaved(tracks, begin, end))


def _of(turn: SourceTurn) -> Track:
    return turn.audio, turn.channel


def _interleaved(tracks: Sequence[tuple[Lane, list[Stretch]]], begin: int, end: int) -> Iterator[Pcm]:
    following = [0] * len(tracks)
    for start in range(begin, end, _BLOCK):
        stop = min(start + _BLOCK, end)
        block = np.empty((stop - start, len(tracks)), np.int16)
        for number, (lane, silent) in enumerate(tracks):
            block[:, number] = lane.read(start, stop)
            index = following[number]
            while index < len(silent) and silent[index][0] < stop:
                block[max(0, silent[index][0] - start) : max(0, silent[index][1] - start), number] = 0
                if silent[index][1] > stop:
                    break
                index += 1
            following[number] = index
        yield block[:, 0] if len(tracks) == 1 else block


def laid_out(turns: Iterable[tuple[SourceTurn, Lane]]) -> Laid:
    """Turns from files of their own, each with its sound, one after another with a short silence between."""
    pieces: list[PlacedTurn] = []
    lanes: list[Lane] = []
    position = 0
    for turn, lane in turns:
        if lanes:
            position += GAP_SAMPLES
        pieces.append(PlacedTurn(turn=turn, start=position, samples=len(lane)))
        lanes.append(lane)
        position += len(lane)

    def blocks() -> Iterator[Pcm]:
        for number, lane in enumerate(lanes):
            if number:
                yield np.zeros(GAP_SAMPLES, np.int16)
            for start in range(0, len(lane), _BLOCK):
                yield lane.read(start, min(start + _BLOCK, len(lane)))

    return Laid(pieces=tuple(pieces), channels=1, blocks=blocks)
