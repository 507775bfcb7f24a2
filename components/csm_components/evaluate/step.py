"""The step evaluate: a model speaks sentences that it never saw, and judges listen.

The output folder:

| file | what it is |
| --- | --- |
| `made.json` | written last: what it was made of, and came to |
| `result.json` | the figures, and one row a sentence |
| `report.html` | the same for people: players, pictures, tables; needs nothing else |
| `clips/SERIES/` | clips as WAV, each with a note; `generated`, `original`, `reconstruction`, `parent`, `base` |
| `verdicts/SERIES/` | what the judges heard in each |

Clips and verdicts are committed one by one: a killed run goes on with the next sentence.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from csm_components import made
from csm_components.evaluate.figures import JudgedSentence, figures_of, wer_difference
from csm_components.evaluate.judging import judged_rows
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.evaluate.learned import what_was_learned
from csm_components.evaluate.outcome import REPORT, RESULT, EvaluateResult, details_of, result_of
from csm_components.evaluate.report import ReportInputs, write_report
from csm_components.evaluate.sentences import Choice, Sentence, choose_sentences, subset, voice_names
from csm_components.evaluate.sources import FromBundle, FromTriton, SpeechSource
from csm_components.evaluate.table import figures_table
from csm_components.evaluate.verdicts import JUDGES_VERSION
from csm_components.evaluate.work import (
    Take,
    baseline_takes,
    progress_bar,
    speak_all,
)
from csm_components.ingest.conversations import Conversation, read_conversations
from csm_components.ingest.conversations import read_manifest as read_conversations_manifest
from csm_components.settings import worker_count
from csm_components.train.progress import METRICS
from csm_model.bundle import read_manifest as read_bundle_manifest
from csm_model.codec import load_codec
from csm_model.errors import ArtifactError
from csm_model.files import digest_of, read_json, write_json
from csm_model.training.shards import TokenTurn, load_tokens

FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is held out, and how it was encoded."""

    held_out: dict[str, Conversation]
    tokens: dict[str, TokenTurn]
    choice: Choice
    names: dict[int, str]


def evaluate(
    bundle: Path,
    conversations: Path,
    tokens: Path,
    out: Path,
    *,
    settings: EvaluateSettings | None = None,
    source: SpeechSource | None = None,
    parent: Path | None = None,
    base: Path | None = None,
    thresholds: Mapping[str, float] | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> EvaluateResult:
    """Speaks held-out sentences in every voice, each after the turn before it, and judges them beside two baselines.

    Args:
        bundle: folder of the bundle.
        conversations: folder that ingest wrote.
        tokens: folder that tokenise wrote from it.
        out: folder for the result; may hold part of one from a run that was killed.
        settings: how much is spoken, and who judges.
        source: where the speech comes from: a server that serves `bundle`, for one; this process without it.
        parent: the float bundle that `bundle` was quantised from; speaks some of the sentences with the same seeds, and
            brings the curves of its training for the report.
        base: the bundle that training began from; speaks some of the sentences too.
        thresholds: what figures should reach, by the names of `for_gate`, shown in the report.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress and the table go; standard error without it.

    Raises:
        InputError: a folder is not there or of another kind, or there is nothing held out.
        DigestError: a file is not the one that its manifest names.
        ArtifactError: tokens of other conversations, or a bundle of another codec.
    """
    began = time.monotonic()
    settings, console = settings or EvaluateSettings(), console or Console(stderr=True)
    own_codec = bundle / "codec" if (bundle / "codec").is_dir() else tokens / "codec"
    source = source or FromBundle(folder=bundle, codec_folder=own_codec)
    others = {
        name: FromBundle(folder=folder, codec_folder=None if (folder / "codec").is_dir() else own_codec)
        for name, folder in (("parent", parent), ("base", base))
        if folder is not None
    }
    manifest, dataset, encoded = matching_manifests(bundle, conversations, tokens, source)
    inputs = digest_of(
        {
            "format": FORMAT,
            "judges": JUDGES_VERSION,
            "bundle": manifest["digest"],
            "via": type(source).__name__,
            "dataset": dataset["digest"],
            "tokens": encoded["digest"],
            "compare": {name: other.digest for name, other in others.items()},
            "settings": settings.model_dump(),
            "thresholds": dict(thresholds or {}),
        }
    )
    if (known := _known(out, inputs)) is not None:
        return known
    made.forget(out)
    (out / RESULT).unlink(missing_ok=True)

    corpus = held_out_of(
        conversations,
        tokens,
        manifest,
        split=settings.split,
        per_voice=settings.sentences_per_voice,
        speakers=settings.speakers,
    )
    count = worker_count(workers)
    with progress_bar(console=console) as progress:
        with source.started() if isinstance(source, FromTriton) else nullcontext(source) as heard:
            takes = _speak(corpus, heard, others, settings, out, encoded, dataset, own_codec, progress, count)
        rows = judged_rows(
            takes,
            conversations,
            corpus.held_out.values(),
            out=out,
            dataset_digest=dataset["digest"],
            recogniser=settings.recogniser,
            mos=settings.mos,
            progress=progress,
            workers=count,
        )
    figures = {series: figures_of(kept) for series, kept in rows.items()}
    same = {name: figures_of(_matching(rows["generated"], rows[name])) for name in others}
    after, learned = what_was_learned(rows, corpus.names)
    digest = digest_of({"inputs": inputs, "figures": {name: asdict(value) for name, value in figures.items()}})
    write_report(
        out / REPORT,
        ReportInputs(
            rows=rows,
            figures=figures,
            same=same,
            after=after,
            learned=learned,
            names=corpus.names,
            seen=corpus.choice.seen,
            bundle=manifest,
            dataset=dataset,
            rejected=conversations / "rejected.jsonl",
            metrics=parent / METRICS if parent and (parent / METRICS).exists() else None,
            thresholds=dict(thresholds or {}),
            recogniser=settings.recogniser,
            served=not isinstance(source, FromBundle),
        ),
    )
    delta = wer_difference(rows["generated"], rows["parent"]) if parent else None
    result = result_of(
        out, manifest, dataset, figures, same, delta, learned, digest=digest, minutes=(time.monotonic() - began) / 60
    )
    details = details_of(rows, figures, same, corpus.names, seen=corpus.choice.seen)
    write_json(out / RESULT, {**details, **asdict(result)})
    made.commit(out, "evaluate", inputs, result)
    console.print(figures_table(figures))
    return result


def matching_manifests(
    bundle: Path, conversations: Path, tokens: Path, source: SpeechSource
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The manifests of bundle, conversations and tokens; raises `ArtifactError` where they do not belong together."""
    manifest = read_bundle_manifest(bundle)
    dataset, encoded = read_conversations_manifest(conversations), read_json(tokens / "manifest.json")
    if source.digest != manifest["digest"]:
        raise ArtifactError(
            f"the speech comes from bundle {source.digest[:12]}, not from {bundle} ({manifest['digest'][:12]}): "
            "serve the one that is to be judged"
        )
    if encoded["dataset_digest"] != dataset["digest"]:
        raise ArtifactError(f"{tokens} was made from other conversations than {conversations}: run tokenise again")
    if encoded["codec_digest"] != manifest["codec_digest"]:
        raise ArtifactError(
            f"{bundle} speaks with codec {manifest['codec_digest'][:12]}, {tokens} holds the codes of "
            f"{encoded['codec_digest'][:12]}: run tokenise with the bundle's codec"
        )
    return manifest, dataset, encoded


def held_out_of(
    conversations: Path,
    tokens: Path,
    manifest: Mapping[str, Any],
    *,
    split: str,
    per_voice: int,
    speakers: Sequence[int] = (),
) -> HeldOut:
    """What of a split is spoken by the bundle of a manifest; raises `InputError` where that is nothing."""
    encoded = {turn.id: turn for turn in load_tokens(tokens, split)}
    held_out = {item.id: item for item in read_conversations(conversations, split)}
    choice = choose_sentences(
        held_out.values(),
        encoded=encoded,
        training_texts=(turn.text for item in read_conversations(conversations, "train") for turn in item.turns),
        per_voice=per_voice,
        speakers=speakers,
    )
    known = {int(number): str(name) for number, name in manifest.get("speakers", {}).items()}
    return HeldOut(
        held_out=held_out,
        tokens=encoded,
        choice=choice,
        names=voice_names(held_out.values(), known),
    )


def _speak(
    corpus: HeldOut,
    source: SpeechSource,
    others: Mapping[str, SpeechSource],
    settings: EvaluateSettings,
    out: Path,
    encoded: Mapping[str, Any],
    dataset: Mapping[str, Any],
    codec_folder: Path,
    progress: Any,
    workers: int,
) -> dict[str, list[Take]]:
    sentences = corpus.choice.sentences
    takes: dict[str, list[Take]] = {}
    for series, (said, speaker) in {
        "generated": (sentences, source),
        **{name: (subset(sentences, getattr(settings, f"{name}_per_voice")), other) for name, other in others.items()},
    }.items():
        takes[series] = speak_all(
            said,
            speaker,
            series=series,
            out=out,
            tokens=corpus.tokens,
            tokens_digest=encoded["digest"],
            seeds={sentence.id: settings.seed + number for number, sentence in enumerate(sentences)},
            max_frames=settings.max_frames,
            progress=progress,
            workers=workers,
        )
    takes |= baseline_takes(
        _recorded(sentences, corpus.tokens),
        corpus.held_out,
        corpus.tokens,
        load_codec(codec_folder),
        out=out,
        dataset_digest=dataset["digest"],
    )
    return takes


def _recorded(sentences: Sequence[Sentence], tokens: Mapping[str, TokenTurn]) -> list[Sentence]:
    """Each turn once, in the voice in which the corpus has it."""
    found = {}
    for item in sentences:
        found[item.turn] = Sentence(
            turn=item.turn,
            conversation=item.conversation,
            text=item.text,
            speaker=tokens[item.turn].speaker,
            own=True,
            context=item.context,
        )
    return list(found.values())


def _matching(rows: Sequence[JudgedSentence], chosen: Sequence[JudgedSentence]) -> list[JudgedSentence]:
    """Those of `rows` that say the sentences of `chosen`."""
    wanted = {row.sentence.id for row in chosen}
    return [row for row in rows if row.sentence.id in wanted]


def _known(out: Path, inputs: str) -> EvaluateResult | None:
    """The result of an earlier run over the same inputs, where its report is still there."""
    known = made.committed(out, inputs)
    if known is None or not (out / RESULT).exists() or not (out / REPORT).exists():
        return None
    intervals = {name: value and tuple(value) for name, value in known.items() if name.endswith("interval")}
    return EvaluateResult(**{**known, "report": str(out / REPORT), **intervals})
