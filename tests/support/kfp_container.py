"""A pipeline step's own command line, as Kubeflow's launcher gives it to the step's container."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def step_command(component: Any, outputs: Path, **given: Any) -> list[str]:
    """The command of a component's container for the parameters and artifacts `given`.

    `outputs` is the folder in the container that takes artifacts, by their names, and `executor_output.json`. An
    artifact is given as the path where it lies in the container.
    """
    spec = component.component_spec
    parameters, artifacts = {}, {}
    for name, value in given.items():
        if spec.inputs[name].type in {"String", "Integer", "Float", "Boolean"}:
            parameters[name] = value
        else:
            artifacts[name] = {"artifacts": [_artifact(name, spec.inputs[name].type, str(value))]}
    made = {
        name: {"artifacts": [_artifact(name, output.type, str(outputs / name))]}
        for name, output in spec.outputs.items()
        if "." in output.type
    }
    returned = {name: {"outputFile": str(outputs / name)} for name in spec.outputs if name not in made}
    executor_input = {
        "inputs": {"parameterValues": parameters, "artifacts": artifacts},
        "outputs": {
            "artifacts": made,
            "parameters": returned,
            "outputFile": str(outputs / "executor_output.json"),
        },
    }
    container = spec.implementation.container
    words = [*container.command, *container.args]
    return [json.dumps(executor_input) if word == "{{$}}" else word for word in words]


def _artifact(name: str, kind: str, uri: str) -> Mapping[str, Any]:
    schema, _, schema_version = kind.partition("@")
    return {
        "name": name,
        "uri": uri,
        "metadata": {},
        "type": {"schemaTitle": schema, "schemaVersion": schema_version},
    }
