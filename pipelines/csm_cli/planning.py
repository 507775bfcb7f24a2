"""From the options of `csm plan` to a plan, and from a plan to what a person reads or a program.

What neither a settings file nor `--set` gives is the planner's to choose: bf16, FSDP2 where there are several GPUs, no
more packs than one a GPU and step, and what saves memory where it is needed. Rows and GPUs stay as asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from csm_model.config import CONFIGS, ModelConfig
from csm_model.errors import InputError
from csm_model.files import read_json
from csm_model.planner.flops import parameter_count
from csm_model.planner.hardware import Gpu
from csm_model.planner.job import SpeechShape, TrainingJob
from csm_model.planner.plan import TERMS, Plan, Remedy, plan, until_it_fits, why
from csm_model.planner.timing import Assumptions
from csm_pipelines.dotted import with_fields

VOCABULARIES: dict[str, dict[str, int]] = {
    "debug": {"text_vocab_size": 129, "num_codebooks": 4, "codebook_size": 32},
    "demo": {"text_vocab_size": 129, "num_codebooks": 4, "codebook_size": 1024},
}
"""Of the presets that have none of their own: the demo's phonemes, and the codecs of those two sizes."""
NOT_CHOSEN = frozenset({"gpus", "row_length", "bf16"})
"""What the planner proposes to change, but does not change by itself."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked."""

    preset: str
    hours: float
    epochs: float
    gpus: int
    gpu: Gpu
    speech: SpeechShape
    assumptions: Assumptions
    config: Path | None
    """A training's settings; all of them count as set."""
    settings: tuple[str, ...]
    """`key=value`, on top of them."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A plan, and how it came to fit, or what would make it."""

    preset: str
    plan: Plan
    chosen: tuple[str, ...]
    """What was chosen so that it fits."""
    remedies: tuple[Remedy, ...]
    """Where it does not fit: what was tried, each on top of those before it."""
    cured: bool
    """Whether the last remedy fits."""

    @property
    def refusal(self) -> str:
        """Why it does not fit, and what would make it, in one line."""
        cure = " and ".join(remedy.change for remedy in self.remedies) if self.cured else "nothing that was tried fits"
        return f"{self.preset} on {self.plan.job.gpus} x {self.plan.gpu.name}: {why(self.plan)}; take {cure}".replace(
            "take nothing", "nothing"
        )


def sizes_of(preset: str) -> ModelConfig:
    """Sizes by name, with vocabularies."""
    if preset not in CONFIGS:
        raise InputError(f"preset {preset!r} is unknown; there are {', '.join(CONFIGS)}")
    return CONFIGS[preset](**VOCABULARIES.get(preset, {}))


def answer(question: Question) -> Answer:
    """Plans; chooses what was not set so that it fits; looks for remedies where that is not enough."""
    job, fixed = _job(question)

    def planned(job: TrainingJob) -> Plan:
        return plan(job, question.gpu, hours=question.hours, epochs=question.epochs, assumptions=question.assumptions)

    found = planned(job)
    chosen: tuple[str, ...] = ()
    if not found.fits:
        tried, cured = until_it_fits(found, fixed=fixed | NOT_CHOSEN)
        if cured:
            chosen, found = tuple(remedy.change for remedy in tried), planned(tried[-1].job)
    tried, cured = ([], True) if found.fits else until_it_fits(found)
    return Answer(preset=question.preset, plan=found, chosen=chosen, remedies=tuple(tried), cured=cured)


def _job(question: Question) -> tuple[TrainingJob, frozenset[str]]:
    """What is asked as a job, and the settings that were given."""
    from csm_model.training.config import TrainingConfig

    if question.gpus < 1:
        raise InputError(f"gpus {question.gpus}: must be at least 1")
    base = TrainingConfig(tokens="", out="", bf16=True, strategy="fsdp" if question.gpus > 1 else "ddp")
    given = {setting.partition("=")[0] for setting in question.settings}
    if question.config is not None:
        base = TrainingConfig.load(question.config)
        given |= set(read_json(question.config)) | {"accumulation"}
    config = with_fields(base, question.settings)
    if "batch_packs" in given:
        given.add("accumulation")
    elif question.config is None:
        config = replace(config, batch_packs=question.gpus * config.micro_packs)
    job = TrainingJob.of(config, sizes_of(question.preset), gpus=question.gpus, speech=question.speech)
    return job, frozenset(given)


def show(console: Console, found: Answer) -> None:
    """Prints a plan: the model and the job, memory by what fills it, time, storage, remedies."""
    told, job = found.plan, found.plan.job
    console.print(
        f"[bold]{found.preset}[/bold]: {parameter_count(job.sizes) / 1e9:.3f} G parameters on {job.gpus} x "
        f"{told.gpu.name}, {told.hours:,.0f} h of audio x {told.epochs:g}"
    )
    console.print(_settings(job), soft_wrap=True)
    if found.chosen:
        console.print(f"chosen so that it fits: {', '.join(found.chosen)}", soft_wrap=True)
    console.print()
    console.print(_memory_table(told))
    if told.fits:
        console.print(f"[green]fits[/green]: {(told.room - told.memory.total) / 1e9:.1f} GB are left\n")
    else:
        console.print(f"[red]does not fit[/red]: {why(told)}\n", soft_wrap=True)
        console.print(_remedy_table(found))
    console.print(_time_table(told))
    console.print(_storage_table(told))
    console.print(_assumptions(told), style="dim", soft_wrap=True)


def _settings(job: TrainingJob) -> str:
    parallel = job.strategy if job.gpus > 1 else "one process"
    return (
        f"{parallel}, {'bf16 over float32' if job.bf16 else 'float32'}, recompute {'on' if job.recompute else 'off'}; "
        f"{job.micro_packs} x {job.row_length} rows at once, {job.accumulation} times: {job.packs} packs a step, "
        f"depth share {job.depth_share:g}"
    )


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column("what", min_width=36)
    table.add_column("figure", justify="right", min_width=12)
    table.add_column("note", overflow="fold")
    return table


def _memory_table(told: Plan) -> Table:
    table = _table("Memory of a process, at its peak")
    for name, title in TERMS.items():
        if value := getattr(told.memory, name):
            table.add_row(title, f"{value / 1e9:.2f} GB", "")
    table.add_row("[bold]together", f"[bold]{told.memory.total / 1e9:.2f} GB", f"peak: {told.memory.peak}")
    table.add_row(
        "a GPU's, less what is reserved",
        f"{told.room / 1e9:.2f} GB",
        f"{told.gpu.memory_gb:g} less {told.assumptions.reserve_gb:g}",
    )
    return table


def _remedy_table(found: Answer) -> Table:
    table = _table("What would make it fit, each on top of those before it")
    for remedy in found.remedies:
        fits = remedy.memory.total <= found.plan.room
        table.add_row(remedy.change, f"{remedy.memory.total / 1e9:.1f} GB", "[green]fits" if fits else "")
    if not found.cured:
        table.add_row("nothing that was tried fits", "", "")
    table.add_row("", "", "")
    return table


def _time_table(told: Plan) -> Table:
    time, job = told.timing, told.job
    table = _table("Time")
    table.add_row("matrix products of a step", _seconds(time.compute), f"{time.flops / 1e12:,.0f} TFLOP a GPU")
    table.add_row("exchange, beside them", _seconds(time.exchange), f"{time.sent_gb:,.1f} GB a GPU")
    table.add_row("clipping and AdamW", _seconds(time.update), "")
    table.add_row("[bold]step", f"[bold]{_seconds(time.seconds)}", f"waits for: {time.bound}; MFU {told.mfu:.1%}")
    table.add_row("rows a second, all GPUs", f"{time.rows_per_second:,.0f}", f"{job.packs} packs a step")
    table.add_row("steps", f"{told.steps:,.0f}", "")
    table.add_row("[bold]days", f"[bold]{told.days:,.2f}", f"{told.days * job.gpus * 24:,.0f} GPU hours")
    table.add_row("", "", "")
    return table


def _storage_table(told: Plan) -> Table:
    held = told.storage
    table = _table("Storage")
    for name, note in (("pcm16", "16-bit WAV, 24 kHz mono"), ("flac", "FLAC"), ("opus", "Opus, 32 kbit/s")):
        table.add_row(f"audio as {note}", _bytes(held.audio[name]), "")  # type: ignore[index]
    table.add_row("tokens", _bytes(held.tokens), "int16 codes, int32 text ids")
    note = f"{_bytes(held.checkpoint)} each: {told.job.keep_checkpoints}, the best, one in writing"
    table.add_row("checkpoints", _bytes(held.checkpoints), note)
    table.add_row("", "", "")
    return table


def _assumptions(told: Plan) -> str:
    assumed, speech = told.assumptions, told.job.speech
    return (
        f"Assumed, not measured: {assumed.mfu:.0%} of {_peak(told):g} TFLOPS reached (--mfu), "
        f"{assumed.link_share:.0%} of the links (--link-share), {assumed.reserve_gb:g} GB reserved (--reserve-gb); "
        f"turns of {speech.turn_seconds:g} s with {speech.ids_per_second:g} text ids a second, "
        f"{speech.document_turns:g} a conversation, {speech.padding:.0%} padding. {told.gpu.name}: {told.gpu.source}."
    )


def _peak(told: Plan) -> float:
    return told.gpu.tflops if told.job.bf16 else told.gpu.fp32_tflops


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def _bytes(value: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1e3:,.1f} kB"


def to_json(found: Answer) -> dict[str, Any]:
    """The plan as JSON values: bytes, seconds, and everything that was assumed."""
    told = found.plan
    job = asdict(told.job)
    sizes = job.pop("sizes")
    return {
        "preset": found.preset,
        "parameters": parameter_count(told.job.sizes),
        "sizes": sizes,
        "job": job,
        "gpu": asdict(told.gpu),
        "assumptions": asdict(told.assumptions),
        "hours": told.hours,
        "epochs": told.epochs,
        "fits": told.fits,
        "chosen": list(found.chosen),
        "why": None if told.fits else why(told),
        "remedies": [_remedy(told, remedy) for remedy in found.remedies],
        "memory": {**asdict(told.memory), "total": told.memory.total, "room": told.room},
        "step": {
            **asdict(told.timing),
            "seconds": told.timing.seconds,
            "waits_for": told.timing.bound,
            "mfu": told.mfu,
            "rows_per_second": told.timing.rows_per_second,
        },
        "steps": told.steps,
        "days": told.days,
        "storage": asdict(told.storage),
    }


def _remedy(told: Plan, remedy: Remedy) -> Mapping[str, Any]:
    total = remedy.memory.total
    return {"change": remedy.change, "memory": total, "fits": total <= told.room}
