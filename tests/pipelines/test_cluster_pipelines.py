"""The pipelines of a cluster compile to the IR that is kept here, and to custom resources that say the same.

After a wanted change: `python tests/pipelines/test_cluster_pipelines.py` writes the golden files again; read the diff.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from csm_model.errors import InputError
from csm_pipelines.checks import check_config
from csm_pipelines.compiling import compile_pipeline, pipeline_name, version_name, without_sdk
from csm_pipelines.pipelines import CLUSTER_STEPS, PIPELINES, step_of_task
from csm_pipelines.presets import preset
from csm_pipelines.profile import load_profile

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(PIPELINES)


@cache
def compiled(name: str) -> str:
    """The IR for the profile kind, with a key for train, without the version of kfp that compiled it."""
    return without_sdk(compile_pipeline(name, load_profile("kind"), keys={"train": "0" * 64}, model="csm-demo"))


@cache
def documents(name: str) -> list[dict[str, Any]]:
    """The pipeline spec and the platform spec."""
    return list(yaml.load_all(compiled(name), yaml.CSafeLoader))


def tasks_of(name: str) -> dict[str, dict[str, Any]]:
    """All tasks at any depth, by their names."""
    spec = documents(name)[0]
    dags = [spec["root"]["dag"], *(row["dag"] for row in spec["components"].values() if "dag" in row)]
    return {task: row for dag in dags for task, row in dag["tasks"].items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_ir_is_the_golden_one(name: str) -> None:
    assert compiled(name) == (GOLDEN / f"csm-{name}.yaml").read_text(encoding="utf-8")


def test_a_pipeline_is_compiled_with_the_settings_of_a_run() -> None:
    config = check_config(preset("lora"), ["gate.max_wer=0.1"], target=load_profile("kind").train)
    spec = yaml.load(compile_pipeline("nightly", load_profile("kind"), config=config).split("---")[0], yaml.CSafeLoader)
    told = spec["root"]["inputDefinitions"]["parameters"]
    assert json.loads(told["gate_max_wer"]["defaultValue"]) == 0.1
    assert json.loads(told["train_recipe"]["defaultValue"])["trainable"] == "lora"
    assert told["release_model"]["defaultValue"] == "csm-lora"


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_has_the_steps_that_it_is_listed_with(name: str) -> None:
    steps = {step for task in tasks_of(name) if (step := step_of_task(task))}
    assert steps == set(PIPELINES[name].step_names)
    assert set(CLUSTER_STEPS) >= steps


@pytest.mark.parametrize("name", NAMES)
def test_shards_are_worked_on_side_by_side_within_a_bound(name: str) -> None:
    loops = [row for row in tasks_of(name).values() if "parameterIterator" in row]
    assert len(loops) == sum(step.fan_out is not None for step in PIPELINES[name].steps)
    assert {row["iteratorPolicy"]["parallelismLimit"] for row in loops} == {2}


@pytest.mark.parametrize("name", NAMES)
def test_the_record_of_a_run_is_closed_however_it_ends(name: str) -> None:
    root = documents(name)[0]["root"]["dag"]["tasks"]
    end = root["end-run"]
    assert end["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(root) == {"end-run", *end["dependentTasks"]}


@pytest.mark.parametrize("name", ["release", "nightly"])
def test_only_what_the_gate_passed_is_deployed(name: str) -> None:
    tasks = tasks_of(name)
    (condition,) = [row for row in tasks.values() if "condition" in row.get("triggerPolicy", {})]
    passed = "inputs.parameter_values['pipelinechannel--register-promoted']"
    assert condition["triggerPolicy"]["condition"] == f"{passed} == true"
    component = documents(name)[0]["components"][condition["componentRef"]["name"]]
    assert list(component["dag"]["tasks"]) == ["deploy"]


@pytest.mark.parametrize("name", ["training", "finetune"])
def test_a_training_deploys_nothing(name: str) -> None:
    assert "deploy" not in tasks_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_writes_under_the_name_of_the_run(name: str) -> None:
    for task, row in tasks_of(name).items():
        if step_of_task(task):
            value = row["inputs"]["parameters"]["run"]["runtimeValue"]["constant"]
            assert value == "{{$.pipeline_job_uuid}}", task


def test_only_steps_with_a_key_are_cached_and_by_that_key_alone() -> None:
    tasks = tasks_of("training")
    assert tasks["train"]["cachingOptions"] == {"enableCache": True, "cacheKey": "0" * 64}
    others = [row for task, row in tasks.items() if step_of_task(task) and task != "train"]
    assert all(row["cachingOptions"] == {} for row in others)


@pytest.mark.parametrize("name", NAMES)
def test_the_custom_resources_are_valid_and_say_what_the_ir_says(name: str) -> None:
    import kubernetes_schemas

    text = compile_pipeline(name, load_profile("kind"), keys={"train": "0" * 64}, model="csm-demo", format="crs")
    pipeline, version = yaml.load_all(text, yaml.CSafeLoader)
    for resource in (pipeline, version):
        kubernetes_schemas.check(resource)
    spec, platform = documents(name)
    assert pipeline["metadata"] == {"name": f"csm-{name}", "namespace": "csm-training"}
    assert version["spec"]["pipelineName"] == f"csm-{name}"
    assert version["spec"]["platformSpec"] == platform
    own = version["spec"]["pipelineSpec"]
    assert {key: value for key, value in own.items() if key != "sdkVersion"} == spec
    assert version["metadata"]["name"] == version_name(f"csm-{name}", compiled(name))


def test_a_version_is_named_by_what_it_says() -> None:
    ir = compiled("release")
    assert pipeline_name(ir) == "csm-release"
    assert version_name("csm-release", f"{ir}sdkVersion: kfp-9.9.9\n") == version_name("csm-release", ir)
    assert version_name("csm-release", ir.replace("cpuLimit: 1.0", "cpuLimit: 2.0")) != version_name("csm-release", ir)


def test_an_unknown_pipeline_or_format_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="pipeline 'trainings': there are training, finetune, release, nightly"):
        compile_pipeline("trainings", load_profile("kind"))
    with pytest.raises(InputError, match="format 'json' is not one of ir, crs"):
        compile_pipeline("training", load_profile("kind"), format="json")  # type: ignore[arg-type]


if __name__ == "__main__":
    for name in NAMES:
        (GOLDEN / f"csm-{name}.yaml").write_text(compiled(name), encoding="utf-8")
