"""The step export as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from csm_components import kinds
from csm_components.spec import Input, Output, StepSettings, StepSpec

if TYPE_CHECKING:
    from csm_components.job import StepJob


class ExportSettings(StepSettings):
    """What the released bundle is like."""

    section = "release"

    precision: Literal["int8", "int4", "bf16", "fp16", "fp32"] = "int8"
    """Weights of the released bundle."""


def _export(job: StepJob) -> Any:
    from csm_components.export.step import export

    return export(job.folder("parent"), job.out("bundle"), precision=job.of(ExportSettings).precision)


EXPORT = StepSpec(
    name="export",
    description="Writes a bundle with quantised weights, its codec and its tokenizer, each file named by its digest.",
    work=_export,
    settings=(ExportSettings,),
    inputs=(Input(name="parent", kind=kinds.TRAINED),),
    outputs=(Output(name="bundle", kind=kinds.BUNDLE, folder="bundle", at="exported/{digest}"),),
    words=lambda r: f"{r['precision']}, {r['megabytes']:.1f} MB of {r['parent_megabytes']:.1f} MB",
)
