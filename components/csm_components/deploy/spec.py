"""The step deploy as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csm_components import kinds
from csm_components.register.spec import RegisterSettings
from csm_components.spec import Input, Output, StepSpec

if TYPE_CHECKING:
    from csm_components.job import StepJob


def _deploy(job: StepJob) -> Any:
    from csm_components.deploy.step import deploy

    return deploy(
        job.folder("bundle"),
        job.folder("version"),
        job.out("release"),
        model=job.of(RegisterSettings).model,
        tracker=job.tracker(),
        say=job.say,
    )


DEPLOY = StepSpec(
    name="deploy",
    description="Publishes a bundle that the gate let through, and rolls it out as CSM_DEPLOY_TARGET says.",
    work=_deploy,
    settings=(RegisterSettings,),
    inputs=(Input(name="version", kind=kinds.VERSION), Input(name="bundle", kind=kinds.BUNDLE)),
    outputs=(Output(name="release", kind=kinds.RELEASE, folder="release"),),
    when="promoted",
    cacheable=False,
    effects="only where the gate lets it through",
)
