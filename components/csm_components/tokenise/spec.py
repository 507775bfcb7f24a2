"""The step tokenise as data: as one step, or as shards that are then joined."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.ingest.spec import ONLY_TEXTS
from csm_components.spec import FanOut, Input, Output, StepSpec
from csm_components.tokenise.knobs import CheckSettings, HearingSettings, TokenizerSettings

if TYPE_CHECKING:
    from csm_components.job import StepJob


def _tools(job: StepJob, stack: ExitStack) -> dict[str, Any]:
    """Codec and tokenizer as the work takes them."""
    from csm_components.storage import local_folder

    settings = job.of(TokenizerSettings)
    chosen = settings.tokenizer
    if chosen and "://" in chosen:
        chosen = str(stack.enter_context(local_folder(chosen)))
    return {
        "codec": job.folder("codec"),
        "tokenizer_from": job.folder("base", lambda name: name == "tokenizer.json") if job.has("base") else None,
        "tokenizer": chosen,
        "prompt_format": settings.prompt_format,
    }


def _tokenise(job: StepJob) -> Any:
    from csm_components.tokenise.step import tokenise

    with ExitStack() as stack:
        return tokenise(
            job.folder("conversations"),
            out=job.out("tokens"),
            workers=job.workers,
            check=job.of(CheckSettings),
            hearing=job.of(HearingSettings),
            **_tools(job, stack),
        )


def _plan(job: StepJob) -> Any:
    from csm_components.tokenise.fanout import plan_tokenise

    with ExitStack() as stack:
        return plan_tokenise(
            job.folder("conversations", ONLY_TEXTS.__contains__),
            out=job.out("tools"),
            shards=job.shards,
            workers=job.workers,
            hearing=job.of(HearingSettings),
            **_tools(job, stack),
        )


def _shard(job: StepJob) -> Any:
    from csm_components.tokenise.fanout import tokenise_shard

    return tokenise_shard(
        job.folder("conversations", ONLY_TEXTS.__contains__),
        job.folder("tools"),
        job.shard,
        job.out("part"),
        workers=job.workers,
    )


def _join(job: StepJob) -> Any:
    from csm_components.tokenise.fanout import join_tokenise

    return join_tokenise(
        job.folders("parts"),
        job.folder("conversations", ONLY_TEXTS.__contains__),
        job.folder("tools"),
        job.out("tokens"),
        check=job.of(CheckSettings),
    )


def _heard_in(result: Mapping[str, Any]) -> str:
    if result.get("codec_likeness") is None:
        return ""
    added = result["codec_wer_added"]
    words = "" if added is None else f"{100 * added:+.1f} points of word errors, "
    return f"; through the codec {words}likeness {result['codec_likeness']:.2f}, distillMOS {result['codec_mos']:.1f}"


_CONVERSATIONS = Input(name="conversations", kind=kinds.CONVERSATIONS)
_CODEC = Input(name="codec", kind=kinds.CODEC)
_BASE = Input(name="base", kind=kinds.BASE, optional=True)
_TOOLS = Input(name="tools", kind=kinds.TOOLS)
_TOKENS = Output(name="tokens", kind=kinds.TOKENS, folder="tokens", at="tokens/{digest}")
TOKENISE = StepSpec(
    name="tokenise",
    description="Hears a sample through the codec, and turns conversations into shards of text ids and codes.",
    work=_tokenise,
    settings=(TokenizerSettings, CheckSettings, HearingSettings),
    inputs=(_CONVERSATIONS, _CODEC, _BASE),
    outputs=(_TOKENS,),
    dataset="dataset_digest",
    words=lambda r: f"{r['turns']} turns, {r['frames']} frames{_heard_in(r)}",
    fan_out=FanOut(
        plan=StepSpec(
            name="plan-tokenise",
            role="plan",
            description="Hears a sample through the codec, chooses the tokenizer, and divides the conversations.",
            work=_plan,
            settings=(TokenizerSettings, HearingSettings),
            inputs=(_CONVERSATIONS, _CODEC, _BASE),
            outputs=(Output(name="tools", kind=kinds.TOOLS, folder="tools"),),
            values={"shards": "Names of the shards."},
        ),
        shard=StepSpec(
            name="tokenise-shard",
            role="shard",
            description="Tokenises the conversations of one shard; of the sound, only theirs is fetched.",
            work=_shard,
            inputs=(_CONVERSATIONS, _TOOLS),
            outputs=(Output(name="part", kind=kinds.TOKENS_PART, folder="tokenise-shard", at="shards/tokenise/{key}"),),
        ),
        join=StepSpec(
            name="join-tokenise",
            step="tokenise",
            role="join",
            description="Joins the shards to what tokenise would have written, and checks a sample.",
            work=_join,
            settings=(CheckSettings,),
            inputs=(Input(name="parts", kind=kinds.TOKENS_PART, many=True), _CONVERSATIONS, _TOOLS),
            outputs=(_TOKENS,),
            dataset="dataset_digest",
        ),
    ),
)
