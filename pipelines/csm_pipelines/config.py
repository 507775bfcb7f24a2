"""The configuration of a whole run: what it is given, and the settings of all steps, section by section.

Every setting is declared once, in the settings class of its step; here they are put together by their sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from pydantic import Field, create_model

from csm_components.spec import Knob, StepSettings
from csm_components.table import STEPS

S = TypeVar("S", bound=StepSettings)
MAKE = "make"
"""Annotations that a run makes itself, before all else."""


class Sources(StepSettings):
    """What a run is made from, and the processes of a step here."""

    section = "data"

    corpus: str
    """Folder of sound and text, or its address."""
    annotations: str | None = None
    """What annotate has found in the corpus, a folder or its address; "make" finds it first, on this machine; none
    takes the corpus's own texts."""
    codec: str
    """Codec folder or its address; "random" makes a tiny one without training."""
    base: str | None = None
    """Bundle to begin from, a folder or its address; none trains from nothing."""
    replay: str | None = None
    """Token shards of the base's codec and tokenizer, a folder or its address, that `train.recipe.replay_share` of the
    packs come from, so that fine-tuning keeps what the base could; none replays nothing."""
    workers: int = Field(default=0, ge=0)
    """Worker processes of a step on this machine; 0 is one a core."""


@cache
def sections() -> Mapping[str, type[StepSettings]]:
    """The class of each section: the fields of all steps' settings that name it."""
    owners: dict[str, list[type[StepSettings]]] = {"data": [Sources]}
    for step in STEPS:
        for owner in (owner for task in (step, *step.tasks) for owner in task.settings):
            if owner not in owners.setdefault(owner.section, []):
                owners[owner.section].append(owner)
    return {
        section: create_model(
            f"{section.title()}Config", __base__=tuple(reversed(classes))
        )  # pydantic lists the fields of the last base first
        for section, classes in owners.items()
    }


@dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    preset: str
    """Name of the preset it came from."""
    sections: Mapping[str, StepSettings]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in (given := self.__dict__.get("sections", {})):
            raise AttributeError(name)
        return given[name]

    def of(self, settings: type[S]) -> S:
        """The settings of a class."""
        section = self.sections[settings.section]
        return settings(**{name: getattr(section, name) for name in settings.model_fields})

    def value(self, knob: Knob) -> Any:
        """The value of a setting."""
        return getattr(self.sections[knob.owner.section], knob.name)

    def changed(self, *, preset: str | None = None, **changes: Mapping[str, Any]) -> RunConfig:
        """Another configuration: fields of sections by their names."""
        known = sections()
        made = {name: known[name](**{**dict(self.sections[name]), **values}) for name, values in changes.items()}
        return replace(self, preset=preset or self.preset, sections={**self.sections, **made})

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"preset": self.preset, **{name: row.model_dump(mode="json") for name, row in self.sections.items()}}


def run_config(preset: str, **values: Mapping[str, Any]) -> RunConfig:
    """A configuration from fields of sections; the others have their defaults."""
    return RunConfig(preset, {name: kind(**values.get(name, {})) for name, kind in sections().items()})
