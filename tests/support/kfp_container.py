"""A pipeline step's own command line, as Kubeflow's launcher gives it to the step's container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from csm_components.spec import StepSpec

PROGRAM = ("python3", "-m", "csm_components.run")


def executor_input(spec: StepSpec, outputs: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What Kubeflow puts into the command of a step.

    Args:
        spec: the step.
        outputs: folder that takes its artefacts, by their names, and `executor_output.json`.
        given: parameters, and of an input the file of an artefact, or the files of several.
    """
    artefacts = {
        name: value if isinstance(value, list) else [value]
        for name, value in given.items()
        if isinstance(value, Path | list) and name in {each.name for each in spec.inputs}
    }
    return {
        "inputs": {
            "parameterValues": {name: value for name, value in given.items() if name not in artefacts},
            "artifacts": {
                name: {"artifacts": [{"name": name, "uri": str(path), "metadata": {}} for path in paths]}
                for name, paths in artefacts.items()
            },
        },
        "outputs": {
            "artifacts": {
                each.name: {"artifacts": [{"name": each.name, "uri": str(outputs / each.name), "metadata": {}}]}
                for each in spec.outputs
            },
            "outputFile": str(outputs / "executor_output.json"),
        },
    }


def step_here(name: str, work: str, inputs: dict[str, str], settings: dict[str, Any]) -> list[str]:
    """The command of a step for the folder of a run; inputs by their addresses, settings by their dotted names."""
    given = [word for row in inputs.items() for word in ("--input", "=".join(row))]
    return [*PROGRAM, name, "--work", work, "--workers", "1", *given, "--settings", json.dumps(settings)]


def step_command(spec: StepSpec, outputs: Path, **given: Any) -> list[str]:
    """The command of a step's container; the arguments are those of `executor_input`."""
    return [*PROGRAM, spec.name, "--kubeflow", json.dumps(executor_input(spec, outputs, given))]
