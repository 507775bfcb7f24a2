"""Tokenise, fanned out: the tokenizer is chosen once, each task makes some whole token shards, and all are joined.

What is joined is, file by file, what `step.tokenise` would have written. The folder of one task:

| file | what it is |
| --- | --- |
| `made.json` | written last: what it was made of, and came to |
| `shard.json` | how fast it was made |
| `SPLIT-00000.safetensors`, `parts/NAME.json` | its token shards, as in the folder of the whole |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from csm_components import made
from csm_components.ingest.conversations import read_conversations
from csm_components.program import code_digest
from csm_components.settings import worker_count
from csm_components.sharding import SHARD, shard_names, shard_span, shard_store
from csm_components.tokenise import step
from csm_components.tokenise.hearing import Hearing
from csm_components.tokenise.knobs import CheckSettings, HearingSettings
from csm_components.tokenise.shard import ShardTask, committed
from csm_components.tokenise.tokenizer import FILE as TOKENIZER
from csm_components.tokenise.tokenizer import choose_tokenizer
from csm_model.errors import InputError
from csm_model.files import copy_file, digest_of, read_json, write_json
from csm_model.text import load_tokenizer

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TokenisePlan:
    """How conversations are divided, and with what they are tokenised; JSON-able."""

    out: str
    shards: list[str]
    """Names of the tasks."""
    token_shards: int
    """Files that they will make."""
    codec_digest: str
    tokenizer_digest: str
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class TokeniseShardResult:
    """What one task made; JSON-able."""

    out: str
    shard: str
    key: str
    """Digest of all that it was made from."""
    token_shards: int
    sound_seconds_per_second: float
    reused: bool
    """Whether it was made before, here or by another run."""


def plan_tokenise(
    conversations: Path,
    codec: Path,
    tokenizer_from: Path | None,
    out: Path,
    *,
    shards: int,
    tokenizer: str | None = None,
    prompt_format: str | None = None,
    hearing: HearingSettings | None = None,
    workers: int | None = None,
    shard_conversations: int = step.SHARD_CONVERSATIONS,
    console: Console | None = None,
) -> TokenisePlan:
    """Hears a sample through the codec, chooses or trains the tokenizer, and divides the token shards.

    Args:
        conversations: folder that ingest wrote.
        codec: folder of the codec.
        tokenizer_from: the base's `tokenizer.json` or a folder that holds one; none has no base.
        out: folder for the tools that every task uses.
        shards: tasks; fewer where there are fewer token shards.
        tokenizer: as in `step.tokenise`.
        prompt_format: as in `step.tokenise`.
        hearing: as in `step.tokenise`.
        workers: processes that hear; `CSM_WORKERS` or one a core without it.
        shard_conversations: conversations in a token shard.
        console: where it is said what was heard; standard error without it.

    Raises:
        InputError: what `step.tokenise` raises, or a number of tasks that cannot be.
        ArtifactError: the codec cannot carry a voice.
    """
    everything = list(read_conversations(conversations))
    the_tokenizer = choose_tokenizer(tokenizer, prompt_format, base=tokenizer_from, conversations=everything)
    work = step.plan_work(conversations, everything, codec, the_tokenizer, out, shard_conversations)
    names = shard_names(shards, len(work.tasks))
    listen = hearing or HearingSettings(heard_turns=0)
    step.heard_first(work, listen, out, workers=workers, console=console or Console(stderr=True))
    step.put_tools(work, out)
    return TokenisePlan(
        out=str(out),
        shards=names,
        token_shards=len(work.tasks),
        codec_digest=work.codec.digest,
        tokenizer_digest=the_tokenizer.digest,
    )


def tokenise_shard(
    conversations: Path,
    tools: Path,
    shard: str,
    out: Path,
    *,
    workers: int | None = None,
    shard_conversations: int = step.SHARD_CONVERSATIONS,
    console: Console | None = None,
) -> TokeniseShardResult:
    """Makes the token shards of one task; takes what this or another run has made of the same inputs.

    Args:
        conversations: folder that ingest wrote.
        tools: folder that `plan_tokenise` wrote.
        shard: name of the task.
        out: folder for the result; may hold part of one from a run that was killed.
        workers: processes; `CSM_WORKERS` or one a core without it.
        shard_conversations: as planned.
        console: where progress goes; standard error without it.

    Raises:
        InputError: ingest has not finished there, or no such shard.
        DigestError: sound is not what the manifest names.
    """
    console = console or Console(stderr=True)
    tasks = _planned(conversations, tools, out, shard_conversations).tasks
    mine = tasks[shard_span(shard, [max(1, task.samples) for task in tasks])]
    key = digest_of({"format": FORMAT, "keys": [[task.name, task.key] for task in mine], "code": code_digest()})
    store = shard_store("tokenise", key, out)
    reused = store.made() or store.fetch()
    if not reused:
        store.resume()
        speed = step.make_shards(
            mine,
            tools=tools,
            workers=worker_count(workers),
            console=console,
            on_shard=lambda task: store.keep(*_files(task)),
        )
        step.prune(out, mine)
        write_json(out / SHARD, {"format": FORMAT, "sound_seconds_per_second": round(speed, 1)})
    store.commit()  # also where the one that made it here was killed before it could
    result = TokeniseShardResult(
        out=str(out),
        shard=shard,
        key=key,
        token_shards=len(mine),
        sound_seconds_per_second=read_json(out / SHARD)["sound_seconds_per_second"],
        reused=reused,
    )
    made.commit(out, "tokenise-shard", key, result)
    return result


def join_tokenise(
    parts: Sequence[Path],
    conversations: Path,
    tools: Path,
    out: Path,
    *,
    check: CheckSettings | None = None,
    check_turns: int = 16,
    shard_conversations: int = step.SHARD_CONVERSATIONS,
    console: Console | None = None,
) -> step.TokeniseResult:
    """Joins what all tasks made, and checks a sample by decoding it again.

    Args:
        parts: the tasks' folders, in any order.
        conversations: folder that ingest wrote.
        tools: folder that `plan_tokenise` wrote.
        out: folder for the result.
        check: as in `step.tokenise`.
        check_turns: as in `step.tokenise`.
        shard_conversations: as planned.
        console: where the closing line goes; standard error without it.

    Raises:
        InputError: a token shard is missing, or made from other inputs; no training turn can be tokenised.
        ArtifactError: the codec does not bring the sound back.
    """
    console = console or Console(stderr=True)
    asked = step.Check(turns=check_turns, settings=check or CheckSettings())
    work = replace(_planned(conversations, tools, out, shard_conversations), heard=Hearing.load(tools))
    if (known := step.made_before(work, asked)) is not None:
        return known
    made.forget(out)
    (out / step.MANIFEST).unlink(missing_ok=True)
    step.put_tools(work, out)
    if work.heard is not None:
        work.heard.save(out)
    for task in work.tasks:
        there = next((one for part in parts if committed(one := replace(task, out=part))), None)
        if there is None:
            raise InputError(
                f"token shard {task.name} is in none of {len(parts)} parts, or made from other inputs; "
                "join all of one plan"
            )
        if not committed(task):
            for name in _files(there):
                copy_file(there.out / name, out / name)
    speed = sum(read_json(part / SHARD)["sound_seconds_per_second"] for part in parts)
    return step.finish(work, asked, speed=speed, console=console)


def _planned(conversations: Path, tools: Path, out: Path, shard_conversations: int) -> step.Work:
    everything, tokenizer = list(read_conversations(conversations)), load_tokenizer(tools / TOKENIZER)
    return step.plan_work(conversations, everything, tools / step.CODEC, tokenizer, out, shard_conversations)


def _files(task: ShardTask) -> list[str]:
    """Files of a committed token shard, its part last; one of which no turn was left has only the part."""
    paths = [task.path, task.part] if task.path.exists() else [task.part]
    return [path.relative_to(task.out).as_posix() for path in paths]
