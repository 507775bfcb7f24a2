"""The step train as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.spec import Input, Output, StepSpec
from csm_components.train.knobs import TrainSettings

if TYPE_CHECKING:
    from csm_components.job import StepJob


def _train(job: StepJob) -> Any:
    from csm_components.settings import load_settings
    from csm_components.train.step import train

    target = load_settings().train_target
    base: Any = None
    replay = job.artefact("replay").url if job.has("replay") else None
    if job.has("base"):
        base = job.folder("base") if target.backend == "local" else job.artefact("base").url
    return train(
        job.artefact("tokens").url,  # shards come as they are needed, to whoever trains
        job.out("bundle").parent,
        base=base,
        replay=replay,
        settings=job.of(TrainSettings),
        target=target,
        tracker=job.tracker(),
        pipeline=job.run,
        say=job.say,
    )


def _words(result: Mapping[str, Any]) -> str:
    nats = result["validation_first"]
    return f"{result['steps']} steps, validation {'unknown' if nats is None else f'{nats:.2f}'} nats"


TRAIN = StepSpec(
    name="train",
    description="Fine-tunes a base bundle, or trains one from nothing, with torchx; a run that was killed goes on.",
    work=_train,
    settings=(TrainSettings,),
    inputs=(
        Input(name="tokens", kind=kinds.TOKENS),
        Input(name="base", kind=kinds.BASE, optional=True),
        Input(name="replay", kind=kinds.REPLAY, optional=True),
    ),
    outputs=(Output(name="bundle", kind=kinds.TRAINED, folder="train/final", at="trained/{digest}"),),
    image="train",
    records=False,
    words=_words,
)
