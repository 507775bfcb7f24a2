"""What the work of a step is given: settings, artefacts, places for what it makes, and someone to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from csm_components.artefacts import Artefact, Wanted
from csm_components.events import progress
from csm_components.spec import StepSettings, StepSpec
from csm_model.errors import InputError

if TYPE_CHECKING:
    from csm_components.tracking import Tracker

S = TypeVar("S", bound=StepSettings)


@dataclass(frozen=True, kw_only=True)
class StepJob:
    """One time that a step is to be done."""

    spec: StepSpec
    scratch: Path
    """Folder for what is fetched, and on a cluster for what is made."""
    settings: Mapping[type[StepSettings], StepSettings] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[Artefact]] = field(default_factory=dict)
    work: Path | None = None
    """Folder of the run; None on a cluster."""
    run: str = ""
    """Name of the pipeline run on a cluster."""
    workers: int | None = None
    """Processes; None leaves it to `CSM_WORKERS`, or one a core."""
    shards: int = 1
    """How many, for a plan."""
    shard: str = ""
    """Which, for a shard."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """How the run ended, for what closes it."""

    def of(self, settings: type[S]) -> S:
        """The settings of a class."""
        found = self.settings.get(settings)
        assert isinstance(found, settings), f"{self.spec.name} has no {settings.__name__} in its table"
        return found

    def has(self, name: str) -> bool:
        """Whether an optional input is given."""
        return bool(self.inputs.get(name))

    def all(self, name: str) -> Sequence[Artefact]:
        """The artefacts of an input, by their addresses."""
        return self.inputs.get(name, ())

    def artefact(self, name: str) -> Artefact:
        """The artefact of an input, by its address; raises `InputError` where none is given."""
        if not self.has(name):
            raise InputError(f"step {self.spec.name} needs its input {name!r}: give it as {name}=FOLDER or an address")
        return self.inputs[name][0]

    def folder(self, name: str, wanted: Wanted | None = None) -> Path:
        """A folder with the artefact of an input, or with those of its files that are wanted; may be called again."""
        return self.artefact(name).fetch(self.scratch / "inputs" / name, wanted)

    def folders(self, name: str) -> list[Path]:
        """A folder for each artefact of an input."""
        found = self.inputs.get(name, ())
        return [each.fetch(self.scratch / "inputs" / name / f"{number:05}") for number, each in enumerate(found)]

    def out(self, name: str) -> Path:
        """Where an output is to be made: in the folder of the run, which holds what an earlier attempt committed."""
        (output,) = (each for each in self.spec.outputs if each.name == name)
        return (self.work or self.scratch / "outputs") / output.folder

    def tracker(self) -> Tracker | None:
        """Where the step records; None where there is nowhere."""
        from csm_components.tracking import tracker_of

        return tracker_of(str(self.work or ""), self.run, self.say)

    def say(self, line: str) -> None:
        """Tells whoever looks on, and the log."""
        print(line, flush=True)
        progress(line)
