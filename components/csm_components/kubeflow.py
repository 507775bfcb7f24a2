"""A task as Kubeflow says it to a pod, and what a pod says back; no part of Kubeflow is needed for either.

Kubeflow puts its executor input, JSON, in place of `{{$}}` in the command: values of parameters, artefacts with the
paths where they lie, and the file to say back in. Here each artefact is a file with an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from csm_components.artefacts import Artefact
from csm_components.job import StepJob
from csm_components.made import Record
from csm_components.spec import StepSettings, StepSpec
from csm_model.errors import InputError
from csm_model.files import write_json

_MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/", "oci://": "/oci/"}
"""Where a pod finds what lies at such an address."""


def path_of(uri: str) -> Path:
    """Where an artefact of Kubeflow lies in a pod."""
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return Path(mount + uri.removeprefix(scheme))
    return Path(uri)


class KubeflowTask:
    """One task, from its executor input."""

    def __init__(self, executor_input: Mapping[str, Any]) -> None:
        inputs, self._outputs = executor_input.get("inputs", {}), executor_input["outputs"]
        self.parameters: Mapping[str, Any] = inputs.get("parameterValues", {})
        self._artefacts: Mapping[str, Any] = inputs.get("artifacts", {})

    def job(self, spec: StepSpec, scratch: Path) -> StepJob:
        """What the step is to do; raises `InputError` for a parameter that breaks its rule."""
        values = self.parameters
        settings: dict[type[StepSettings], StepSettings] = {}
        for owner in spec.settings:
            mine = [knob for knob in spec.knobs if knob.owner is owner and knob.parameter in values]
            settings[owner] = owner(**{knob.name: knob.from_parameter(values[knob.parameter]) for knob in mine})
        return StepJob(
            spec=spec,
            scratch=scratch,
            settings=settings,
            inputs={each.name: found for each in spec.inputs if (found := self._input(each.name))},
            run=str(values.get("run", "")),
            shards=int(values.get("shards", 1)),
            shard=str(values.get("shard", "")),
            status=values.get("status", {}),
        )

    def _input(self, name: str) -> list[Artefact]:
        if address := self.parameters.get(name):
            return [Artefact(url=str(address))]
        rows = self._artefacts.get(name, {}).get("artifacts", [])
        return [Artefact.load(_path(row)) for row in rows]

    def leave(self, spec: StepSpec, record: Record) -> None:
        """Writes addresses, values and metadata where Kubeflow looks for them."""
        shown = {name: value for name, value in record.result.items() if isinstance(value, str | int | float | bool)}
        artefacts = {}
        for output in spec.outputs:
            if output.name not in record.artefacts:
                raise InputError(f"step {spec.name} has no place for what it makes: set CSM_STORAGE")
            artefact = Artefact(**record.artefacts[output.name])
            (row,) = self._outputs["artifacts"][output.name]["artifacts"]
            artefact.save(_path(row))
            told = {"name": row["name"], "uri": row["uri"], "metadata": {**shown, **asdict(artefact)}}
            artefacts[output.name] = {"artifacts": [told]}
        write_json(
            Path(self._outputs["outputFile"]),
            {
                "parameterValues": {parameter_of(name): record.result[name] for name in spec.values},
                "artifacts": artefacts,
            },
        )


def parameter_of(value: str) -> str:
    """The output parameter that carries a value; what a loop runs over has the one name that Kubeflow's local runner
    looks for."""
    return "Output" if value == "shards" else value


def _path(artefact: Mapping[str, Any]) -> Path:
    return Path(artefact["customPath"]) if artefact.get("customPath") else path_of(artefact["uri"])
