"""The pipelines are lists of steps: what feeds what follows from kinds, and a knob is declared once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from csm_components.spec import Input, Kind, Knob, StepSpec
from csm_components.table import STEPS as TABLE
from csm_model.errors import InputError
from csm_pipelines.compiling import compile_pipeline
from csm_pipelines.config import MAKE
from csm_pipelines.pipelines import FROM_SOUND, HERE, PIPELINES, STEPS, Pipeline
from csm_pipelines.presets import demo
from csm_pipelines.profile import load_profile
from csm_pipelines.runner import arguments_of, pipeline_of

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "components" / "csm_components", ROOT / "pipelines" / "csm_pipelines"]


def test_the_steps_run_in_their_order() -> None:
    for number, task in enumerate(HERE.wired(HERE.steps)):
        before = {feed.task for feed in task.feeds.values() if feed.task}
        assert before <= set(STEPS[:number]), task.spec.name
    assert STEPS == ("ingest", "tokenise", "train", "export", "evaluate", "register", "speak")


@pytest.mark.parametrize("pipeline", [HERE, *PIPELINES.values()], ids=lambda pipeline: pipeline.name)
def test_joined_parts_feed_what_the_whole_step_would(pipeline: Pipeline) -> None:
    def fed(fanned: bool) -> dict[str, dict[str, tuple[str, str, str]]]:
        tasks = pipeline.wired(pipeline.on_cluster if fanned else pipeline.steps)
        steps = {task.spec.name: task.spec.step for task in tasks}
        return {
            task.spec.step: {name: (feed.source, steps.get(feed.task, ""), feed.output) for name, feed in row.items()}
            for task in tasks
            if task.spec.role == "whole" and (row := task.feeds)
        }

    whole, parts = fed(False), fed(True)
    assert {step: whole[step] for step in parts} == parts


def test_training_has_an_image_of_its_own_and_nothing_is_installed_at_run_time() -> None:
    profile = load_profile("kind")
    executors = yaml.safe_load_all(compile_pipeline("nightly", profile)).__next__()["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert images.pop("exec-train") == profile.images.train
    assert set(images.values()) == {profile.images.data}
    for name, executor in executors.items():
        command = [*executor["container"]["command"], *executor["container"]["args"]]
        assert command[:3] == ["python3", "-m", "csm_components.run"], name
        assert command[4:] == ["--kubeflow", "{{$}}"], name


def test_the_pipeline_has_only_what_the_runner_gives() -> None:
    for task in HERE.wired(HERE.steps):
        given = arguments_of(task, demo(), Path("runs/x"))
        named = [given[number + 1].partition("=")[0] for number, word in enumerate(given) if word == "--input"]
        assert named == [each.name for each in task.spec.inputs if each.name != "annotations"]


def test_annotations_that_a_run_makes_feed_its_ingest() -> None:
    config = demo().changed(data={"annotations": MAKE})
    assert pipeline_of(config).steps == FROM_SOUND.steps
    assert pipeline_of(demo()).steps == HERE.steps
    (task,) = (task for task in FROM_SOUND.wired(FROM_SOUND.steps) if task.spec.name == "ingest")
    assert "annotations=runs/x/annotations" in arguments_of(task, config, Path("runs/x"))
    given = demo().changed(data={"annotations": "elsewhere"})
    (task,) = (task for task in HERE.wired(HERE.steps) if task.spec.name == "ingest")
    assert "annotations=elsewhere" in arguments_of(task, given, Path("runs/x"))


def test_a_step_whose_input_nobody_makes_is_refused() -> None:
    lost = StepSpec(
        name="lost",
        description="",
        work=lambda job: None,
        inputs=(Input(name="moon", kind=Kind(name="moon", description="")),),
    )
    with pytest.raises(InputError, match="pipeline p: nothing before lost makes its moon"):
        Pipeline(name="p", description="", steps=(lost,)).wired((lost,))


def all_knobs() -> list[Knob]:
    return sorted(
        {knob for step in TABLE for task in (step, *step.tasks) for knob in task.knobs}, key=lambda k: k.dotted
    )


@pytest.mark.parametrize("knob", all_knobs(), ids=lambda knob: knob.dotted)
def test_a_knob_is_described_and_goes_to_a_cluster_and_back(knob: Knob) -> None:
    assert knob.description.endswith("."), "the text under the field is its description everywhere"
    assert knob.from_parameter(knob.to_parameter(knob.default)) == knob.default
    assert demo().value(knob) is not Ellipsis


@pytest.mark.parametrize(
    "name", ["min_energy_correlation", "sentences_per_voice", "recogniser", "prompt_format", "max_unended", "threads"]
)
def test_a_knob_is_wired_by_no_file_of_the_pipelines(name: str) -> None:
    """Only a preset may name one, to set it."""
    word = re.compile(rf"\b{name}\b")
    files = [path.name for path in sorted(PACKAGES[1].rglob("*.py")) if word.search(path.read_text(encoding="utf-8"))]
    assert set(files) <= {"presets.py", "checks.py"}


def test_one_knob_stands_in_two_files() -> None:
    files = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
        if "min_energy_correlation" in path.read_text(encoding="utf-8")
    ]
    assert files == ["components/csm_components/tokenise/knobs.py", "pipelines/csm_pipelines/presets.py"]
