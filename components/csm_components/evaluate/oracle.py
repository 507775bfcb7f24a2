r"""Which part of a bundle costs words: the recording's own codes stand in for more and more of what the model draws.

python -m csm_components.evaluate.oracle --bundle runs/latest/bundle --tokens runs/latest/tokens \
    --conversations runs/latest/ingest --out runs/oracle --books 0 1 2 4

The same sentences of a split are spoken with different help:

- **history**: the frames before, of which a frame is drawn, are the `recorded` ones (teacher forcing) or the model's
  `own`;
- **books**: so many of the first codebooks of each frame are the recorded ones, and the depth decoder draws the rest.

With recorded history and all of the codebooks it is the codec's reconstruction; with own history and none of them it
is `free`, the model as it speaks. What is lost between two rows is the doing of what was taken away: the codebooks
after the first (recorded history, 1 book), codebook 0 (recorded, 0 books), and the drift of the history (own, 1 book,
against recorded, 1 book). Frames of which codebook 0 is drawn after recorded history do not follow on one another, so
that row can be worse than `free`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from csm_components.evaluate.clips import commit_clip
from csm_components.evaluate.figures import Figures, Interval, JudgedSentence, figures_of, points, wer_difference
from csm_components.evaluate.judges import Size
from csm_components.evaluate.judging import judged_rows
from csm_components.evaluate.sampling import own_sampling
from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.sources import FromBundle
from csm_components.evaluate.step import HeldOut, held_out_of, matching_manifests
from csm_components.evaluate.work import Take, place_of, progress_bar, speak_all
from csm_components.ingest.records import SPLITS
from csm_components.settings import worker_count
from csm_model.bundle import Bundle, load_bundle
from csm_model.errors import CsmError, InputError
from csm_model.files import write_json
from csm_model.inference.draws import nearest_to_mean, noise, sample
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel
from csm_model.training.shards import TokenTurn
from csm_model.transformer import KVCache
from csm_serving.wire.protocol import SamplingOptions

History = Literal["recorded", "own"]
FREE = "free"
FIGURES = "oracle.json"


@dataclass(frozen=True, kw_only=True)
class Help:
    """What of a recording stands in for what a model draws."""

    history: History
    """Whose frames the next one is drawn after."""
    books: int
    """So many of each frame's first codebooks are the recorded ones."""

    @property
    def series(self) -> str:
        """What the folder of its clips is called."""
        return f"{self.history}-{self.books}"


@dataclass(frozen=True, kw_only=True)
class Helped:
    """How a bundle speaks with a help; rates are fractions."""

    help: Help | None
    """None: the model by itself."""
    figures: Figures
    voices: dict[int, Figures]
    """The same by voice."""
    difference: float
    """Word error rate minus that of the model by itself."""
    difference_interval: Interval
    """95 %, paired, by bootstrap over the sentences."""


def helps(books: Sequence[int], histories: Sequence[History], most: int) -> list[Help]:
    """Every combination, but for own history without any help, which is the model by itself.

    Raises:
        InputError: more codebooks than the `most` that there are.
    """
    if wrong := [count for count in books if not 0 <= count <= most]:
        raise InputError(f"books {wrong[0]}: must be from 0 to the model's {most}")
    chosen = [Help(history=history, books=count) for history, count in itertools.product(histories, sorted(set(books)))]
    return [each for each in chosen if each != Help(history="own", books=0)]


@torch.inference_mode()
def codes_with_help(
    bundle: Bundle, before: TokenTurn | None, turn: TokenTurn, given: Help, sampling: Sampling
) -> Tensor:
    """Codes `[K, F]` of a recorded turn, of which the model draws what is not given; as many frames as it has.

    A frame's draw has the noise that the generator would give it. Speech does not end before the recording does.
    """
    model, config = bundle.model, bundle.model.config
    codes = torch.from_numpy(turn.codes.astype(np.int64))
    frames, shape = codes.shape[1], (config.num_codebooks, config.audio_vocab_size)
    gumbel = torch.stack([noise(sampling.seed, frame, shape) for frame in range(frames)])
    if given.books == config.num_codebooks:
        return codes
    rows, masks = _prompt(before, turn, model)
    if given.history == "recorded":
        sound, heard = audio_rows(codes, config, close=False)
        rows, masks = torch.cat([rows, sound]), torch.cat([masks, heard.expand(2, -1, -1)], dim=1)
        states = model.hidden(rows.expand(2, -1, -1), masks)[:, -frames - 1 : -1]
        return draw_frames(bundle, states, codes[: given.books], gumbel, sampling)
    cache = KVCache(config.backbone, batch_size=2, rows=len(rows) + frames, dtype=model.audio_embeddings.weight.dtype)
    state = model.hidden(rows.expand(2, -1, -1), masks, cache)[:, -1:]
    made = []
    for frame in range(frames):
        part = slice(frame, frame + 1)
        made.append(draw_frames(bundle, state, codes[: given.books, part], gumbel[part], sampling))
        row, heard = audio_rows(made[-1], config, close=False)
        state = model.hidden(row.expand(2, -1, -1), heard.expand(2, -1, -1), cache)[:, -1:]
    return torch.cat(made, dim=1)


def draw_frames(bundle: Bundle, states: Tensor, given: Tensor, gumbel: Tensor, sampling: Sampling) -> Tensor:
    """Codes `[K, F]` of frames, drawn by a bundle after the codebooks `[N, F]` that are given.

    Args:
        bundle: it; K codebooks, V audio ids.
        states: `[2, F, D]`: of the backbone with the text, and without it.
        given: codes of the first N codebooks; N may be 0.
        gumbel: noise `[F, K, V]`.
        sampling: how they are drawn.
    """
    model, config, entries = bundle.model, bundle.model.config, bundle.codec.entries
    frames = states.shape[1]
    banned = torch.arange(config.audio_vocab_size) >= config.codebook_size
    most = min(sampling.top_k, config.audio_vocab_size) or config.audio_vocab_size

    def drawn(logits: Tensor, book: int) -> Tensor:
        return sample(
            logits.float().masked_fill(banned, -torch.inf),
            gumbel[:, book],
            temperature=torch.full((frames,), sampling.temperature if book == 0 else sampling.depth_temperature),
            top_k=torch.full((frames,), most),
            most=most,
        )

    codes = list(given)
    if not codes:
        read, unread = model.codebook0_head(states).float()
        codes = [drawn(unread + sampling.guidance * (read - unread), 0)]
    weight = sampling.depth_guidance if sampling.guidance != 1.0 else 1.0
    for book in range(len(codes), config.num_codebooks):
        heard = torch.stack([model.embed_code(each, number) for number, each in enumerate(codes)], dim=1)
        entering = torch.cat([states[:, :, None], heard.expand(2, -1, -1, -1)], dim=2).flatten(0, 1)
        out = model.decoder(model.projection(entering))[:, -1].unflatten(0, (2, frames))
        read, unread = model.code_logits(out, book).float()
        logits = unread + weight * (read - unread)
        if book <= sampling.depth_mean and entries is not None:
            heat = torch.full((frames,), sampling.depth_temperature)
            codes.append(nearest_to_mean(logits, entries[book].double(), temperature=heat))
        else:
            codes.append(drawn(logits, book))
    return torch.stack(codes)


def _prompt(before: TokenTurn | None, turn: TokenTurn, model: CsmModel) -> tuple[Tensor, Tensor]:
    """Rows `[T, K + 1]` before a turn's sound, and their masks `[2, T, K + 1]` with its text and without it."""
    parts = []
    if before is not None:
        sound = audio_rows(torch.from_numpy(before.codes.astype(np.int64)), model.config, close=True)
        parts += [text_rows(before.text_ids.tolist(), model.config), sound]
    ids = turn.text_ids.tolist()
    rows, read = (torch.cat(list(each)) for each in zip(*parts, text_rows(ids, model.config), strict=True))
    unread = read.clone()
    unread[-len(ids) :] = text_rows(ids, model.config, read=False)[1]
    return rows, torch.stack([read, unread])


def measure_parts(
    bundle: Path,
    tokens: Path,
    conversations: Path,
    out: Path,
    *,
    books: Sequence[int] = (0, 1, 2, 4),
    histories: Sequence[History] = get_args(History),
    sampling: SamplingOptions | None = None,
    codec: Path | None = None,
    split: str = "validation",
    per_voice: int = 48,
    recogniser: Size = "tiny",
    mos: bool = False,
    seed: int = 0,
    max_frames: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> list[Helped]:
    """Speaks and judges sentences of a split without help, then with every combination of histories and books.

    Args:
        bundle: folder of the bundle.
        tokens: folder that tokenise wrote with the bundle's codec and tokenizer.
        conversations: folder that ingest wrote, of which they are.
        out: folder for clips, verdicts and `oracle.json`; may hold part of them.
        books: how many of the first codebooks are given.
        histories: whose frames a frame is drawn after.
        sampling: how codes are drawn; the bundle's own without it.
        codec: folder of the codec, for a bundle that carries none.
        split: whose sentences.
        per_voice: sentences of each voice, at most; only those that were recorded in it.
        recogniser: Whisper that reads what was said.
        mos: whether naturalness is scored too.
        seed: the n-th sentence has the seed `seed + n`.
        max_frames: longest sentence without help, in frames of 80 ms; the model's own bound without it.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress goes; standard error without it.

    Raises:
        InputError: no such codebooks, or no sentence of the split to speak.
        ArtifactError: tokens of other conversations, or of another codec than the bundle's.
    """
    source = FromBundle(folder=bundle, codec_folder=codec or tokens / "codec")
    manifest, dataset, encoded = matching_manifests(bundle, conversations, tokens, source)
    chosen = helps(books, histories, encoded["num_codebooks"])
    asked = sampling or own_sampling(bundle)
    corpus = held_out_of(conversations, tokens, manifest, split=split, per_voice=per_voice)
    sentences = [each for each in corpus.choice.sentences if each.own]
    seeds = {each.id: seed + n for n, each in enumerate(sentences)}
    count = worker_count(workers)
    with progress_bar(console=console or Console(stderr=True)) as progress:
        takes = {
            FREE: speak_all(
                sentences,
                source,
                series=FREE,
                out=out,
                tokens=corpus.tokens,
                tokens_digest=encoded["digest"],
                seeds=seeds,
                max_frames=max_frames,
                progress=progress,
                workers=count,
                sampling=asked,
            )
        }
        loaded = load_bundle(bundle, codec_folder=source.codec_folder, kernels=False)
        for given in chosen:
            places = {
                each.id: place_of(
                    out,
                    given.series,
                    each,
                    model=source.digest,
                    tokens=encoded["digest"],
                    seed=seeds[each.id],
                    sampling=asdict(asked),
                )
                for each in sentences
            }
            takes[given.series] = [Take(sentence=each, place=places[each.id]) for each in sentences]
            _make(takes[given.series], corpus, loaded, given, asked, seeds, progress)
        rows = judged_rows(
            takes,
            conversations,
            corpus.held_out.values(),
            out=out,
            dataset_digest=dataset["digest"],
            recogniser=recogniser,
            mos=mos,
            progress=progress,
            workers=count,
        )
    by_series: dict[str, Help | None] = {FREE: None, **{given.series: given for given in chosen}}
    measured = [_helped(given, rows[series], rows[FREE]) for series, given in by_series.items()]
    write_json(out / FIGURES, [asdict(each) for each in measured])
    return measured


def _make(
    takes: Sequence[Take],
    corpus: HeldOut,
    bundle: Bundle,
    given: Help,
    asked: SamplingOptions,
    seeds: dict[str, int],
    progress: Progress,
) -> None:
    """Speaks what is not there yet, with one help."""
    for take in progress.track(takes, description=f"speak: {given.series}"):
        if take.place.committed:
            continue
        sentence: Sentence = take.sentence
        before = corpus.tokens[sentence.context] if sentence.context else None
        sampling = Sampling(**asdict(asked), seed=seeds[sentence.id])
        codes = codes_with_help(bundle, before, corpus.tokens[sentence.turn], given, sampling)
        with torch.inference_mode():
            sound = bundle.codec.decode(codes[None])[0, 0].float().numpy()
        commit_clip(take.place, sound, ended=True)


def _helped(given: Help | None, rows: Sequence[JudgedSentence], free: Sequence[JudgedSentence]) -> Helped:
    difference, interval = wer_difference(rows, free)
    speakers = sorted({row.sentence.speaker for row in rows})
    return Helped(
        help=given,
        figures=figures_of(rows),
        voices={each: figures_of([row for row in rows if row.sentence.speaker == each]) for each in speakers},
        difference=difference,
        difference_interval=interval,
    )


def parts_table(measured: Sequence[Helped]) -> Table:
    """A row a help, the model by itself first."""
    voices = list(measured[0].voices)
    table = Table(
        title=f"{measured[0].figures.sentences} sentences; difference from the model by itself (first row) in points,\n"
        "paired, with 95 %",
        title_justify="left",
    )
    table.add_column("history, codebooks given")
    for heading in ("WER", *(f"voice {voice}" for voice in voices), "difference", "MOS"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in measured:
        table.add_row(
            "none: by itself" if each.help is None else f"{each.help.history}, {each.help.books}",
            f"{each.figures.wer:.1%}",
            *(f"{each.voices[voice].wer:.1%}" for voice in voices),
            points(each.difference, each.difference_interval),
            "-" if each.figures.mos is None else f"{each.figures.mos:.2f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for what the caller can put right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--codec", type=Path, help="folder of the codec, for a bundle that carries none")
    parser.add_argument("--tokens", type=Path, required=True, help="folder that tokenise wrote")
    parser.add_argument("--conversations", type=Path, required=True, help="folder that ingest wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, verdicts and oracle.json")
    parser.add_argument(
        "--books", type=int, nargs="+", default=[0, 1, 2, 4], help="codebooks that are given (default 0 1 2 4)"
    )
    parser.add_argument(
        "--history", nargs="+", default=list(get_args(History)), choices=get_args(History), help="(default both)"
    )
    parser.add_argument("--split", default="validation", choices=SPLITS, help="whose sentences (default validation)")
    parser.add_argument("--per-voice", type=int, default=48, help="sentences of each voice, at most (default 48)")
    parser.add_argument("--recogniser", default="tiny", choices=["tiny", "base"], help="(default tiny)")
    parser.add_argument("--mos", action="store_true", help="score naturalness too")
    parser.add_argument("--seed", type=int, default=0, help="(default 0)")
    options = parser.parse_args(arguments)
    try:
        measured = measure_parts(
            options.bundle,
            options.tokens,
            options.conversations,
            options.out,
            books=options.books,
            histories=options.history,
            codec=options.codec,
            split=options.split,
            per_voice=options.per_voice,
            recogniser=options.recogniser,
            mos=options.mos,
            seed=options.seed,
        )
    except CsmError as error:
        print(error, file=sys.stderr)
        return 2
    Console().print(parts_table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
