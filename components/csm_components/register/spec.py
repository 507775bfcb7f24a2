"""The step register as data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from csm_components import kinds
from csm_components.register.gate import Gate
from csm_components.spec import Input, Output, StepSettings, StepSpec
from csm_model.errors import InputError, quoted
from csm_model.rules import by

if TYPE_CHECKING:
    from csm_components.job import StepJob


def check_name(name: str) -> None:
    """Raises `InputError` for a name that MLflow (no slash, no colon) or a label of Kubernetes cannot have."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", name):
        raise InputError(
            f"model {quoted(name)}: a name is 1 to 63 letters, digits, dots, dashes and underscores, and begins and "
            "ends with a letter or digit, such as csm-demo"
        )


class RegisterSettings(StepSettings):
    """What the model is called."""

    section = "release"

    model: Annotated[str, by(check_name)] = "csm"
    """Name of the registered model."""


def _register(job: StepJob) -> Any:
    from csm_components.evaluate.outcome import RESULT, figures_for_gate
    from csm_components.program import code_version
    from csm_components.register.step import register
    from csm_components.tracking import Tracker
    from csm_model.files import read_json

    bundle, out = job.artefact("bundle"), job.out("version")
    evaluation = job.folder("evaluation", lambda name: name == RESULT)
    return register(
        job.folder("bundle", lambda name: name == "manifest.json"),
        out,
        figures=figures_for_gate(read_json(evaluation / RESULT)),
        gate=job.of(Gate),
        tracker=job.tracker() or Tracker(folder=out),
        source=bundle.url if bundle.stored else "",
        model=job.of(RegisterSettings).model,
        code_version=code_version(),
    )


REGISTER = StepSpec(
    name="register",
    description="Makes the bundle a version of the registered model, and champion where the gate lets it.",
    work=_register,
    settings=(Gate, RegisterSettings),
    inputs=(Input(name="bundle", kind=kinds.BUNDLE), Input(name="evaluation", kind=kinds.EVALUATION)),
    outputs=(Output(name="version", kind=kinds.VERSION, folder="register"),),
    values={"promoted": "Whether the version is now champion."},
    cacheable=False,
    effects="moves aliases of the registered model",
    records=False,
    words=lambda r: f"{r['model']} version {r['version']}, {'champion' if r['promoted'] else 'candidate'}",
)
