"""A step as data: what it does, with which settings, from what to what, and what it touches outside.

One `StepSpec` stands in each step's folder, in its `spec.py`, and all of them in `csm_components.table`. The program of
a step (`csm_components.run`), the runner of this machine, the pipelines of a cluster, their parameters, cache keys,
plans and pages are made from it. A new knob is a field of a settings class and the line that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from csm_model.errors import InputError
from csm_model.rules import problems

Image = Literal["data", "train"]
"""The images that steps run in."""
Role = Literal["whole", "plan", "shard", "join", "exit"]
"""What a task is: a step, a part of a step that is fanned out, or what closes a run however it ends."""


class StepSettings(BaseModel):
    """Settings of a step: fields of the section `section` of a run's configuration (`--set SECTION.FIELD=VALUE`).

    The text under a field is its description everywhere. Raises `InputError` for what breaks a field's rule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    section: ClassVar[str]

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError("; ".join(problems(error, at=self.section, known=type(self).model_fields))) from None


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One setting: a field of a settings class, as configurations, parameters and pages name it."""

    owner: type[StepSettings]
    name: str

    @property
    def dotted(self) -> str:
        """As `--set` takes it: `data.license`."""
        return f"{self.owner.section}.{self.name}"

    @property
    def parameter(self) -> str:
        """As a parameter of a pipeline: `data_license`."""
        return f"{self.owner.section}_{self.name}"

    @property
    def _rule(self) -> TypeAdapter[Any]:
        field = self.owner.model_fields[self.name]
        kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        return _strict(kind)

    @property
    def type(self) -> Any:
        """Its type."""
        return self.owner.model_fields[self.name].annotation

    @property
    def default(self) -> Any:
        """Its default."""
        return self.owner.model_fields[self.name].get_default(call_default_factory=True)

    @property
    def description(self) -> str:
        """Its description, in one line."""
        return " ".join(str(self.owner.model_fields[self.name].description or "").split())

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value of JSON, a line each; types are strict."""
        try:
            if isinstance(value, str):
                self._rule.validate_python(value, strict=True)
            else:
                self._rule.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            return problems(error, at=self.dotted)
        return []

    @property
    def text(self) -> bool:
        """Whether its values are text of any form."""
        return str in (get_args(self.type) or (self.type,))

    @property
    def plain(self) -> Any:
        """The type of a parameter of a pipeline that can hold it as it is; None for what travels as text."""
        if get_origin(self.type) is Literal:
            return str
        return self.type if self.type in (str, int, float, bool) else None

    def to_parameter(self, value: Any) -> Any:
        """A value as the parameter has it: as it is, or as text, where empty is none."""
        if self.plain is not None:
            return value
        if value is None:
            return ""
        return value if self._text else json.dumps(value, sort_keys=True, default=list)

    def from_parameter(self, given: Any) -> Any:
        """The value that a parameter holds."""
        if self.plain is not None:
            return given
        if given == "":
            return None
        if self._text:
            return given
        try:
            return _adapter(self.type).validate_json(given)
        except ValidationError as error:
            raise InputError("; ".join(problems(error, at=self.dotted))) from None

    @property
    def _text(self) -> bool:
        return get_origin(self.type) is UnionType and str in get_args(self.type)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _strict(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def knobs(*owners: type[StepSettings]) -> tuple[Knob, ...]:
    """All settings of some classes, in order."""
    return tuple(Knob(owner=owner, name=name) for owner in owners for name in owner.model_fields)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of artefact: an output of one step is what a later step has an input of the same kind for."""

    name: str
    description: str
    kubeflow: Literal["Artifact", "Dataset", "Model", "Metrics"] = "Artifact"
    """What Kubeflow's pages show it as."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a step reads: its work gets an artefact, and fetches of it what it needs."""

    name: str
    kind: Kind
    optional: bool = False
    many: bool = False
    """Whether it is what all shards have made."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a step makes."""

    name: str
    kind: Kind
    folder: str
    """Where it lies in the folder of a run."""
    at: str = ""
    """Its tree in the storage, with fields of the result: `tokens/{digest}`. Empty is `KIND/DIGEST`, of its files."""


@dataclass(frozen=True, kw_only=True)
class FanOut:
    """The three parts of a step that works in shards; what is joined is what the step would make alone."""

    plan: StepSpec
    """Its result names the shards in `shards`."""
    shard: StepSpec
    join: StepSpec


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """A step, or a part of one that is fanned out."""

    name: str
    """Of the program and of the task."""
    description: str
    """One line."""
    work: Callable[[Any], Any]
    """Does it, given a `csm_components.job.StepJob`; returns a frozen dataclass with a field `reused`."""
    settings: tuple[type[StepSettings], ...] = ()
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    """Fields of the result that go on as values, with their descriptions."""
    when: str = ""
    """It runs only where this value of an earlier step is true."""
    role: Role = "whole"
    step: str = ""
    """The step that it is a part of, as people and profiles name it; empty is `name`."""
    fan_out: FanOut | None = None
    image: Image = "data"
    cacheable: bool = True
    """Whether a result may be taken for it that was made of the same."""
    effects: str = ""
    """What it touches outside: why it always runs."""
    dataset: str = ""
    """Field of the result with the digest of the data, recorded as the dataset of its MLflow run."""
    keep: tuple[str, ...] = ()
    """Files of its first output that MLflow gets on a cluster."""
    records: bool = True
    """Whether its result is recorded for it; a step may write to its MLflow run itself."""
    words: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """A few words on a result."""

    def __post_init__(self) -> None:
        if not self.step:
            object.__setattr__(self, "step", self.name)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """All its settings."""
        return knobs(*self.settings)

    @property
    def tasks(self) -> tuple[StepSpec, ...]:
        """What a cluster runs of it."""
        return (self.fan_out.plan, self.fan_out.shard, self.fan_out.join) if self.fan_out else (self,)
