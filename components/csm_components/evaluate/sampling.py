r"""How a bundle is best sampled: temperatures and guidance, compared on held-out sentences of the validation split.

python -m csm_components.evaluate.sampling --bundle runs/latest/bundle --tokens runs/latest/tokens \
    --conversations runs/latest/ingest --out runs/sampling --temperature 0.3 0.5 --guidance 1.5 2

Every setting speaks the same sentences, each after the turn before it and as often as `--draws` says, with the same
seeds. Settings are compared with the bundle's own, sentence by sentence. The judge is Whisper tiny, which is not the
one that a release's gate hears (base), so that the choice isn't fitted to that. Clips and verdicts are committed one
by one: what was killed goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from csm_components.evaluate.figures import Figures, Interval, JudgedSentence, figures_of, points, wer_difference
from csm_components.evaluate.judges import Size
from csm_components.evaluate.judging import judged_rows
from csm_components.evaluate.sources import FromBundle
from csm_components.evaluate.step import held_out_of, matching_manifests
from csm_components.evaluate.work import Take, progress_bar, speak_all
from csm_components.settings import worker_count
from csm_model.bundle import read_manifest as read_bundle_manifest
from csm_model.errors import CsmError, InputError
from csm_model.files import write_json
from csm_model.inference.sampling import Sampling
from csm_serving.wire.protocol import SamplingOptions

FIGURES = "sampling.json"
_COLUMNS = ("temperature", "depth_temperature", "guidance", "depth_guidance", "depth_mean")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One setting, and how the bundle speaks by it; rates are fractions."""

    sampling: SamplingOptions
    """Whole: nothing in it is left to the bundle."""
    figures: Figures
    difference: float
    """Word error rate minus that of the bundle's own setting: below 0 is better."""
    difference_interval: Interval
    """95 %, by bootstrap over the sentences, each with all its draws of both settings."""


def own_sampling(bundle: Path) -> SamplingOptions:
    """The setting that a bundle recommends."""
    whole = Sampling(**read_bundle_manifest(bundle).get("sampling", {}))
    return SamplingOptions(**{each.name: getattr(whole, each.name) for each in fields(SamplingOptions)})


def grid(own: SamplingOptions, **values: Sequence[float] | None) -> list[SamplingOptions]:
    """The bundle's own setting, then every combination of `values`; what has none stays as it is in `own`."""
    axes = [[(name, value) for value in values.get(name) or [getattr(own, name)]] for name in _COLUMNS]
    settings = [SamplingOptions(**{**asdict(own), **dict(chosen)}) for chosen in itertools.product(*axes)]
    return list(dict.fromkeys([own, *settings]))


def compare_samplings(
    bundle: Path,
    tokens: Path,
    conversations: Path,
    out: Path,
    settings: Sequence[SamplingOptions],
    *,
    codec: Path | None = None,
    split: str = "validation",
    per_voice: int = 48,
    draws: int = 2,
    recogniser: Size = "tiny",
    mos: bool = False,
    seed: int = 0,
    max_frames: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> list[Tried]:
    """Speaks and judges the same sentences by every setting; the first is what the others are compared with.

    Args:
        bundle: folder of the bundle.
        tokens: folder that tokenise wrote with the bundle's codec and tokenizer.
        conversations: folder that ingest wrote, of which they are.
        out: folder for clips, verdicts and `sampling.json`; may hold part of them.
        settings: `grid` makes them.
        codec: folder of the codec, for a bundle that carries none.
        split: whose sentences; not the one by which the release is judged.
        per_voice: sentences of each voice, at most.
        draws: how often each is spoken by each setting.
        recogniser: Whisper that reads what was said.
        mos: whether naturalness is scored too.
        seed: draw `d` of the n-th of `N` sentences has the seed `seed + d * N + n`.
        max_frames: longest sentence in frames of 80 ms; the model's own bound without it.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress goes; standard error without it.

    Raises:
        InputError: nothing to draw, or no sentence of the split to speak.
        ArtifactError: tokens of other conversations, or of another codec than the bundle's.
    """
    if draws < 1:
        raise InputError(f"draws {draws}: must be 1 or more")
    source = FromBundle(folder=bundle, codec_folder=codec or tokens / "codec")
    manifest, dataset, encoded = matching_manifests(bundle, conversations, tokens, source)
    corpus = held_out_of(conversations, tokens, manifest, split=split, per_voice=per_voice)
    sentences = corpus.choice.sentences
    count = worker_count(workers)
    takes: dict[str, list[Take]] = {}
    with progress_bar(console=console or Console(stderr=True)) as progress:
        for setting, draw in itertools.product(settings, range(draws)):
            series = series_of(setting, draw)
            takes[series] = speak_all(
                sentences,
                source,
                series=series,
                out=out,
                tokens=corpus.tokens,
                tokens_digest=encoded["digest"],
                seeds={each.id: seed + draw * len(sentences) + n for n, each in enumerate(sentences)},
                max_frames=max_frames,
                progress=progress,
                workers=count,
                sampling=setting,
            )
        judged = judged_rows(
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
    rows = {setting: [row for draw in range(draws) for row in judged[series_of(setting, draw)]] for setting in settings}
    tried = [_tried(setting, kept, rows[settings[0]]) for setting, kept in rows.items()]
    write_json(out / FIGURES, [asdict(each) for each in tried])
    return tried


def series_of(setting: SamplingOptions, draw: int) -> str:
    """What the folder of its clips is called."""
    values = (
        setting.temperature,
        setting.depth_temperature,
        setting.top_k,
        setting.guidance,
        setting.depth_guidance,
        setting.depth_mean,
        draw,
    )
    return "-".join(f"{value:g}" for value in values if value is not None)


def _tried(setting: SamplingOptions, rows: Sequence[JudgedSentence], own: Sequence[JudgedSentence]) -> Tried:
    difference, interval = wer_difference(rows, own)
    return Tried(sampling=setting, figures=figures_of(rows), difference=difference, difference_interval=interval)


def samplings_table(tried: Sequence[Tried]) -> Table:
    """A row a setting, the bundle's own first, then the fewest word errors."""
    table = Table(
        title="sampling: temperature of codebook 0, of the others, guidance of either, means;\n"
        "difference from the bundle's own (first row) in points, paired, with 95 %",
        title_justify="left",
    )
    for heading in ("sampling", "WER", "difference", "likeness", "MOS", "not ended"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in [tried[0], *sorted(tried[1:], key=lambda other: other.figures.wer)]:
        table.add_row(
            "  ".join(f"{getattr(each.sampling, name):g}" for name in _COLUMNS),
            f"{each.figures.wer:.1%}",
            points(each.difference, each.difference_interval),
            f"{each.figures.speaker_similarity:.3f}",
            "-" if each.figures.mos is None else f"{each.figures.mos:.2f}",
            f"{each.figures.unended:.1%}",
        )
    return table


def advice(tried: Sequence[Tried]) -> str:
    """One line: what to set, or that nothing was shown to be better than what the bundle has."""
    shown = [each for each in tried[1:] if each.difference_interval[1] < 0]
    if not shown:
        return "no setting is shown to be better than the bundle's own: keep it, or compare on more sentences"
    best = min(shown, key=lambda each: each.figures.wer)
    values: dict[str, Any] = {name: getattr(best.sampling, name) for name in _COLUMNS}
    return f"fewer word errors than the bundle's own: --set 'train.recipe.sampling={json.dumps(values)}'"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for what the caller can put right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--codec", type=Path, help="folder of the codec, for a bundle that carries none")
    parser.add_argument("--tokens", type=Path, required=True, help="folder that tokenise wrote")
    parser.add_argument("--conversations", type=Path, required=True, help="folder that ingest wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, verdicts and sampling.json")
    parser.add_argument("--temperature", type=float, nargs="+", help="of codebook 0 (default: the bundle's)")
    parser.add_argument("--depth-temperature", type=float, nargs="+", help="of the others (default: the bundle's)")
    parser.add_argument("--guidance", type=float, nargs="+", help="towards the text (default: the bundle's)")
    parser.add_argument(
        "--depth-guidance", type=float, nargs="+", help="the same of the other codebooks (default: the bundle's)"
    )
    parser.add_argument("--depth-mean", type=int, nargs="+", help="codebooks by their mean (default: the bundle's)")
    parser.add_argument("--split", default="validation", help="whose sentences (default validation)")
    parser.add_argument("--per-voice", type=int, default=48, help="sentences of each voice, at most (default 48)")
    parser.add_argument("--draws", type=int, default=2, help="how often each is spoken (default 2)")
    parser.add_argument("--recogniser", default="tiny", choices=["tiny", "base"], help="(default tiny)")
    parser.add_argument("--mos", action="store_true", help="score naturalness too")
    parser.add_argument("--seed", type=int, default=0, help="(default 0)")
    options = parser.parse_args(arguments)
    try:
        tried = compare_samplings(
            options.bundle,
            options.tokens,
            options.conversations,
            options.out,
            grid(
                own_sampling(options.bundle),
                temperature=options.temperature,
                depth_temperature=options.depth_temperature,
                guidance=options.guidance,
                depth_guidance=options.depth_guidance,
                depth_mean=options.depth_mean,
            ),
            codec=options.codec,
            split=options.split,
            per_voice=options.per_voice,
            draws=options.draws,
            recogniser=options.recogniser,
            mos=options.mos,
            seed=options.seed,
        )
    except CsmError as error:
        print(error, file=sys.stderr)
        return 2
    Console().print(samplings_table(tried), advice(tried), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
