"""The step evaluate as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.ingest.spec import ONLY_TEXTS
from csm_components.register.gate import Gate
from csm_components.spec import Input, Output, StepSpec

if TYPE_CHECKING:
    from csm_components.job import StepJob


def _evaluate(job: StepJob) -> Any:
    from csm_components.evaluate.sources import best_source
    from csm_components.evaluate.step import evaluate

    settings = job.of(EvaluateSettings)
    bundle, parent = job.folder("bundle"), job.folder("parent")
    return evaluate(
        bundle,
        job.folder("conversations", ONLY_TEXTS.__contains__),
        job.folder("tokens", lambda name: not name.startswith("train-")),
        job.out("evaluation"),
        settings=settings,
        source=best_source(bundle),
        parent=parent,
        base=job.folder("base") if job.has("base") else None,
        thresholds=job.of(Gate).thresholds(),
        workers=job.workers,
    )


EVALUATE = StepSpec(
    name="evaluate",
    description="Streams held-out sentences in every voice and has them judged beside recordings and the codec alone.",
    work=_evaluate,
    settings=(EvaluateSettings, Gate),
    inputs=(
        Input(name="bundle", kind=kinds.BUNDLE),
        Input(name="parent", kind=kinds.TRAINED),
        Input(name="conversations", kind=kinds.CONVERSATIONS),
        Input(name="tokens", kind=kinds.TOKENS),
        Input(name="base", kind=kinds.BASE, optional=True),
    ),
    outputs=(Output(name="evaluation", kind=kinds.EVALUATION, folder="evaluate", at="evaluations/{digest}"),),
    keep=("report.html",),
    words=lambda r: f"{r['sentences']} sentences, word error rate {r['wer_generated']:.1%}",
)
