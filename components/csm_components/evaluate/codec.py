"""How much of speech a codec keeps: word error rate, opinion score and voice, before and after.

python -m csm_components.evaluate.codec --codec deploy/demo/codec --from deploy/demo/corpus --split test --limit 72
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from csm_components.evaluate.judges import Audio, Mos, Recogniser, Size, SpeakerJudge, references_of
from csm_components.evaluate.wer import Errors, corpus_wer, wer_interval, word_errors
from csm_components.ingest.audio import read_sound, to_model_rate
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.layouts import find_sounds, read_corpus
from csm_model.codec import AudioCodec, load_codec
from csm_model.errors import CsmError, InputError
from csm_model.files import write_json
from csm_model.frames import SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """One turn and its sound `[S]` at 24 kHz."""

    text: str
    speaker: str
    audio: Audio


@dataclass(frozen=True, kw_only=True)
class CodecFigures:
    """What judges say of a codec. Word error rates are fractions; scores run from 1 to 5; similarities are cosines."""

    codec_digest: str
    clips: int
    seconds: float
    wer_original: dict[str, float]
    """By recogniser."""
    wer_decoded: dict[str, float]
    wer_decoded_interval: dict[str, tuple[float, float]]
    mos_original: float
    mos_decoded: float
    similarity: float
    """Of each decoded clip to its original."""
    similarity_low: float
    """The least of them."""
    same_speaker: float
    """Originals to the mean voice of their own speaker: what similarity means here."""
    other_speaker: float
    """Originals to the mean voice of the other speakers."""


def read_clips(folder: Path, split: str) -> Iterator[JudgedClip]:
    """Turns of a folder that ingest wrote, or of a corpus in any layout that ingest reads."""
    if (folder / "cuts.jsonl.gz").exists():
        for conversation in read_conversations(folder, split=split):
            for turn, audio in zip(conversation.turns, conversation.turn_audios(), strict=True):
                yield JudgedClip(text=turn.text, speaker=turn.voice or str(turn.speaker), audio=audio)
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that ingest wrote, or a corpus")
    for source in read_corpus(folder, find_sounds(folder)).conversations:
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
    """At most `limit` clips, spread over all of them."""
    if limit <= 0 or len(clips) <= limit:
        return list(clips)
    return [clips[index] for index in np.linspace(0, len(clips) - 1, limit).round().astype(int)]


@torch.inference_mode()
def decode_back(codec: AudioCodec, audio: Audio) -> Audio:
    """Sound `[S]` through the codec and back, of the same length."""
    codes = codec.encode(torch.from_numpy(audio)[None, None])
    sound: Audio = codec.decode(codes)[0, 0, : len(audio)].float().numpy()
    return sound


def measure_codec(
    codec: AudioCodec,
    clips: Sequence[JudgedClip],
    *,
    recognisers: Sequence[Size] = ("tiny", "base"),
    console: Console | None = None,
) -> CodecFigures:
    """Judges every clip before and after the codec.

    Raises:
        InputError: there is no clip.
    """
    if not clips:
        raise InputError("no clips to measure the codec on; check the split")
    readers, mos, voices = [Recogniser(size) for size in recognisers], Mos(), SpeakerJudge()
    before: dict[str, list[Errors]] = {size: [] for size in recognisers}
    after: dict[str, list[Errors]] = {size: [] for size in recognisers}
    scores, decoded_scores, alike, owns, others = [], [], [], [], []
    numbers = {name: number for number, name in enumerate(sorted({clip.speaker for clip in clips}))}
    references = references_of(voices, [(numbers[clip.speaker], clip.audio) for clip in clips])
    for clip in track(clips, description="codec", console=console or Console(stderr=True)):
        decoded = decode_back(codec, clip.audio)
        for reader in readers:
            before[reader.size].append(word_errors(clip.text, reader.transcribe(clip.audio)))
            after[reader.size].append(word_errors(clip.text, reader.transcribe(decoded)))
        scores.append(mos.score(clip.audio))
        decoded_scores.append(mos.score(decoded))
        embedding = voices.embed(clip.audio)
        alike.append(float(embedding @ voices.embed(decoded)))
        verdict = voices.decide(embedding, references)
        owns.append(verdict.similarity[numbers[clip.speaker]])
        others += [value for number, value in verdict.similarity.items() if number != numbers[clip.speaker]]
    return CodecFigures(
        codec_digest=codec.digest,
        clips=len(clips),
        seconds=sum(len(clip.audio) for clip in clips) / SAMPLE_RATE,
        wer_original={size: corpus_wer(errors) for size, errors in before.items()},
        wer_decoded={size: corpus_wer(errors) for size, errors in after.items()},
        wer_decoded_interval={size: wer_interval(errors) for size, errors in after.items()},
        mos_original=float(np.mean(scores)),
        mos_decoded=float(np.mean(decoded_scores)),
        similarity=float(np.mean(alike)),
        similarity_low=float(np.min(alike)),
        same_speaker=float(np.mean(owns)),
        other_speaker=float(np.mean(others)) if others else 0.0,
    )


def table_of(figures: CodecFigures) -> Table:
    """The figures side by side, for a terminal."""
    table = Table(title=f"codec {figures.codec_digest[:12]}, {figures.clips} clips, {figures.seconds:.0f} s")
    for heading in ("", "original", "decoded"):
        table.add_column(heading, justify="right" if heading else "left")
    for size, wer in figures.wer_original.items():
        low, high = figures.wer_decoded_interval[size]
        table.add_row(
            f"word error rate, Whisper {size}",
            f"{wer:.2%}",
            f"{figures.wer_decoded[size]:.2%}  ({low:.1%} to {high:.1%})",
        )
    table.add_row("distillMOS", f"{figures.mos_original:.2f}", f"{figures.mos_decoded:.2f}")
    table.add_row(
        "speaker similarity to the original",
        f"own voice {figures.same_speaker:.2f}, other {figures.other_speaker:.2f}",
        f"{figures.similarity:.3f}  (least {figures.similarity_low:.2f})",
    )
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
        help="folder that ingest wrote, or a corpus as ingest reads it",
    )
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument("--limit", type=int, default=48, help="clips, spread evenly; 0 for all (default 48)")
    parser.add_argument("--recognisers", nargs="+", default=["tiny", "base"], choices=["tiny", "base"])
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        clips = evenly(list(read_clips(options.source, options.split)), options.limit)
        figures = measure_codec(load_codec(options.codec), clips, recognisers=options.recognisers)
    except CsmError as error:
        print(error, file=sys.stderr)
        return 2
    Console().print(table_of(figures))
    if options.json:
        write_json(options.json, asdict(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
