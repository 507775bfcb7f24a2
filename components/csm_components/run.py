"""The program of every step, here and in a pod.

    python -m csm_components.run STEP --settings JSON --input NAME=ADDRESS --work FOLDER
    python -m csm_components.run STEP --kubeflow EXECUTOR_INPUT

`csm run` starts it with folders of the run, Kubeflow with what it says of a task: parameters, and artefacts that hold
addresses (`csm_components.artefacts`). An error that a person can mend is one line, and exit status 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_components import kubeflow
from csm_components.artefacts import Artefact
from csm_components.events import describe, emit, open_channel, use_log
from csm_components.job import StepJob
from csm_components.lifeline import follow
from csm_components.spec import Knob, StepSettings, StepSpec
from csm_components.steps import perform
from csm_components.table import task
from csm_model.errors import CsmError, InputError
from csm_model.machine_errors import machine_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Does one step; 0 where it is done, 2 for what the caller can mend, 1 for a fault of this program."""
    asked = _parser().parse_args(arguments)
    if asked.parent:
        follow(asked.parent)
    if asked.events is not None:
        open_channel(asked.events)
    elif not sys.stderr.isatty():
        use_log()
    try:
        _run(asked)
    except Exception as error:
        said = error if isinstance(error, CsmError) else machine_error(error, asked.work)
        emit("error", **describe(said or error))
        if said is None:
            traceback.print_exc()
            return 1
        sys.stderr.write(f"error: {' '.join(str(said).split())}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="csm_components.run", description="Do one step.")
    parser.add_argument("step", help="name of the step")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="settings by their dotted names")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=ADDRESS", help="may be given again")
    parser.add_argument("--work", type=Path, help="folder of the run, which holds what the step makes")
    parser.add_argument("--workers", type=int, help="processes; 0 is one a core")
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="process that the step must not outlive")
    parser.add_argument("--events", type=int, metavar="FD", help="file descriptor that events go to")
    parser.add_argument("--kubeflow", metavar="JSON", help="a task as Kubeflow says it, in place of all these")
    return parser


def _run(asked: argparse.Namespace) -> None:
    spec = task(asked.step)
    with tempfile.TemporaryDirectory(prefix=f"csm-{spec.name}-") as scratch:
        if asked.kubeflow:
            given = kubeflow.KubeflowTask(json.loads(asked.kubeflow))
            emit("started", step=spec.step)
            record = perform(given.job(spec, Path(scratch)))
            given.leave(spec, record)
        else:
            job = StepJob(
                spec=spec,
                scratch=Path(scratch),
                settings=settings_of(spec, json.loads(asked.settings)),
                inputs=inputs_of(spec, asked.input),
                work=asked.work,
                workers=asked.workers or None,
            )
            emit("started", step=spec.step)
            record = perform(job)
        emit("result", result=dict(record.result))


def settings_of(spec: StepSpec, given: Mapping[str, Any]) -> dict[type[StepSettings], StepSettings]:
    """The settings of a step from values by their dotted names; what is not given has its default.

    Raises:
        InputError: a name that the step does not know, or a value that breaks its rule.
    """
    known = {knob.dotted: knob for knob in spec.knobs}
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"{spec.name} has no setting {unknown[0]}; it has {', '.join(known) or 'none'}")
    return build(spec, {known[name]: value for name, value in given.items()})


def build(spec: StepSpec, values: Mapping[Knob, Any]) -> dict[type[StepSettings], StepSettings]:
    """The settings of a step from the values of its knobs."""
    return {
        owner: owner(**{knob.name: value for knob, value in values.items() if knob.owner is owner})
        for owner in spec.settings
    }


def inputs_of(spec: StepSpec, given: Iterable[str]) -> dict[str, list[Artefact]]:
    """The artefacts of a step's inputs, from `NAME=ADDRESS`; raises `InputError` for a name that it does not know."""
    found: dict[str, list[Artefact]] = {}
    known = [each.name for each in spec.inputs]
    for row in given:
        name, equals, address = row.partition("=")
        if name not in known or not equals:
            raise InputError(f"input {row!r}: write it as NAME=ADDRESS; {spec.name} has {', '.join(known) or 'none'}")
        found.setdefault(name, []).append(Artefact(url=address))
    return found


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)
