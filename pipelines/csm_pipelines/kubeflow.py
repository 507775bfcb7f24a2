"""Pipelines and components of Kubeflow, made from the table of steps.

A component is the program of a step in a container, `python3 -m csm_components.run STEP`, which Kubeflow gives its
executor input. Settings are its parameters, by the names `SECTION_FIELD`; artefacts are small files with addresses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl
from kfp.dsl import container_component_class, structures
from kfp.dsl.graph_component import GraphComponent

from csm_components.kubeflow import parameter_of
from csm_components.spec import Input, Knob, StepSpec
from csm_pipelines.config import RunConfig
from csm_pipelines.dressing import Dress
from csm_pipelines.pipelines import Feed, Pipeline, WiredStep
from csm_pipelines.profile import RunLimits

COMMAND = ("python3", "-m", "csm_components.run")
RUN = dsl.PIPELINE_JOB_ID_PLACEHOLDER
"""The name of the pipeline run, which its steps write to MLflow under."""
_EXECUTOR_INPUT = "{{$}}"
_TYPES = {str: "String", int: "Integer", float: "Float", bool: "Boolean"}
_VALUES = {"shards": "List", "promoted": "Boolean"}
"""Kubeflow's types of values that go on from a result."""


def component(task: WiredStep) -> container_component_class.ContainerComponent:
    """A step as a component; sources are parameters with their addresses."""
    spec = task.spec
    inputs = {each.name: _input(each, task.feeds[each.name]) for each in spec.inputs}
    inputs |= {
        knob.parameter: structures.InputSpec(kfp_type(knob), description=knob.description) for knob in spec.knobs
    }
    inputs |= _of_role(spec)
    outputs = {
        each.name: structures.OutputSpec(f"system.{each.kind.kubeflow}@0.0.1", description=each.kind.description)
        for each in spec.outputs
    }
    outputs |= {
        parameter_of(name): structures.OutputSpec(_VALUES[name], description=description)
        for name, description in spec.values.items()
    }
    container = structures.ContainerSpecImplementation(
        image=spec.image, command=[*COMMAND, spec.name], args=["--kubeflow", _EXECUTOR_INPUT]
    )
    described = structures.ComponentSpec(
        name=spec.name,
        description=spec.description,
        inputs=inputs,
        outputs=outputs,
        implementation=structures.Implementation(container=container),
    )
    return container_component_class.ContainerComponent(described, lambda: None)


def _input(wanted: Input, feed: Feed) -> structures.InputSpec:
    if feed.source:
        return structures.InputSpec("String", description=wanted.kind.description)
    return structures.InputSpec(
        f"system.{wanted.kind.kubeflow}@0.0.1", is_artifact_list=wanted.many, description=wanted.kind.description
    )


def _of_role(spec: StepSpec) -> dict[str, structures.InputSpec]:
    """What a task is told beside its settings."""
    told = {"run": structures.InputSpec("String", description="Name of the pipeline run.")}
    if spec.role == "plan":
        told["shards"] = structures.InputSpec("Integer", description="How many shards; fewer where there is less.")
    if spec.role == "shard":
        told["shard"] = structures.InputSpec("String", description="Name of the shard.")
    if spec.role == "exit":
        told["status"] = structures.InputSpec(
            "PipelineTaskFinalStatus", optional=True, description="How the tasks ended."
        )
    return told


def kfp_type(knob: Knob) -> str:
    """Kubeflow's type of a setting."""
    return _TYPES[knob.plain or str]


def parameters(pipeline: Pipeline, config: RunConfig | None = None) -> dict[str, tuple[Any, Any, str]]:
    """The parameters of a pipeline by name: type, default (`inspect.Parameter.empty` for none), description.

    The defaults are the steps' own, or the settings of a run.
    """
    none = inspect.Parameter.empty
    found: dict[str, tuple[Any, Any, str]] = {
        name: (str, none if pipeline.required(name) else "", wanted.kind.description)
        for name, wanted in sorted(pipeline.sources().items(), key=lambda row: not pipeline.required(row[0]))
    }
    found["shards"] = (int, RunLimits().shards, "Parts that steps are cut into which work side by side.")
    for knob in pipeline.knobs():
        value = knob.default if config is None else config.value(knob)
        found[knob.parameter] = (knob.plain or str, knob.to_parameter(value), knob.description)
    return found


def build(
    pipeline: Pipeline,
    dress: Dress,
    *,
    parallelism: int,
    config: dsl.PipelineConfig | None = None,
    defaults: RunConfig | None = None,
) -> GraphComponent:
    """A pipeline, ready to be compiled.

    Args:
        pipeline: which.
        dress: brings all that is of the cluster to each task (`csm_pipelines.dressing`).
        parallelism: shards that are worked on at once.
        config: limits of the run.
        defaults: a run whose settings the parameters have unless another value is given; the steps' own without it.
    """
    told = parameters(pipeline, defaults)

    def body(*given: Any) -> None:
        _compose(pipeline, dress, dict(zip(told, given, strict=True)), parallelism)

    plain = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        for name, (kind, default, _) in told.items()
    ]
    body.__signature__ = inspect.Signature(plain, return_annotation=None)  # type: ignore[attr-defined]
    body.__annotations__ = {name: kind for name, (kind, _, _) in told.items()}
    rows = "\n".join(f"    {name}: {description}" for name, (_, _, description) in told.items())
    body.__doc__ = f"{pipeline.description}\n\nArgs:\n{rows}\n"
    made: Callable[[Any], GraphComponent] = dsl.pipeline(
        name=f"csm-{pipeline.name}", description=pipeline.description, pipeline_config=config
    )
    return made(body)


def _compose(pipeline: Pipeline, dress: Dress, given: Mapping[str, Any], parallelism: int) -> None:
    """The tasks of a pipeline: all under one exit handler, which closes the run's record however they end."""
    *steps, last = pipeline.wired(pipeline.on_cluster)
    made: dict[tuple[str, str], Any] = {}
    values: dict[str, Any] = {}

    def start(task: WiredStep, **more: Any) -> None:
        """A task with all that feeds it; what it makes is there for those after it."""
        spec = task.spec
        arguments = {
            name: given[feed.source] if feed.source else made[feed.task, feed.output]
            for name, feed in task.feeds.items()
        }
        arguments |= {knob.parameter: given[knob.parameter] for knob in spec.knobs}
        done = dress(spec, component(task)(run=RUN, **arguments, **more))
        made.update({(spec.name, each.name): done.outputs[each.name] for each in spec.outputs})
        values.update({name: done.outputs[parameter_of(name)] for name in spec.values})

    with dsl.ExitHandler(dress(last.spec, component(last)(run=RUN)), name="run"):
        for task in steps:
            spec = task.spec
            if spec.role == "plan":
                start(task, shards=given["shards"])
            elif spec.role == "shard":
                with dsl.ParallelFor(values["shards"], name=f"{spec.name}s", parallelism=parallelism) as shard:
                    start(task, shard=shard)
                for each in spec.outputs:
                    made[spec.name, each.name] = dsl.Collected(made[spec.name, each.name])
            elif spec.when:
                with dsl.If(values[spec.when] == True, name=f"if-{spec.when}"):  # noqa: E712  (builds a condition)
                    start(task)
            else:
                start(task)
