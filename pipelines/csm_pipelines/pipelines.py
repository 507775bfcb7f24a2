"""The pipelines: each a list of steps. What feeds what follows from the kinds of their inputs and outputs.

An input is fed by the last step before it that makes an artefact of its kind; where none does, by a source: what a run
is given from outside, such as a corpus, a codec, or the float bundle that a release begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from csm_components.annotate.spec import ANNOTATE
from csm_components.card.spec import CARD
from csm_components.deploy.spec import DEPLOY
from csm_components.evaluate.spec import EVALUATE
from csm_components.export.spec import EXPORT
from csm_components.finish.spec import END_RUN
from csm_components.ingest.spec import INGEST
from csm_components.kinds import ANNOTATIONS, BASE, CODEC, CORPUS, REPLAY, TRAINED
from csm_components.register.spec import REGISTER
from csm_components.speak.spec import SPEAK
from csm_components.spec import Input, Kind, Knob, StepSpec
from csm_components.tokenise.spec import TOKENISE
from csm_components.train.spec import TRAIN
from csm_model.errors import InputError

SOURCES: Mapping[str, str] = {
    CORPUS.name: "corpus",
    ANNOTATIONS.name: "annotations",
    CODEC.name: "codec",
    BASE.name: "base",
    REPLAY.name: "replay",
    TRAINED.name: "bundle",
}
"""What a run can be given from outside: the source that feeds inputs of a kind."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Where an input comes from: an output of a task, or a source."""

    source: str = ""
    task: str = ""
    output: str = ""


@dataclass(frozen=True, kw_only=True)
class WiredStep:
    """A step of a pipeline, or a part of one, and what feeds its inputs."""

    spec: StepSpec
    feeds: Mapping[str, Feed]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps in order."""

    name: str
    description: str
    steps: tuple[StepSpec, ...]
    needs: Mapping[str, str] = field(default_factory=dict)
    """Sources that it cannot do without, beside those of inputs that are not optional; each with the cure."""
    fed: Mapping[str, str] = field(default_factory=dict)
    """Inputs, `STEP.INPUT`, that another source feeds than that of their kind."""
    keyed: bool = True
    """Whether what it reads is known before it runs, so that its steps have cache keys."""

    @property
    def on_cluster(self) -> tuple[StepSpec, ...]:
        """What a cluster runs of it: steps that are fanned out in their parts, and the end of the run."""
        return (*(task for step in self.steps for task in step.tasks), END_RUN)

    @property
    def step_names(self) -> tuple[str, ...]:
        """Names of what a cluster runs of it, as profiles and people have them."""
        return tuple(task.step for task in self.on_cluster)

    def wired(self, specs: Sequence[StepSpec]) -> list[WiredStep]:
        """Its steps, or their parts, each with what feeds it."""
        made: dict[Kind, Feed] = {}
        tasks = []
        for spec in specs:
            feeds = {each.name: self._feed(spec, each, made) for each in spec.inputs}
            tasks.append(WiredStep(spec=spec, feeds=feeds))
            made |= {output.kind: Feed(task=spec.name, output=output.name) for output in spec.outputs}
        return tasks

    def _feed(self, spec: StepSpec, wanted: Input, made: Mapping[Kind, Feed]) -> Feed:
        for name in (f"{spec.name}.{wanted.name}", f"{spec.step}.{wanted.name}"):
            if name in self.fed:
                return Feed(source=self.fed[name])
        if wanted.kind in made:
            return made[wanted.kind]
        if wanted.kind.name in SOURCES:
            return Feed(source=SOURCES[wanted.kind.name])
        raise InputError(f"pipeline {self.name}: nothing before {spec.name} makes its {wanted.kind.name}")

    def sources(self) -> dict[str, Input]:
        """What it is given from outside, by name, each with the input that says most of it."""
        found: dict[str, Input] = {}
        for task in self.wired(self.steps):
            for each in task.spec.inputs:
                feed = task.feeds[each.name]
                if feed.source and (feed.source not in found or not each.optional):
                    found[feed.source] = each
        return found

    def required(self, source: str) -> bool:
        """Whether it cannot do without a source."""
        return source in self.needs or not self.sources()[source].optional

    def knobs(self) -> tuple[Knob, ...]:
        """All settings of its steps, each once."""
        return tuple(dict.fromkeys(knob for task in self.on_cluster for knob in task.knobs))


_DATA = (INGEST, TOKENISE)
_JUDGED = (EXPORT, EVALUATE, REGISTER)
HERE = Pipeline(
    name="run",
    description="Recorded conversations in, a served conversational speech model out.",
    steps=(*_DATA, TRAIN, *_JUDGED, SPEAK),
)
"""What `csm run` does on this machine."""
FROM_SOUND = Pipeline(
    name="run",
    description="Recordings without a text in, a served conversational speech model out.",
    steps=(ANNOTATE, *HERE.steps),
)
"""What `csm run --data` does: the same, after who says what was found in the sound."""
_BASE = "{} begins from a base: name one with --set data.base=..."
PIPELINES: Mapping[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(
            name="training",
            description="Recorded conversations in, a registered and judged model out; its float bundle is kept.",
            steps=(*_DATA, TRAIN, *_JUDGED),
        ),
        Pipeline(
            name="finetune",
            description="New conversations and a base in, a registered and judged model out.",
            steps=(*_DATA, TRAIN, *_JUDGED),
            needs={"base": _BASE.format("finetune")},
        ),
        Pipeline(
            name="release",
            description="A float bundle in; exported, judged, registered, and deployed where the gate allows it.",
            steps=(*_DATA, *_JUDGED, CARD, DEPLOY),
            needs={"bundle": "release needs the float bundle that a training kept: --bundle s3://.../trained/DIGEST"},
            fed={"tokenise.base": "bundle", "plan-tokenise.base": "bundle"},
        ),
        Pipeline(
            name="nightly",
            description="New conversations and a base in, on a schedule; what passes the gate is deployed.",
            steps=(*_DATA, TRAIN, *_JUDGED, CARD, DEPLOY),
            needs={"base": _BASE.format("nightly")},
            keyed=False,
        ),
        Pipeline(
            name="annotate",
            description="Recordings in; who says what and when in them out, which is kept.",
            steps=(ANNOTATE,),
        ),
    )
}
"""Those of a cluster, by name."""
STEPS = tuple(step.name for step in HERE.steps)
"""Names of the steps of `csm run`, in order."""
CLUSTER_STEPS = tuple(dict.fromkeys(name for pipeline in PIPELINES.values() for name in pipeline.step_names))
"""Names of all that clusters run; a profile says by these what each may use."""


def pipeline_named(name: str) -> Pipeline:
    """A pipeline of a cluster; raises `InputError` that lists them all."""
    if name not in PIPELINES:
        raise InputError(f"pipeline {name!r}: there are {', '.join(PIPELINES)}")
    return PIPELINES[name]


def step_of_task(task: str) -> str:
    """The step that a task of a cluster's pipeline is of; empty for what is no step: a driver, a loop."""
    names = {spec.name: spec.step for pipeline in PIPELINES.values() for spec in pipeline.on_cluster}
    return names.get(task, "")
