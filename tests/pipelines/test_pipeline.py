"""The pipeline compiles to the IR that is kept here, and its components install nothing.

After a wanted change: `python tests/pipelines/test_pipeline.py` writes the golden file again; read its diff.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import yaml

from csm_components.image import IMAGE, TRAIN_IMAGE
from csm_pipelines.pipeline import compile_to, csm_pipeline
from csm_pipelines.steps import STEPS

GOLDEN = Path(__file__).parent / "golden" / "csm-foundry.yaml"


def compiled() -> str:
    """The IR without the version of kfp that compiled it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_to(str(path))
        text = path.read_text(encoding="utf-8")
    return re.sub(r"^sdkVersion: .*\n", "", text, flags=re.MULTILINE)


def test_the_ir_is_the_golden_one() -> None:
    assert compiled() == GOLDEN.read_text(encoding="utf-8")


def test_the_steps_run_in_their_order() -> None:
    tasks = yaml.safe_load(compiled())["root"]["dag"]["tasks"]
    depends = {name.removesuffix("-component"): set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert set(depends) == set(STEPS)
    for step, before in depends.items():
        assert all(STEPS.index(name.removesuffix("-component")) < STEPS.index(step) for name in before)


def test_training_has_an_image_of_its_own_and_nothing_is_installed_at_run_time() -> None:
    executors = yaml.safe_load(compiled())["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert images.pop("exec-train-component") == TRAIN_IMAGE
    assert set(images.values()) == {IMAGE}
    assert not any("pip install" in " ".join(executor["container"]["command"]) for executor in executors.values())


def test_the_pipeline_has_only_what_the_runner_gives() -> None:
    from csm_pipelines.presets import demo
    from csm_pipelines.runner import pipeline_arguments

    assert set(pipeline_arguments(demo(), Path("runs/x"))) == set(csm_pipeline.component_spec.inputs)


if __name__ == "__main__":
    GOLDEN.write_text(compiled(), encoding="utf-8")
