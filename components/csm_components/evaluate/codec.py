"""How much a codec keeps of every voice: words, opinion score, likeness, pitch and voicing, before and after.

python -m csm_components.evaluate.codec --codec deploy/demo/codec --from deploy/demo/corpus --split test --limit 48
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from csm_components.evaluate.clips import one_thread
from csm_components.evaluate.judges import Audio, Mos, Recogniser, Size, SpeakerJudge
from csm_components.evaluate.wer import Errors, corpus_wer, tokens, wer_interval, word_errors
from csm_components.ingest.audio import read_mono, read_sound, to_model_rate
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.layouts import find_sounds, is_described, read_corpus
from csm_components.ingest.records import SPLITS
from csm_components.settings import worker_count
from csm_components.workers import run_parallel
from csm_model.codec import AudioCodec, load_codec
from csm_model.codec.pitch import HOP, track_pitch
from csm_model.errors import CsmError, InputError
from csm_model.files import write_json
from csm_model.frames import SAMPLE_RATE

MOST_LATE = 6  # steps of 10 ms that a codec may be late
_CENTROID_CLIPS = 12  # that make the mean voice of a speaker
_CLIPS_A_WORKER = 6  # fewer are judged sooner than another worker has loaded its judges


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """One turn and its sound `[S]` at 24 kHz."""

    text: str
    speaker: str
    audio: Audio


@dataclass(frozen=True, kw_only=True)
class VoiceFigures:
    """What judges say of a voice. Word error rates are fractions; scores run from 1 to 5; similarities are cosines."""

    clips: int
    seconds: float
    wer_original: dict[str, float]
    """By recogniser; empty where the clips have no texts."""
    wer_decoded: dict[str, float]
    wer_decoded_interval: dict[str, tuple[float, float]]
    mos_original: float
    mos_decoded: float
    similarity: float
    """Of each decoded clip to its original."""
    similarity_low: float
    """The least of them."""
    pitch: float
    """Median pitch of the originals in Hz."""
    pitch_off: float
    """Share of the steps voiced in both of which the pitch is off by more than a fifth."""
    voiced_original: float
    """Share of voiced steps (10 ms)."""
    voiced_decoded: float


@dataclass(frozen=True, kw_only=True)
class CodecFigures:
    """What a codec keeps of every voice, and of all clips together."""

    codec_digest: str
    total: VoiceFigures
    voices: dict[str, VoiceFigures]
    same_speaker: float
    """Originals to the mean voice of their own speaker: what similarity means here."""
    other_speaker: float
    """Originals to the mean voice of the other speakers."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One clip before and after."""

    speaker: str
    seconds: float
    before: dict[str, Errors]
    after: dict[str, Errors]
    mos: tuple[float, float]
    voice: NDArray[np.float32]
    """Of the original: `SpeakerJudge.embed`."""
    similarity: float
    """Of the decoded clip to it."""
    pitch: NDArray[np.float32]
    """Of the original's voiced steps, Hz."""
    pitch_off: tuple[int, int]
    """Steps with the pitch off, of steps voiced in both."""
    voiced: tuple[float, float]
    steps: int


def read_clips(folder: Path, split: str) -> Iterator[JudgedClip]:
    """Turns of a folder that ingest wrote, of a corpus in any layout that ingest reads, or sounds without texts.

    Of those, the folder that a file is in is its speaker, and there are no splits.
    """
    if (folder / "cuts.jsonl.gz").exists():
        for conversation in read_conversations(folder, split=split):
            for turn, audio in zip(conversation.turns, conversation.turn_audios(), strict=True):
                yield JudgedClip(text=turn.text, speaker=turn.voice or turn.person or str(turn.speaker), audio=audio)
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that ingest wrote, or a corpus")
    sounds = find_sounds(folder)
    if sounds and not is_described(folder, sounds):
        for name in sounds:
            path = folder / name
            yield JudgedClip(text="", speaker=path.parent.name, audio=read_mono(path))
        return
    for source in read_corpus(folder, sounds).conversations:
        if source.split not in (split, None):
            continue
        opened: dict[str, tuple[Audio, int]] = {}
        for item in source.turns:
            if item.audio not in opened:
                samples, rate = read_sound(folder / item.audio)
                opened[item.audio] = (samples.mean(axis=1), rate)
            samples, rate = opened[item.audio]
            start = round((item.start or 0.0) * rate)
            end = start + round(item.duration * rate) if item.duration else None
            yield JudgedClip(
                text=item.text, speaker=item.voice or item.speaker, audio=to_model_rate(samples[start:end], rate)
            )


def evenly(clips: Sequence[JudgedClip], limit: int) -> list[JudgedClip]:
    """At most `limit` clips of every speaker, spread over all of them, in the order that they come in."""
    chosen: set[int] = set()
    for speaker in {clip.speaker for clip in clips}:
        own = [index for index, clip in enumerate(clips) if clip.speaker == speaker]
        if 0 < limit < len(own):
            own = [own[place] for place in np.linspace(0, len(own) - 1, limit).round().astype(int)]
        chosen.update(own)
    return [clips[index] for index in sorted(chosen)]


@torch.inference_mode()
def decode_back(codec: AudioCodec, audio: Audio) -> Audio:
    """Sound `[S]` through the codec and back, of the same length."""
    codes = codec.encode(torch.from_numpy(audio)[None, None])
    sound: Audio = codec.decode(codes)[0, 0, : len(audio)].float().numpy()
    return sound


@torch.inference_mode()
def pitch_of(audio: Audio) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pitch in Hz and whether there is a voice, 100 times a second."""
    pitch, voiced = track_pitch(torch.from_numpy(np.pad(audio, (0, -len(audio) % HOP)))[None])
    return pitch[0].numpy(), voiced[0].numpy()


def pitch_errors(real: Audio, made: Audio) -> tuple[int, int]:
    """Steps of which the pitch is off by more than a fifth, of those that are voiced in both.

    A codec may be late; counted is the lateness, up to `MOST_LATE` steps, at which the most steps agree.
    """
    (pitch, voiced), (made_pitch, made_voiced) = pitch_of(real), pitch_of(made)
    best = (0, 0)
    for late in range(min(MOST_LATE, len(pitch) - 1) + 1):
        end = len(pitch) - late
        both = voiced[:end] & made_voiced[late : late + end]
        off = np.abs(np.log(made_pitch[late : late + end] / pitch[:end])) > np.log(1.2)
        errors = int((both & off).sum()), int(both.sum())
        if errors[1] - errors[0] > best[1] - best[0] or not best[1]:
            best = errors
    return best


def figures_of(judged: Sequence[Judged]) -> VoiceFigures:
    """The figures over clips."""
    sizes = [size for size in judged[0].after if sum(clip.after[size].words for clip in judged)]
    pitch = np.concatenate([clip.pitch for clip in judged])
    steps = sum(clip.steps for clip in judged)
    return VoiceFigures(
        clips=len(judged),
        seconds=sum(clip.seconds for clip in judged),
        wer_original={size: corpus_wer([clip.before[size] for clip in judged]) for size in sizes},
        wer_decoded={size: corpus_wer([clip.after[size] for clip in judged]) for size in sizes},
        wer_decoded_interval={size: wer_interval([clip.after[size] for clip in judged]) for size in sizes},
        mos_original=float(np.mean([clip.mos[0] for clip in judged])),
        mos_decoded=float(np.mean([clip.mos[1] for clip in judged])),
        similarity=float(np.mean([clip.similarity for clip in judged])),
        similarity_low=min(clip.similarity for clip in judged),
        pitch=float(np.median(pitch)) if len(pitch) else 0.0,
        pitch_off=sum(clip.pitch_off[0] for clip in judged) / max(1, sum(clip.pitch_off[1] for clip in judged)),
        voiced_original=sum(clip.voiced[0] * clip.steps for clip in judged) / steps,
        voiced_decoded=sum(clip.voiced[1] * clip.steps for clip in judged) / steps,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """A clip, and what the codec gives back of it."""

    number: int
    clip: JudgedClip
    decoded: Audio
    recognisers: tuple[Size, ...]


@functools.lru_cache(maxsize=1)
def _judges(recognisers: tuple[Size, ...]) -> tuple[list[Recogniser], Mos, SpeakerJudge]:
    return [Recogniser(size) for size in recognisers], Mos(), SpeakerJudge()


def _judge(pair: _Pair) -> tuple[int, Judged]:
    readers, mos, voices = _judges(pair.recognisers)
    clip, decoded = pair.clip, pair.decoded
    embedding = voices.embed(clip.audio)
    pitch, voiced = pitch_of(clip.audio)
    judged = Judged(
        speaker=clip.speaker,
        seconds=len(clip.audio) / SAMPLE_RATE,
        before={reader.size: _read(reader, clip.text, clip.audio) for reader in readers},
        after={reader.size: _read(reader, clip.text, decoded) for reader in readers},
        mos=(mos.score(clip.audio), mos.score(decoded)),
        voice=embedding,
        similarity=float(embedding @ voices.embed(decoded)),
        pitch=pitch[voiced],
        pitch_off=pitch_errors(clip.audio, decoded),
        voiced=(float(voiced.mean()), float(pitch_of(decoded)[1].mean())),
        steps=len(voiced),
    )
    return pair.number, judged


def _read(reader: Recogniser, text: str, audio: Audio) -> Errors:
    """What is misheard; nothing is read where the text has no words to compare with."""
    return word_errors(text, reader.transcribe(audio)) if tokens(text) else word_errors("", "")


def judge_clips(
    codec: AudioCodec,
    clips: Sequence[JudgedClip],
    *,
    recognisers: Sequence[Size],
    workers: int = 1,
    on_clip: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """Every clip before and after the codec, in their order; `on_clip` is called for each that is done."""
    asked = tuple(recognisers) if any(tokens(clip.text) for clip in clips) else ()
    pairs = (
        _Pair(number=number, clip=clip, decoded=decode_back(codec, clip.audio), recognisers=asked)
        for number, clip in enumerate(clips)
    )
    judged: dict[int, Judged] = {}
    workers = min(workers, max(1, len(clips) // _CLIPS_A_WORKER))
    try:
        for number, one in run_parallel(_judge, pairs, workers=workers, initializer=one_thread):
            judged[number] = one
            on_clip()
    finally:
        _judges.cache_clear()
    return [judged[number] for number in range(len(clips))]


def measure_codec(
    codec: AudioCodec,
    clips: Sequence[JudgedClip],
    *,
    recognisers: Sequence[Size] = ("tiny", "base"),
    workers: int = 1,
    console: Console | None = None,
) -> CodecFigures:
    """Judges every clip before and after the codec; a clip without a text is not read.

    Raises:
        InputError: there is no clip.
    """
    if not clips:
        raise InputError("no clips to measure the codec on; check the split")
    console = console or Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("codec", total=len(clips))
        on_clip = functools.partial(progress.advance, bar)
        judged = judge_clips(codec, clips, recognisers=recognisers, workers=workers, on_clip=on_clip)
    voices = by_voice(judged)
    own, other = _likeness_of_voices(voices)
    return CodecFigures(
        codec_digest=codec.digest,
        total=figures_of(judged),
        voices={name: figures_of(clips) for name, clips in voices.items()},
        same_speaker=own,
        other_speaker=other,
    )


def by_voice(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The clips of every speaker, in the order of their names."""
    names = sorted({clip.speaker for clip in judged})
    return {name: [clip for clip in judged if clip.speaker == name] for name in names}


def _likeness_of_voices(voices: Mapping[str, Sequence[Judged]]) -> tuple[float, float]:
    """Cosine of originals to the mean voice of their own speaker, and to those of the others; 0 where there is none."""
    means = {name: np.mean([clip.voice for clip in clips[:_CENTROID_CLIPS]], axis=0) for name, clips in voices.items()}
    centroids = {name: mean / max(float(np.linalg.norm(mean)), 1e-9) for name, mean in means.items()}
    own: list[float] = []
    others: list[float] = []
    for name, clips in voices.items():
        for other, centroid in centroids.items():
            (own if other == name else others).extend(float(clip.voice @ centroid) for clip in clips)
    return float(np.mean(own)), float(np.mean(others)) if others else 0.0


def table_of(figures: CodecFigures) -> Table:
    """Every voice by itself, before and after, for a terminal."""
    total = figures.total
    table = Table(
        title=f"codec {figures.codec_digest[:12]}, {total.clips} clips, {total.seconds:.0f} s",
        caption=f"originals to the mean of their voice {figures.same_speaker:.2f}, others {figures.other_speaker:.2f}",
    )
    table.add_column("original, decoded")
    rows = {**figures.voices, "all": total} if len(figures.voices) > 1 else figures.voices
    for name, own in rows.items():
        table.add_column(f"{name}, {own.clips}", justify="right")
    for size in total.wer_decoded:
        read = rows.values()
        table.add_row(
            f"word error rate, Whisper {size}",
            *(f"{own.wer_original[size]:.1%}, {own.wer_decoded[size]:.1%}" if own.wer_decoded else "" for own in read),
        )
        table.add_row(
            "95 % interval of the decoded",
            *("{:.1%} to {:.1%}".format(*own.wer_decoded_interval[size]) if own.wer_decoded else "" for own in read),
        )
    figures_by_name: dict[str, Callable[[VoiceFigures], str]] = {
        "distillMOS": lambda own: f"{own.mos_original:.2f}, {own.mos_decoded:.2f}",
        "similarity to the original (least)": lambda own: f"{own.similarity:.3f} ({own.similarity_low:.2f})",
        "median pitch": lambda own: f"{own.pitch:.0f} Hz",
        "pitch off by more than a fifth": lambda own: f"{own.pitch_off:.1%}",
        "voiced": lambda own: f"{own.voiced_original:.0%}, {own.voiced_decoded:.0%}",
    }
    for name, said in figures_by_name.items():
        table.add_row(name, *(said(own) for own in rows.values()))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for what the caller can put right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True, help="folder with codec.json")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        help="folder that ingest wrote, a corpus as ingest reads it, or VOICE/*.flac without texts",
    )
    parser.add_argument("--split", default="test", choices=SPLITS, help="whose turns (default test)")
    parser.add_argument("--limit", type=int, default=48, help="clips of a voice, spread evenly; 0 for all (default 48)")
    parser.add_argument("--recognisers", nargs="+", default=["tiny", "base"], choices=["tiny", "base"])
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        clips = evenly(list(read_clips(options.source, options.split)), options.limit)
        figures = measure_codec(
            load_codec(options.codec), clips, recognisers=options.recognisers, workers=worker_count(options.workers)
        )
    except CsmError as error:
        print(error, file=sys.stderr)
        return 2
    Console().print(table_of(figures))
    if options.json:
        write_json(options.json, asdict(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
