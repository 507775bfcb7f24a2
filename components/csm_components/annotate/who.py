"""Who speaks when: a channel is a speaker where sides of a call are apart, else voices are told apart by their sound.

Windows of 1.6 s are embedded by Resemblyzer's GE2E encoder (256 numbers) and clustered spectrally (Wang et al. 2018,
"Speaker diarization with LSTM", arXiv 1710.10468). Clustering costs the cube of its windows, so of a long recording an
even sample is clustered, and every window goes to the voice that it is most like: hours cost what they are long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_components.annotate.activity import Activity
from csm_components.annotate.recordings import RATE, DecodedSound, Samples, Span, common
from csm_model.errors import MissingDependencyError

VERSION = 1
Embeddings = NDArray[np.float32]
"""Voices, a row each `[N, 256]`, of length 1."""

MOST_SPEAKERS = 8
WINDOW, HOP, SHORTEST, STEP = 160, 50, 40, 20
"""Frames of 10 ms: of a window, from one to the next, of the shortest one; short ones have multiples of a step."""
BATCH = 64
MOST_CLUSTERED = 800
"""Windows that are clustered; the others go to the voice that is nearest."""
FEWEST_SPECTRAL = 24
"""Fewer windows have no spectrum to speak of: they are linked by their distance."""
SAME_VOICE = 0.92
"""Voices whose means are more alike than that are one, where nobody has said how many there are."""
LINKED = 0.35
"""Cosine distance up to which a few windows are one voice."""
FEWEST_OF_A_VOICE = 12
"""Windows that a voice should have: fewer do not say how many there are."""
SMALLEST_SHARE = 0.05
"""A voice with less of the windows is an odd moment of another's."""
SHORTEST_RUN = 30
"""Frames of 10 ms: nobody speaks for less amid another's speech."""
BREATH_S = 0.3
"""A silence that is no pause, as NIST's scores have it."""
SURE_MARGIN = 0.2
"""A window that is so much more like its own voice than like the next is as sure as can be."""


@dataclass(frozen=True, kw_only=True)
class VoiceSpan:
    """One speaker's stretch of speech."""

    span: Span
    channel: int | None
    """In which it is heard; None is the mean of all."""
    speaker: int
    """From 0, by first appearance in the recording."""
    certainty: float
    """0 to 1: how much more it is like this speaker than like any other; 1 where a channel is a speaker."""


def find_speakers(sound: DecodedSound, activity: Activity, speakers: int | None = None) -> list[VoiceSpan]:
    """Whose each stretch of speech is, in the order of their times.

    Args:
        sound: the recording.
        activity: its speech.
        speakers: how many people speak in it; found where None. Sides of a call that are apart are one each.
    """
    if activity.apart:
        found = [
            VoiceSpan(span=span, channel=channel, speaker=number, certainty=1.0)
            for number, (channel, spans) in enumerate(zip(activity.channels, activity.speech, strict=True))
            for span in spans
        ]
    else:
        (channel,), (spans,) = activity.channels, activity.speech
        found = _told_apart(sound, channel, spans, speakers) if spans else []
    return by_appearance(_without_breaths(sorted(found, key=lambda row: (row.span, row.speaker))))


def _without_breaths(found: Sequence[VoiceSpan]) -> list[VoiceSpan]:
    """The same, a speaker's spans as one where only a breath parts them and nobody else speaks in that channel."""
    joined: list[VoiceSpan] = []
    last: dict[int | None, int] = {}
    for row in found:
        before = joined[last[row.channel]] if row.channel in last else None
        if before and before.speaker == row.speaker and row.span.start - before.span.end <= BREATH_S:
            spoken = before.span.seconds + row.span.seconds
            sure = before.certainty * before.span.seconds + row.certainty * row.span.seconds
            joined[last[row.channel]] = replace(
                before, span=Span(before.span.start, row.span.end), certainty=round(sure / spoken, 3)
            )
        else:
            last[row.channel] = len(joined)
            joined.append(row)
    return joined


def by_appearance(found: Sequence[VoiceSpan]) -> list[VoiceSpan]:
    """The same, with speakers numbered from 0 in the order in which they are first heard."""
    numbers: dict[int, int] = {}
    for row in found:
        numbers.setdefault(row.speaker, len(numbers))
    return [replace(row, speaker=numbers[row.speaker]) for row in found]


def overlap(span: Span, channel: int | None, activity: Activity) -> float | None:
    """Share of a span in which another side speaks too; None where sides are not apart, and nobody can know."""
    if not activity.apart:
        return None
    sides = zip(activity.channels, activity.speech, strict=True)
    others = [other for number, spans in sides if number != channel for other in spans]
    return round(min(1.0, sum(common(span, other) for other in others) / span.seconds), 3)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A stretch of a span that has an embedding."""

    span: int
    """Number of the span."""
    first: int
    """Frame of 10 ms in the span."""
    frames: int


def _told_apart(sound: DecodedSound, channel: int | None, spans: Sequence[Span], count: int | None) -> list[VoiceSpan]:
    """Speech by voice."""
    windows, embeddings = _embedded(sound, channel, spans)
    labels, voices = cluster(embeddings, [window.frames == WINDOW for window in windows], count)
    likeness = embeddings @ voices.T  # [N, speakers]
    own = likeness[np.arange(len(labels)), labels]
    if len(voices) > 1:
        others = likeness.copy()
        others[np.arange(len(labels)), labels] = -1.0
        margins = np.clip((own - others.max(axis=1)) / SURE_MARGIN, 0.0, 1.0)
    else:
        margins = np.ones(len(labels), np.float32)
    found: list[VoiceSpan] = []
    at = 0
    for number, span in enumerate(spans):
        mine = at
        while at < len(windows) and windows[at].span == number:
            at += 1
        found += _runs(span, channel, windows[mine:at], labels[mine:at], margins[mine:at], len(voices))
    return found


def _runs(
    span: Span,
    channel: int | None,
    windows: Sequence[_Window],
    labels: NDArray[np.int64],
    margins: NDArray[np.float32],
    voices: int,
) -> Iterator[VoiceSpan]:
    """The stretches of a span by speaker: each frame is whose most windows over it say."""
    frames = max(1, round(span.seconds * 100))
    votes = np.zeros((voices, frames), np.float32)
    sure = np.zeros((2, frames), np.float32)  # margins, and how many
    for window, label, margin in zip(windows, labels, margins, strict=True):
        place = slice(window.first, min(frames, window.first + window.frames))
        votes[label, place] += 0.1 + margin
        sure[0, place] += margin
        sure[1, place] += 1
    owner = _smoothed(votes.argmax(axis=0))
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), frames]
    for first, last in pairwise(edges):
        heard = float(sure[1, first:last].sum())
        yield VoiceSpan(
            span=Span(
                round(span.start + first / 100, 3), span.end if last == frames else round(span.start + last / 100, 3)
            ),
            channel=channel,
            speaker=int(owner[first]),
            certainty=round(float(sure[0, first:last].sum()) / heard, 3) if heard else 0.0,
        )


def _smoothed(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whose each frame is, without runs that are too short; they go to the longer neighbour."""
    owner = owner.copy()
    while True:
        edges = np.array([0, *(np.flatnonzero(np.diff(owner)) + 1), len(owner)])
        lengths = np.diff(edges)
        if len(lengths) == 1 or lengths.min() >= SHORTEST_RUN:
            return owner
        at = int(lengths.argmin())
        before, after = (lengths[at - 1] if at else 0), (lengths[at + 1] if at + 1 < len(lengths) else 0)
        owner[edges[at] : edges[at + 1]] = owner[edges[at] - 1] if before >= after else owner[edges[at + 1]]


@cache
def _encoder() -> Any:
    """The encoder, once in a process."""
    from csm_components.evaluate.judges import voice_encoder

    return voice_encoder()


def _embedded(sound: DecodedSound, channel: int | None, spans: Sequence[Span]) -> tuple[list[_Window], Embeddings]:
    """Windows over the spans, in order, and their embeddings."""
    import torch

    encoder = _encoder()
    windows: list[_Window] = []
    waiting: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
    embeddings: dict[int, NDArray[np.float32]] = {}

    def embed(frames: int) -> None:
        rows = waiting.pop(frames)
        with torch.inference_mode():
            found = encoder(torch.from_numpy(np.stack([mel for _, mel in rows]))).numpy()
        embeddings.update(zip((number for number, _ in rows), found, strict=True))

    for number, span in enumerate(spans):
        for first, mel in _mels(sound, channel, span):
            waiting.setdefault(len(mel), []).append((len(windows), mel))
            windows.append(_Window(span=number, first=first, frames=len(mel)))
            if len(waiting[len(mel)]) == BATCH:
                embed(len(mel))
    for frames in list(waiting):
        embed(frames)
    return windows, np.nan_to_num(np.stack([embeddings[number] for number in range(len(windows))]))


def _mels(sound: DecodedSound, channel: int | None, span: Span) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The spectrograms `[frames, 40]` of a span's windows, each with its first frame; a short span has one."""
    from resemblyzer.audio import wav_to_mel_spectrogram

    wanted = int(np.ceil(span.seconds * 100))
    frames = max(SHORTEST, -(-wanted // STEP) * STEP) if wanted < WINDOW else wanted
    middle = (span.start + span.end) / 2
    wide = Span(max(0.0, middle - frames / 200), middle + frames / 200) if wanted < WINDOW else span
    samples = sound.read(channel, wide)
    padded = np.pad(_louder(samples), (0, max(0, frames * RATE // 100 - len(samples))))
    mel = wav_to_mel_spectrogram(padded)
    if frames < WINDOW:
        yield 0, mel[:frames]
        return
    firsts = list(range(0, frames - WINDOW + 1, HOP))
    if firsts[-1] != frames - WINDOW:
        firsts.append(frames - WINDOW)
    for first in firsts:
        yield first, mel[first : first + WINDOW]


def _louder(samples: Samples) -> Samples:
    """Sound at -30 dB of full scale, as the encoder has learnt it; what is louder stays as it is."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    return samples * np.float32(10 ** (-30 / 20) / level) if 1e-6 < level < 10 ** (-30 / 20) else samples


def cluster(
    embeddings: Embeddings, whole: Sequence[bool], count: int | None = None
) -> tuple[NDArray[np.int64], Embeddings]:
    """Tells voices apart: the voice of each window `[N]`, and the voices.

    Args:
        embeddings: of the windows.
        whole: which of them are of full length; short ones say less, and found no voice where there are others.
        count: how many voices; found where None.
    """
    chosen = np.flatnonzero(whole) if sum(whole) >= FEWEST_SPECTRAL else np.arange(len(embeddings))
    if len(chosen) > MOST_CLUSTERED:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MOST_CLUSTERED).round().astype(int)]
    points = embeddings[chosen]
    labels = _linked(points, count) if len(points) < FEWEST_SPECTRAL else _spectral(points, count)
    voices, weights = _means(points, labels)
    if count is None:
        voices = _distinct(voices, weights)
    return (embeddings @ voices.T).argmax(axis=1), voices


def _means(points: Embeddings, labels: NDArray[np.int64]) -> tuple[Embeddings, NDArray[np.int64]]:
    """The mean of each voice, of length 1, and its windows."""
    names = np.unique(labels)
    sums = np.stack([points[labels == name].sum(axis=0) for name in names])
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return (sums / lengths).astype(np.float32), np.array([(labels == name).sum() for name in names])


def _distinct(voices: Embeddings, weights: NDArray[np.int64]) -> Embeddings:
    """Voices of which no two are one, and none is a moment."""
    sums, weights = voices * weights[:, None], weights.copy()
    while len(weights) > 1:
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        alike = means @ means.T - 2 * np.eye(len(means))
        small = int(weights.argmin())
        if weights[small] < SMALLEST_SHARE * weights.sum():
            one, other = small, int(alike[small].argmax())
        else:
            one, other = (int(each) for each in np.unravel_index(alike.argmax(), alike.shape))
            if alike[one, other] < SAME_VOICE:
                break
        sums[other] += sums[one]
        weights[other] += weights[one]
        sums, weights = np.delete(sums, one, axis=0), np.delete(weights, one)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def _linked(points: Embeddings, count: int | None) -> NDArray[np.int64]:
    """Voices of a few windows, by average linkage of their cosine distances."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(points) < 2:
        return np.zeros(len(points), np.int64)
    tree = linkage(points, method="average", metric="cosine")
    if count is not None:
        return np.asarray(fcluster(tree, min(count, len(points)), criterion="maxclust"), np.int64)
    return np.asarray(fcluster(tree, LINKED, criterion="distance"), np.int64)


def _spectral(points: Embeddings, count: int | None) -> NDArray[np.int64]:
    """Voices of many windows, by the spectrum of their likeness."""
    try:
        from spectralcluster import SpectralClusterer, configs
    except ImportError:
        raise MissingDependencyError("package spectralcluster is not installed; install csm-foundry[eval]") from None
    clusterer = SpectralClusterer(
        # Of one voice it makes two that are alike, which are joined again; asked whether there is one, it says so where
        # two actors speak.
        min_clusters=count or 2,
        max_clusters=count or max(2, min(MOST_SPEAKERS, len(points) // FEWEST_OF_A_VOICE)),
        refinement_options=configs.icassp2018_refinement_options,
        custom_dist="cosine",
    )
    with _same_numbers():
        return np.asarray(clusterer.predict(points.astype(np.float64)), np.int64)


@contextmanager
def _same_numbers() -> Iterator[None]:
    """numpy's global random numbers, which the clusterer draws from, are the same each time, and are put back."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)
