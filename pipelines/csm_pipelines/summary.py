"""What came of a run: `summary.json`, the table at its end, and its record in MLflow.

Every figure comes from the result of the step that measured it (`steps/NAME.json`). A step that was reused carries the
figures of the run in which it did its work, and is named in `reused`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from csm_components.evaluate.html import Markup, element, join, put_in
from csm_components.evaluate.learned import Learned
from csm_components.register.gate import Gate
from csm_components.steps import note_path
from csm_components.tracking import Tracker
from csm_model.files import known_json, read_json, write_bytes, write_json
from csm_pipelines.pipelines import FROM_SOUND

SUMMARY = "summary.json"
REPORT = "report.html"
RECORDED = "recorded.json"
"""Digests of the results that MLflow has been told of."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that a run of the demo should reach."""

    key: str
    title: str
    most: bool
    """Whether the bound is the most allowed, or the least."""
    show: Callable[[float], str]
    own: float | None = None
    """What it should be, where no gate says."""
    figure: str = ""
    """What the gate calls it, whose bound it then has."""
    always: bool = True
    """Whether every run measures it; else it is left out where a run did not."""

    def bound(self, gate: Mapping[str, float]) -> float | None:
        """What it should be, where the gate asks for `gate`; None where nothing is asked of it."""
        return gate.get(self.figure) if self.figure else self.own

    def reached(self, value: float | None, bound: float) -> bool:
        """Whether a figure that was measured is within a bound."""
        return value is not None and (value <= bound if self.most else value >= bound)


def percent(value: float) -> str:
    """0.153 as 15.3 %."""
    return f"{value:.1%}"


DIALOGUE_WER = 0.08
"""What of the words of a dialogue may be heard wrong: one in a dozen."""

TARGETS = (
    Target(
        key="wer_generated", figure="wer", title="word error rate, unseen sentences, streamed", most=True, show=percent
    ),
    Target(
        key="speaker_accuracy",
        figure="speaker_accuracy",
        title="sentences in the right voice",
        most=False,
        show=percent,
    ),
    Target(
        key="wer_int8_delta",
        figure="wer_int8_delta",
        title="word error rate, released minus float",
        most=True,
        show=percent,
    ),
    Target(
        key="wer_dialogue",
        title="word error rate, dialogue of new words",
        own=DIALOGUE_WER,
        most=True,
        show=percent,
        always=False,
    ),
    Target(key="real_time_factor", title="real-time factor of one stream", own=0.7, most=True, show="{:.2f}".format),
    Target(key="first_audio_ms", title="first audio", own=400, most=True, show="{:.0f} ms".format),
    Target(key="minutes", title="time of all steps", own=20, most=True, show="{:.1f} min".format),
)


def read_steps(folder: Path) -> dict[str, dict[str, Any]]:
    """The notes of the steps that the run in `folder` has finished."""
    notes = {step.name: known_json(note_path(folder, step.name)) for step in FROM_SOUND.steps}
    return {step: note for step, note in notes.items() if note is not None}


def summarise(folder: Path, *, seconds: float) -> dict[str, Any]:
    """The summary of a run whose steps have all ended; also written to `summary.json`.

    Args:
        folder: the run's folder.
        seconds: what this call of the pipeline took.
    """
    notes = read_steps(folder)
    results = {step: note["result"] for step, note in notes.items()}
    evaluated, registered, spoken = results["evaluate"], results["register"], results["speak"]
    compared, dialogue = evaluated["compared"], spoken["dialogue"]
    seen = seen_in_training(folder, [spoken["text"], *(row["text"] for row in (dialogue or {}).get("rows", ()))])
    summary = {
        "run": folder.name,
        "wer_dialogue": dialogue and dialogue["wer"],
        "dialogue": dialogue and {**dialogue, "seen": [row["text"] for row in dialogue["rows"] if row["text"] in seen]},
        "wer_generated": evaluated["wer_generated"],
        "wer_interval": evaluated["wer_interval"],
        "wer_reconstruction": evaluated["wer_reconstruction"],
        "wer_original": evaluated["wer_original"],
        "speaker_accuracy": evaluated["speaker_accuracy"],
        "mos": evaluated["mos"],
        "sentences": evaluated["sentences"],
        "real_time_factor": spoken["real_time_factor"],
        "first_audio_ms": spoken["first_audio_ms"],
        "frames_equal": spoken["frames_equal"],
        "served": spoken["served"],
        "said": spoken["text"],
        "said_is_unseen": spoken["text"] not in seen,
        "wer_int8_delta": evaluated["wer_int8_delta"],
        "base": compared.get("base"),
        "learned": evaluated.get("learned", []),
        "minutes": _minutes(folder, notes, seconds),
        "minutes_now": seconds / 60,
        "reused": {step: note["result"]["reused"] for step, note in notes.items()},
        "seconds": {step: round(note["seconds"], 2) for step, note in notes.items()},
        "champion": registered["promoted"],
        "status": status_of(registered),
        "gate": _gate(folder),
        "gate_misses": registered["misses"],
        "model": registered["model"],
        "version": registered["version"],
        "digests": {
            "dataset": results["ingest"]["digest"],
            **({"replay": replay} if (replay := results["train"].get("replay_digest")) else {}),
            "codec": results["tokenise"]["codec_digest"],
            "tokenizer": results["tokenise"]["tokenizer_digest"],
            "float_bundle": results["train"]["digest"],
            "bundle": results["export"]["digest"],
        },
        "paths": {
            **({"dialogue": dialogue["speech"]} if dialogue else {}),
            "report": str(folder / REPORT),
            "speech": spoken["speech"],
            "bundle": registered["bundle"],
            "mlflow": Tracker(folder=folder).uri,
            "summary": str(folder / SUMMARY),
        },
    }
    page = Path(evaluated["report"]).read_text(encoding="utf-8")
    part = Path(dialogue["part"]).read_text(encoding="utf-8") if dialogue else ""
    write_bytes(folder / REPORT, put_in(page, join(element("p", verdict_of(summary)), Markup(part))).encode())
    write_json(folder / SUMMARY, summary)
    return summary


def status_of(registered: Mapping[str, Any]) -> str:
    """Whether the version is champion or stays candidate, and why."""
    if registered["promoted"]:
        return "champion: the gate is passed"
    return "candidate: " + "; ".join(registered["misses"])


def verdict_of(summary: Mapping[str, Any]) -> str:
    """In one line, what became of the version, and why."""
    return f"{summary['model']} version {summary['version']} is {summary['status']}."


def _gate(folder: Path) -> dict[str, float]:
    """What the gate of the run in `folder` asks, by the names of its figures."""
    config = folder / "config.json"
    return Gate(**read_json(config)["gate"] if config.exists() else {}).thresholds()


def _minutes(folder: Path, notes: Mapping[str, Mapping[str, Any]], seconds: float) -> float:
    """What the run took: this call, or, where it reused steps, at least what the work took when it was done."""
    worked = sum(note["seconds"] for note in notes.values()) / 60
    known = known_json(folder / SUMMARY) if all(note["result"]["reused"] for note in notes.values()) else None
    before = known["minutes"] if known else 0.0
    return float(max(worked, before, seconds / 60))


def record(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Writes the run as a whole to MLflow, once for the same results, and what MLflow did not take from its steps."""
    tracker, mark = Tracker(folder=folder), folder / RECORDED
    if known_json(mark) == summary["digests"]:
        tracker.flush()
        return
    with tracker.pipeline() as log:
        log.params(config)
        log.metrics({key: value for key, value in summary.items() if isinstance(value, int | float)})
        log.tags({f"{name}_digest": digest for name, digest in summary["digests"].items()})
        log.artifact(folder / SUMMARY)
        log.describe(note_of(summary))
        log.artifact(folder / REPORT)
        log.end("FINISHED")
    write_json(mark, summary["digests"])


def announce(folder: Path, config: Mapping[str, Any]) -> None:
    """Has MLflow know what the run is while it works, unless its results are recorded already."""
    if known_json(folder / RECORDED) is not None:
        return
    with suppress(OSError):  # of a disk that is full: the first step says it
        log = Tracker(folder=folder).announcement()
        log.begin()
        log.params(config)
        log.describe(f"A run of `csm run --preset {config['preset']}` in `{folder}`. Its report comes at the end.")


def note_of(summary: Mapping[str, Any]) -> str:
    """What came of a run, in Markdown."""
    rows = []
    for target in TARGETS:
        value, bound = summary.get(target.key), target.bound(summary.get("gate", {}))
        if value is not None or target.always:
            asked = "" if bound is None else f"{'at most' if target.most else 'at least'} {target.show(bound)}"
            rows.append(f"| {target.title} | {'not measured' if value is None else target.show(value)} | {asked} |")
    paths = [f"- {name}: `{summary['paths'][name]}`" for name in ("report", "bundle") if name in summary["paths"]]
    return "\n".join(
        [verdict_of(summary), "", "| figure | measured | target |", "| --- | --- | --- |", *rows, "", *paths]
    )


def record_failure(folder: Path) -> None:
    """Marks the run as failed in MLflow, where it has been recorded at all."""
    if read_steps(folder):
        Tracker(folder=folder).end_pipeline(failed=True)


def seen_in_training(folder: Path, texts: Collection[str]) -> list[str]:
    """Those of `texts` whose words a training turn of the run in `folder` has."""
    from csm_model.training.shards import load_tokens

    def words(sentence: str) -> tuple[str, ...]:
        return tuple(re.findall(r"[a-z0-9']+", sentence.lower()))

    asked = {words(text) for text in texts}
    found = {said for turn in load_tokens(folder / "tokens", "train") if (said := words(turn.text)) in asked}
    return [text for text in texts if words(text) in found]


def describe_step(folder: Path, step: str) -> tuple[bool, str]:
    """Whether a step was reused, and a few words on what it made."""
    note = known_json(note_path(folder, step))
    if note is None:
        return False, ""
    result = note["result"]
    (spec,) = (each for each in FROM_SOUND.steps if each.step == step)
    return bool(result["reused"]), spec.words(result)


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints the figures beside their targets, what the gate said, and the paths to open."""
    console.print()
    table = Table(title=f"Run {summary['run']}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    for target in TARGETS:
        value, bound = summary.get(target.key), target.bound(summary.get("gate", {}))
        if value is None and not target.always:
            continue
        shown = "not measured" if value is None else target.show(value)
        if bound is None:
            table.add_row(target.title, shown, "", "")
            continue
        sign = "at most" if target.most else "at least"
        mark = "[green]reached" if target.reached(value, bound) else "[red]missed"
        table.add_row(target.title, shown, f"{sign} {target.show(bound)}", mark)
    low, high = summary["wer_interval"]
    spoken = f"  of {summary['sentences']} sentences, 95 % interval of that word error rate"
    table.add_row(spoken, f"{percent(low)} to {percent(high)}", "", "")
    table.add_row("  the codec's reconstruction", percent(summary["wer_reconstruction"]), "", "")
    table.add_row("  the original recordings", percent(summary["wer_original"]), "", "")
    if summary["mos"] is not None:
        table.add_row("mean opinion score (1 to 5)", f"{summary['mos']:.2f}", "", "")
    for name, figures in (summary.get("dialogue") or {}).get("voices", {}).items():
        score = "" if figures["mos"] is None else f", opinion score {figures['mos']:.2f}"
        told = f"{percent(figures['wer'])}{score}, likeness {figures['speaker_similarity']:.2f}"
        table.add_row(f"  the dialogue, {name}", told, "", "")
    equal = "equal" if summary["frames_equal"] else "[red]differ"
    table.add_row("frames of the stream and of the offline generator", equal, "", "")
    console.print(table)
    _show_learned(console, [Learned(**row) for row in summary["learned"]])
    _show_verdict(console, summary)


def _show_learned(console: Console, rows: Sequence[Learned]) -> None:
    """What the run learned: the same sentences before it and after, voice by voice."""
    if not rows:
        return
    title = "What the run learned: equal sentences, said by the base and by the trained model, with equal seeds"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("voice")
    for heading in ("sentences", "words wrong, before", "after", "difference, points", "95 %", "likeness"):
        table.add_column(heading, justify="right")
    for row in rows:
        likeness = f"{row.similarity_before:.2f} to {row.similarity_after:.2f}"
        figures = (f"{row.sentences}", percent(row.wer_before), percent(row.wer_after))
        table.add_row(escape(row.voice), *figures, row.difference, row.difference_interval, likeness)
    console.print()
    console.print(table)


def _show_verdict(console: Console, summary: Mapping[str, Any]) -> None:
    reused = [step for step, was in summary["reused"].items() if was]
    if reused:
        console.print(f"\nReused from an earlier run, with their figures: {', '.join(reused)}.", highlight=False)
    console.print(
        f"\n{verdict_of(summary)}",
        style="green" if summary["champion"] else "red",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if not summary["champion"]:
        console.print("It is what speaks here all the same.", highlight=False)
    dialogue = summary.get("dialogue") or {}
    for text in [*dialogue.get("seen", ()), *([] if summary["said_is_unseen"] else [summary["said"]])]:
        console.print(f"Training had this sentence too: {text}", highlight=False, markup=False)
    if not summary["served"]:
        console.print("There is no Triton on this machine: the model spoke in this process.", highlight=False)
    console.print("\nListen and read:")
    for name in (name for name in ("dialogue", "report", "speech", "summary", "bundle") if name in summary["paths"]):
        console.print(f"  {name:<8} {summary['paths'][name]}", highlight=False, soft_wrap=True)
    store = summary["paths"]["mlflow"]
    shown = store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"
    console.print(f"  {'mlflow':<8} {shown}", highlight=False, soft_wrap=True)
