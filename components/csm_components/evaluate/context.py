r"""Whether a bundle uses what was said before: with the right turn before, with none, and with another conversation's.

python -m csm_components.evaluate.context --bundle BUNDLE --tokens runs/latest/tokens --out OUT \
    --conversations runs/latest/ingest

Two questions of the held-out answers of a split, each to a turn of somebody else:

- **likelihood**: nats a frame of codebook 0 that the recorded answer costs (teacher-forced), under each context;
- **followed prosody**: how far an answer that the model speaks goes along with the recorded turn before it in loudness,
  pitch range and pace, as a correlation over answers, where the model heard that turn, and where it heard another one.
  The recordings' own correlation is what can be reached.

Another turn is one of the same voice, of another conversation. Each figure is taken as a difference from its voice's
mean, so that who speaks explains nothing. Clips are committed one by one: what was killed goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from csm_components.evaluate.charts import write_scatter
from csm_components.evaluate.clips import read_clip
from csm_components.evaluate.figures import Interval
from csm_components.evaluate.judges import Audio
from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.sources import FromBundle
from csm_components.evaluate.wer import bootstrap_interval
from csm_components.evaluate.work import progress_bar, speak_all
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.records import SPLITS
from csm_components.settings import worker_count
from csm_model.bundle import load_bundle
from csm_model.codec.pitch import HOP, in_range, track_pitch
from csm_model.errors import CsmError, InputError
from csm_model.files import read_json, write_json
from csm_model.frames import SAMPLE_RATE
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.model import CsmModel
from csm_model.training.shards import TokenTurn, load_tokens

CONTEXTS = ("right", "none", "other")
MEASURES = ("loudness", "pitch range", "pace")
_SERIES = ("right", "other", "recorded")
_FEWEST = 3
"""Answers of which a correlation is told."""
_HEARD_DB = 35.0
"""Below the loudest step of a clip, what is quieter is silence."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An answer, the turn before it, and a turn of the same voice that stands before another answer."""

    answer: TokenTurn
    before: TokenTurn
    other: TokenTurn

    def context(self, which: str) -> TokenTurn | None:
        """The turn that is heard first."""
        return {"right": self.before, "other": self.other, "none": None}[which]


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """How a turn is said."""

    loudness: float
    """RMS in dB of its steps that are not silent."""
    pitch_range: float
    """Standard deviation of the pitch in semitones."""
    pace: float
    """Text ids a second, from its first to its last step that is not silent."""

    @property
    def values(self) -> tuple[float, float, float]:
        """In the order of `MEASURES`."""
        return self.loudness, self.pitch_range, self.pace


@dataclass(frozen=True, kw_only=True)
class ContextFigures:
    """What a bundle makes of the turn before. Intervals are of 95 %, by bootstrap over answers."""

    answers: int
    nats: Mapping[str, float]
    """Of codebook 0 a frame, by context."""
    nats_saved: Mapping[str, float]
    """What the right turn saves against none, and against another one."""
    nats_saved_interval: Mapping[str, Interval]
    spoken: int
    """Answers that were spoken, and of which all can be measured."""
    followed: Mapping[str, Mapping[str, float]]
    """Correlation with the recorded turn before, by measure: of answers after the `right` and the `other` turn, and of
    the `recorded` ones. Empty where fewer than three answers were measured."""


def pairs_of(turns: Sequence[TokenTurn], *, seed: int = 0) -> list[Pair]:
    """Every turn that follows one of somebody else, beside a turn of that voice from another conversation.

    The other turns are those of other pairs of the same two voices, each once; an answer for which there is none is
    left out.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[int, int], list[tuple[TokenTurn, TokenTurn]]] = {}
    for before, answer in itertools.pairwise(turns):
        if before.conversation == answer.conversation and before.speaker != answer.speaker:
            groups.setdefault((before.speaker, answer.speaker), []).append((before, answer))
    pairs = []
    for _, group in sorted(groups.items()):
        shuffled = [group[place] for place in rng.permutation(len(group))]
        shuffled.sort(key=lambda pair: pair[0].conversation)  # stable: those of a conversation stand together
        # Half a turn of the circle further stands another conversation, unless one has more than half of the pairs.
        half = len(shuffled) // 2
        for place, (before, answer) in enumerate(shuffled):
            other = shuffled[(place + half) % len(shuffled)][0]
            if other.conversation != before.conversation:
                pairs.append(Pair(answer=answer, before=before, other=other))
    return pairs


@torch.inference_mode()
def nats_of(model: CsmModel, turns: Sequence[TokenTurn]) -> float:
    """Mean cross-entropy of codebook 0 over the frames of the last turn, and the row that ends it."""
    parts = []
    for turn in turns:
        codes = torch.from_numpy(turn.codes.astype(np.int64))
        parts += [text_rows(turn.text_ids.tolist(), model.config), audio_rows(codes, model.config, close=True)]
    rows, mask = (torch.cat(list(each)) for each in zip(*parts, strict=True))
    asked = turns[-1].codes.shape[1] + 1
    state = model.hidden(rows[None], mask[None])[0, -asked - 1 : -1]
    return float(F.cross_entropy(model.codebook0_head(state).float(), rows[-asked:, 0]))


def prosody_of(audio: Audio, ids: int) -> Prosody | None:
    """Of sound `[S]` whose text has so many ids; none where hardly anything of it is voiced."""
    whole = torch.from_numpy(np.ascontiguousarray(audio[: len(audio) // HOP * HOP]))[None]
    if whole.shape[1] < HOP:
        return None
    power = whole[0].unflatten(0, (-1, HOP)).square().mean(-1).clamp(min=1e-10)
    level = 10 * power.log10()
    heard = torch.nonzero(level > level.max() - _HEARD_DB)[:, 0]
    pitch, voiced = track_pitch(whole)
    sure = in_range(pitch, voiced)[0]
    if int(sure.sum()) < 10:
        return None
    seconds = float(heard[-1] - heard[0] + 1) * HOP / SAMPLE_RATE
    return Prosody(
        loudness=float(10 * power[heard].mean().log10()),
        pitch_range=float((12 * pitch[0][sure].log2()).std()),
        pace=ids / seconds,
    )


def followed(answers: Sequence[Prosody], before: Sequence[Prosody], voices: Sequence[tuple[int, int]]) -> list[float]:
    """Correlation of answers with the turns before them, for each of `MEASURES`.

    `voices` are who was heard and who answers: of each pair of voices the means are taken away.
    """
    tables = []
    for side in (answers, before):
        table = np.array([each.values for each in side])
        for pair in set(voices):
            own = [place for place, each in enumerate(voices) if each == pair]
            table[own] -= table[own].mean(axis=0)
        tables.append(table)
    mine, its = tables
    spread = np.sqrt((mine**2).sum(axis=0) * (its**2).sum(axis=0))
    return [float(value) for value in (mine * its).sum(axis=0) / np.maximum(spread, 1e-12)]


def judge_context(
    bundle: Path,
    tokens: Path,
    conversations: Path,
    out: Path,
    *,
    codec: Path | None = None,
    split: str = "test",
    only: Callable[[Pair], bool] = lambda pair: True,
    most: int | None = None,
    spoken: int = 120,
    seed: int = 0,
    max_frames: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> ContextFigures:
    """Both questions, of the answers of a split.

    Args:
        bundle: folder of the bundle.
        tokens: folder that tokenise wrote with the bundle's codec and tokenizer.
        conversations: folder that ingest wrote, of which they are.
        out: folder for clips, `context.json` and `context.png`; may hold part of them.
        codec: folder of the codec, for a bundle that carries none.
        split: whose answers.
        only: which pairs to take.
        most: pairs, at most.
        spoken: how many of the answers are spoken, each after either turn.
        seed: of the choice and of what is spoken.
        max_frames: longest answer in frames of 80 ms; the model's own bound without it.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress goes; standard error without it.

    Raises:
        InputError: no answer of the split has another one's turn to be compared with.
    """
    pairs = [pair for pair in pairs_of(list(load_tokens(tokens, split)), seed=seed) if only(pair)]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[: most or len(pairs)]
    pairs = [pairs[place] for place in sorted(chosen)]
    if not pairs:
        raise InputError(
            f"{tokens}: no turn of its split {split} follows one of another speaker, beside turns of a second "
            "conversation of these voices; give tokens of such conversations"
        )
    source = FromBundle(folder=bundle, codec_folder=codec or tokens / "codec")
    console = console or Console(stderr=True)
    nats = _likelihoods(source, pairs, console)
    saved = {which: nats[which] - nats["right"] for which in ("none", "other")}
    clips = _spoken(
        source,
        pairs[:spoken],
        out=out,
        tokens_digest=read_json(tokens / "manifest.json")["digest"],
        seed=seed,
        max_frames=max_frames,
        workers=worker_count(workers),
        console=console,
    )
    recorded = _recordings(conversations, split, pairs[:spoken])
    kept, prosodies = _measured(pairs[:spoken], clips, recorded)
    voices = [(pair.before.speaker, pair.answer.speaker) for pair in kept]
    follows = {}
    if len(kept) >= _FEWEST:
        for series in _SERIES:
            values = followed(prosodies[series], prosodies["before"], voices)
            follows[series] = dict(zip(MEASURES, values, strict=True))
        _draw(out / "context.png", prosodies, follows)
    figures = ContextFigures(
        answers=len(pairs),
        nats={which: float(each.mean()) for which, each in nats.items()},
        nats_saved={which: float(each.mean()) for which, each in saved.items()},
        nats_saved_interval={which: bootstrap_interval(list(each)) for which, each in saved.items()},
        spoken=len(kept),
        followed=follows,
    )
    write_json(out / "context.json", asdict(figures))
    return figures


def _likelihoods(source: FromBundle, pairs: Sequence[Pair], console: Console) -> dict[str, NDArray[np.float64]]:
    """Nats a frame of each answer, by context."""
    model = load_bundle(source.folder, codec_folder=source.codec_folder, kernels=False).model
    nats: dict[str, list[float]] = {which: [] for which in CONTEXTS}
    with progress_bar(console=console) as progress:
        for pair in progress.track(pairs, description="likelihood"):
            for which in CONTEXTS:
                before = pair.context(which)
                nats[which].append(nats_of(model, [*([before] if before else []), pair.answer]))
    return {which: np.array(values) for which, values in nats.items()}


def _spoken(
    source: FromBundle,
    pairs: Sequence[Pair],
    *,
    out: Path,
    tokens_digest: str,
    seed: int,
    max_frames: int | None,
    workers: int,
    console: Console,
) -> dict[str, list[Audio]]:
    """The answers as the bundle speaks them after the right and after the other turn."""
    encoded = {turn.id: turn for pair in pairs for turn in (pair.before, pair.other)}
    clips = {}
    with progress_bar(console=console) as progress:
        for which in ("right", "other"):
            sentences = [_sentence(pair, which) for pair in pairs]
            takes = speak_all(
                sentences,
                source,
                series=f"context-{which}",
                out=out,
                tokens=encoded,
                tokens_digest=tokens_digest,
                seeds={sentence.id: seed + number for number, sentence in enumerate(sentences)},
                max_frames=max_frames,
                progress=progress,
                workers=workers,
            )
            clips[which] = [read_clip(take.place.wav) for take in takes]
    return clips


def _measured(
    pairs: Sequence[Pair], clips: Mapping[str, Sequence[Audio]], recorded: Mapping[str, Audio]
) -> tuple[list[Pair], dict[str, list[Prosody]]]:
    """The pairs in which all can be measured, and the prosody of their turns: spoken, recorded, and those before."""
    kept: list[Pair] = []
    measured: dict[str, list[Prosody]] = {series: [] for series in ("before", *_SERIES)}
    for place, pair in enumerate(pairs):
        answer = len(pair.answer.text_ids)
        found = {series: prosody_of(sounds[place], answer) for series, sounds in clips.items()}
        found["recorded"] = prosody_of(recorded[pair.answer.id], answer)
        found["before"] = prosody_of(recorded[pair.before.id], len(pair.before.text_ids))
        whole = {series: prosody for series, prosody in found.items() if prosody is not None}
        if len(whole) == len(found):
            kept.append(pair)
            for series, prosody in whole.items():
                measured[series].append(prosody)
    return kept, measured


def _sentence(pair: Pair, which: str) -> Sentence:
    context = pair.context(which)
    return Sentence(
        turn=pair.answer.id,
        conversation=pair.answer.conversation,
        text=pair.answer.text,
        speaker=pair.answer.speaker,
        own=True,
        context=context.id if context else None,
    )


def _recordings(conversations: Path, split: str, pairs: Sequence[Pair]) -> dict[str, Audio]:
    """Sound of the answers and of the turns before them, by their ids."""
    ids, found = {turn.id for pair in pairs for turn in (pair.answer, pair.before)}, {}
    for conversation in read_conversations(conversations, split=split):
        if any(turn.id in ids for turn in conversation.turns):
            for turn, audio in zip(conversation.turns, conversation.turn_audios(), strict=True):
                found[turn.id] = audio
    return found


def _draw(path: Path, prosodies: Mapping[str, Sequence[Prosody]], follows: Mapping[str, Mapping[str, float]]) -> None:
    """Answers over the turns before them: one panel a measure and series."""
    before = np.array([each.values for each in prosodies["before"]])
    panels = []
    for series in _SERIES:
        answers = np.array([each.values for each in prosodies[series]])
        for place, name in enumerate(MEASURES):
            title = f"{name}, {series}: r = {follows[series][name]:.2f}"
            panels.append((title, before[:, place], answers[:, place]))
    write_scatter(path, panels, columns=len(MEASURES), across="turn before, recorded", along="answer")


def context_table(figures: ContextFigures) -> Table:
    """The figures, for a terminal."""
    table = Table(title="context", title_justify="left")
    for name in ("", "right", "none", "other", "recorded"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row(
        f"nats a frame, {figures.answers} answers", *(f"{figures.nats[which]:.3f}" for which in CONTEXTS), "-"
    )
    saved = [
        f"{figures.nats_saved[which]:+.3f} ({figures.nats_saved_interval[which][0]:+.3f} to "
        f"{figures.nats_saved_interval[which][1]:+.3f})"
        for which in ("none", "other")
    ]
    table.add_row("  saved by the right one", "-", *saved, "-")
    for name in MEASURES if figures.followed else ():
        shown = [f"{figures.followed[series][name]:.2f}" for series in _SERIES]
        table.add_row(f"{name} followed, {figures.spoken} answers", shown[0], "-", shown[1], shown[2])
    return table


def planted_answers(corpus: Path) -> set[str]:
    """Ids of the turns of a lhotse corpus whose `custom.planted` says that they follow the turn before them."""
    rows = [json.loads(line) for line in (corpus / "supervisions.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers: dict[str, int] = {}
    chosen = set()
    for row in rows:
        number = numbers[row["recording_id"]] = numbers.get(row["recording_id"], -1) + 1
        planted = row.get("custom", {}).get("planted", {})
        if planted.get("kind") == "follows" and planted.get("follows") == number - 1:
            chosen.add(row["id"])
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for what the caller can put right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--codec", type=Path, help="folder of the codec, where it is not that of the tokens")
    parser.add_argument("--tokens", type=Path, required=True, help="folder that tokenise wrote")
    parser.add_argument("--conversations", type=Path, required=True, help="folder that ingest wrote, of which they are")
    parser.add_argument("--corpus", type=Path, help="corpus of which only the answers that follow are taken")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, context.json and context.png")
    parser.add_argument("--split", default="test", choices=SPLITS, help="whose turns (default test)")
    parser.add_argument("--most", type=int, help="answers, at most")
    parser.add_argument("--spoken", type=int, default=120, help="answers that are spoken (default 120)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    console = Console()
    try:
        chosen = planted_answers(options.corpus) if options.corpus else None
        figures = judge_context(
            options.bundle,
            options.tokens,
            options.conversations,
            options.out,
            codec=options.codec,
            split=options.split,
            only=lambda pair: chosen is None or pair.answer.id in chosen,
            most=options.most,
            spoken=options.spoken,
            seed=options.seed,
        )
    except CsmError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(context_table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
