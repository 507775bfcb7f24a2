"""The step tokenise: conversations to shards of text ids and codes.

The output folder:

| file | what it is |
| --- | --- |
| `made.json` | written last: what it was made of, and came to |
| `manifest.json` | digests of codec, tokenizer, dataset and result; the shards of each split; the check |
| `SPLIT-00000.safetensors` | a shard (`csm_model.training.shards`) |
| `SPLIT.index.safetensors` | how long the turns of a split are: all that planning an epoch needs |
| `heard.json` | what judges heard of a sample through the codec (`csm_components.tokenise.hearing`) |
| `tokenizer.json`, `codec/` | what made them, so that later steps need this folder alone |
| `parts/NAME.json` | what is committed of one shard; a killed run goes on from these |
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from csm_components import made
from csm_components.events import progress as tell
from csm_components.ingest.conversations import Conversation, read_conversations, read_manifest
from csm_components.ingest.records import SPLITS
from csm_components.ingest.rights import refuse_expired
from csm_components.settings import worker_count
from csm_components.tokenise.check import decode_back
from csm_components.tokenise.hearing import Hearing, hear
from csm_components.tokenise.knobs import CheckSettings, HearingSettings
from csm_components.tokenise.shard import ShardTask, committed, load_tools, make_shard, shard_key
from csm_components.tokenise.tokenizer import FILE as TOKENIZER
from csm_components.tokenise.tokenizer import choose_tokenizer
from csm_components.workers import run_parallel
from csm_model.codec import AudioCodec, load_codec
from csm_model.errors import ArtifactError, InputError
from csm_model.files import atomic_folder, digest_of, digest_of_file, read_json, write_json
from csm_model.frames import seconds_of
from csm_model.text import Tokenizer
from csm_model.training.shards import write_index

FORMAT = 2
MANIFEST = "manifest.json"
CODEC = "codec"
SHARD_CONVERSATIONS = 16


@dataclass(frozen=True, kw_only=True)
class Check:
    """What decoding again is to show."""

    turns: int = 16
    """Turns that are decoded again."""
    settings: CheckSettings = field(default_factory=CheckSettings)
    """What they must reach."""

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise InputError(f"{self.turns} turns to check: at least 1 is needed")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Conversations to be tokenised, and with what."""

    dataset: Mapping[str, Any]
    """Manifest of the conversations."""
    conversations: Sequence[Conversation]
    codec: AudioCodec
    codec_folder: Path
    tokenizer: Tokenizer
    tasks: Sequence[ShardTask]
    out: Path
    heard: Hearing | None = None
    """What a sample loses in the codec, where somebody has listened."""

    def inputs(self, check: Check) -> str:
        """Digest of all that the tokens are made from."""
        shards = [[task.name, task.key] for task in self.tasks]
        asked = check.settings.model_dump()
        heard = [self.heard.key] if self.heard else []
        return digest_of([FORMAT, self.dataset["digest"], shards, check.turns, asked, *heard])


@dataclass(frozen=True, kw_only=True)
class TokeniseResult:
    """What tokenise made; JSON-able."""

    out: str
    digest: str
    dataset_digest: str
    codec_digest: str
    tokenizer_digest: str
    turns: int
    frames: int
    left_out: int
    """Turns whose text the tokenizer refuses."""
    energy_correlation: float
    """Of the decode-back check."""
    mel_distance_db: float
    sound_seconds_per_second: float
    """Throughput of the run that made the shards."""
    reused: bool
    """Whether the committed result of an earlier run was taken as it is."""
    codec_wer_added: float | None = None
    """Word error rate that the codec adds; these three are missing where nobody listened, this one where the recogniser
    does not know the language as well."""
    codec_likeness: float | None = None
    """Cosine of decoded turns to the recordings."""
    codec_mos: float | None = None
    """Opinion score of decoded turns."""


def tokenise(
    conversations: Path,
    codec: Path,
    tokenizer_from: Path | None,
    out: Path,
    workers: int | None = None,
    *,
    tokenizer: str | None = None,
    prompt_format: str | None = None,
    shard_conversations: int = SHARD_CONVERSATIONS,
    check_turns: int = 16,
    check: CheckSettings | None = None,
    hearing: HearingSettings | None = None,
    console: Console | None = None,
) -> TokeniseResult:
    """Hears a sample through the codec, tokenises all conversations in parallel, and checks some by decoding them.

    Args:
        conversations: folder that ingest wrote.
        codec: folder of the codec.
        tokenizer_from: the base's `tokenizer.json`, or a folder that holds one (a bundle, tokens); none has no base.
        out: folder for the result; may hold part of one from a run that was killed.
        workers: processes; `CSM_WORKERS` or one a core without it.
        tokenizer: `phonemes`, `bpe:SIZE` or a file (`csm_components.tokenise.tokenizer`); none takes the base's, or
            phonemes without a base.
        prompt_format: how a BPE tokenizer writes a turn: `sesame` or `miso`.
        shard_conversations: conversations in a shard.
        check_turns: turns that are decoded again.
        check: what they must reach.
        hearing: what judges must hear through the codec; none has nobody listen.
        console: where progress goes; standard error without it.

    Raises:
        InputError: ingest has not finished there, or the tokenizer is a wrong one: malformed, another than the base's,
            or without a place for a speaker.
        ArtifactError: the codec cannot carry a voice, or does not bring the sound back.
    """
    console = console or Console(stderr=True)
    asked = Check(turns=check_turns, settings=check or CheckSettings())
    everything = list(read_conversations(conversations))
    the_tokenizer = choose_tokenizer(tokenizer, prompt_format, base=tokenizer_from, conversations=everything)
    work = plan_work(conversations, everything, codec, the_tokenizer, out, shard_conversations)
    work = heard_first(work, hearing or HearingSettings(heard_turns=0), out, workers=workers, console=console)
    if (known := made_before(work, asked)) is not None:
        return known
    made.forget(out)
    (out / MANIFEST).unlink(missing_ok=True)
    put_tools(work, out)
    speed = make_shards(work.tasks, tools=out, workers=worker_count(workers), console=console)
    return finish(work, asked, speed=speed, console=console)


def plan_work(
    folder: Path,
    conversations: Sequence[Conversation],
    codec: Path,
    tokenizer: Tokenizer,
    out: Path,
    shard_conversations: int = SHARD_CONVERSATIONS,
) -> Work:
    """What is to be done: the shards are conversations of one split, in order, some to each.

    Args:
        folder: folder that ingest wrote.
        conversations: all that are in it.
        codec: folder of the codec.
        tokenizer: the tokenizer.
        out: folder for the result.
        shard_conversations: conversations in a shard.

    Raises:
        InputError: a shard of no conversation, or records that have expired since ingest.
        ArtifactError: shards have no room for the codec's codes.
    """
    if shard_conversations < 1:
        raise InputError(f"{shard_conversations} conversations a shard: at least 1 is needed")
    dataset = read_manifest(folder)
    refuse_expired(dataset)
    the_codec = load_codec(codec)
    if the_codec.codebook_size > 2**15:
        raise ArtifactError(f"{codec}: {the_codec.codebook_size} codes a codebook; shards hold at most {2**15}")
    tasks = []
    for split in SPLITS:
        mine = [item for item in conversations if item.split == split]
        for number, first in enumerate(range(0, len(mine), shard_conversations)):
            chosen = tuple(mine[first : first + shard_conversations])
            key = shard_key(chosen, the_codec.digest, tokenizer)
            tasks.append(ShardTask(name=f"{split}-{number:05}", key=key, conversations=chosen, out=out))
    return Work(
        dataset=dataset,
        conversations=conversations,
        codec=the_codec,
        codec_folder=codec,
        tokenizer=tokenizer,
        tasks=tasks,
        out=out,
    )


def heard_first(work: Work, hearing: HearingSettings, out: Path, *, workers: int | None, console: Console) -> Work:
    """The work, a sample having been heard through the codec; `ArtifactError` where it cannot carry a voice."""
    heard = hear(
        work.codec,
        work.conversations,
        hearing,
        out,
        called=work.codec_folder,
        dataset_digest=work.dataset["digest"],
        workers=worker_count(workers),
        console=console,
    )
    return replace(work, heard=heard)


def made_before(work: Work, check: Check) -> TokeniseResult | None:
    """The result of an earlier run over the same inputs, where all it names is still there."""
    known = made.committed(work.out, work.inputs(check))
    if known is None or not (work.out / MANIFEST).exists():
        return None
    if _whole(work.out, read_json(work.out / MANIFEST)) and all(committed(task) for task in work.tasks):
        return TokeniseResult(**known)
    return None


def put_tools(work: Work, out: Path) -> None:
    """Puts the tokenizer and the codec into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    work.tokenizer.save(out / TOKENIZER)
    _copy_codec(work.codec_folder, out / CODEC, work.codec.digest)


def finish(work: Work, asked: Check, *, speed: float, console: Console) -> TokeniseResult:
    """Checks a sample, and writes what goes beside the shards, where all are committed; the manifest last.

    Args:
        work: what was done.
        asked: what decoding again is to show.
        speed: seconds of sound that were tokenised in a second.
        console: where the closing line goes.

    Raises:
        InputError: no training turn can be tokenised.
        ArtifactError: the codec does not bring the sound back.
    """
    out = work.out
    check = decode_back(work.codec, work.conversations, asked.turns)
    asked.settings.accept(check["energy_correlation"], work.codec_folder)
    prune(out, work.tasks)
    parts = {task.name: read_json(task.part) for task in work.tasks}
    manifest = _manifest(work.dataset, work.codec, work.tokenizer, work.tasks, parts)
    manifest |= {"inputs": work.inputs(asked), "check": check, "sound_seconds_per_second": round(speed, 1)}
    if work.heard is not None:
        manifest["heard"] = {"total": asdict(work.heard.total), "voices": asdict(work.heard)["voices"]}
    manifest["indexes"] = {
        split: write_index(out, split, [row["file"] for row in rows]) for split, rows in manifest["splits"].items()
    }
    manifest["files"] = {
        path.relative_to(out).as_posix(): digest_of_file(path)
        for path in [out / TOKENIZER, *sorted((out / CODEC).rglob("*"))]
        if path.is_file()
    }
    write_json(out / MANIFEST, manifest)
    minutes = seconds_of(manifest["frames"]) / 60
    console.print(
        f"Tokenised {manifest['turns']} turns, {manifest['frames']} frames ({minutes:.1f} min) "
        f"at {speed:.0f} s of sound a second; decoded again: energy correlation {check['energy_correlation']:.2f}, "
        f"log-mel distance {check['mel_distance_db']:.1f} dB"
    )
    result = _result(out, manifest)
    made.commit(out, "tokenise", work.inputs(asked), result)
    return result


def _copy_codec(source: Path, target: Path, digest: str) -> None:
    """Copies the codec's folder, unless the copy is there already."""
    with suppress(InputError, ArtifactError):
        if load_codec(target).digest == digest:
            return
    with atomic_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


def make_shards(
    tasks: Sequence[ShardTask],
    *,
    tools: Path,
    workers: int,
    console: Console,
    on_shard: Callable[[ShardTask], None] = lambda _: None,
) -> float:
    """Makes the shards that are not committed yet, with progress; returns seconds of sound tokenised in a second.

    Args:
        tasks: the shards.
        tools: folder with the tokenizer and the codec.
        workers: processes.
        console: where progress goes.
        on_shard: called with each shard that is now committed.
    """
    todo = {task.key: task for task in tasks if not committed(task)}
    begun, done = time.perf_counter(), 0.0
    columns = (
        TextColumn("tokenise"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s of sound, {task.fields[speed]:.0f} s a second"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("tokenise", total=sum(task.seconds for task in todo.values()), speed=0.0)
        initializer = functools.partial(load_tools, tools / CODEC, tools / TOKENIZER)
        parts = run_parallel(make_shard, todo.values(), workers=min(workers, len(todo)), initializer=initializer)
        for part in parts:
            on_shard(todo[part["key"]])
            done += part["seconds"]
            progress.update(bar, completed=done, speed=done / (time.perf_counter() - begun))
            tell(f"{done:.0f} of {progress.tasks[0].total or 0:.0f} s of sound")
    return done / max(time.perf_counter() - begun, 1e-9)


def _whole(out: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the files beside the shards are those that the manifest names."""
    files = {**manifest["files"], **{row["file"]: row["sha256"] for row in manifest["indexes"].values()}}
    return all((out / name).is_file() and digest_of_file(out / name) == sha256 for name, sha256 in files.items())


def prune(out: Path, tasks: Sequence[ShardTask]) -> None:
    """Removes shards and parts that belong to no task: older ones, and halves that a kill left behind."""
    keep = {task.path for task in tasks} | {task.part for task in tasks}
    for path in [*out.glob("*.safetensors"), *out.glob(".*.partial"), *(out / "parts").iterdir()]:
        if path not in keep and path.is_file():
            path.unlink()


def _manifest(
    dataset: Mapping[str, Any],
    codec: AudioCodec,
    tokenizer: Tokenizer,
    tasks: Sequence[ShardTask],
    parts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The manifest, but for what says how the run went."""
    splits: dict[str, list[dict[str, Any]]] = {}  # a split without turns is not there
    for task in tasks:
        row = parts[task.name]["row"]
        if row is not None:
            splits.setdefault(task.name.rpartition("-")[0], []).append(row)
    left_out = [row for part in parts.values() for row in part["left_out"]]
    if "train" not in splits:
        why = f"; the first of {len(left_out)} left out: {left_out[0]['reason']}" if left_out else ""
        raise InputError(f"no training turn can be tokenised{why}")
    rows = [row for split in splits.values() for row in split]
    identity = {
        "format": FORMAT,
        "codec_digest": codec.digest,
        "tokenizer_digest": tokenizer.digest,
        "text_rules": tokenizer.rules,
        "dataset_digest": dataset["digest"],
        "splits": splits,
    }
    return {
        **identity,
        "digest": digest_of(identity),
        "num_codebooks": codec.num_codebooks,
        "codebook_size": codec.codebook_size,
        "vocab_size": tokenizer.vocab_size,
        "text_prefix": tokenizer.text_prefix,
        "speakers": dataset["speakers"],
        "tags": dataset.get("tags", {}),
        **{name: dataset[name] for name in ("expires", "use") if name in dataset},
        "turns": sum(row["turns"] for row in rows),
        "frames": sum(row["frames"] for row in rows),
        "left_out": left_out,
    }


def _result(out: Path, manifest: Mapping[str, Any]) -> TokeniseResult:
    heard = manifest.get("heard", {"total": {}})["total"]
    return TokeniseResult(
        out=str(out),
        digest=manifest["digest"],
        dataset_digest=manifest["dataset_digest"],
        codec_digest=manifest["codec_digest"],
        tokenizer_digest=manifest["tokenizer_digest"],
        turns=manifest["turns"],
        frames=manifest["frames"],
        left_out=len(manifest["left_out"]),
        energy_correlation=manifest["check"]["energy_correlation"],
        mel_distance_db=manifest["check"]["mel_distance_db"],
        sound_seconds_per_second=manifest["sound_seconds_per_second"],
        reused=False,
        codec_wer_added=heard.get("wer_added"),
        codec_likeness=heard.get("likeness"),
        codec_mos=heard.get("mos"),
    )
