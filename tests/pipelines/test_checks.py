"""All that is wrong with a run is said before its first step: every field, broken in every way that its type allows."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from csm_cli.commands.plan import plan
from csm_cli.commands.scale_sim import scale_sim
from csm_cli.commands.serve import serve
from csm_components.evaluate.context import judge_context
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.evaluate.suite import speak_suite
from csm_components.export.spec import ExportSettings
from csm_components.export.step import export
from csm_components.spec import Knob
from csm_components.targets import TrainTarget
from csm_components.train.app import LaunchSpec
from csm_components.train.knobs import TrainSettings
from csm_model.errors import ArtifactError, InputError
from csm_model.files import digest_of, read_json, write_json
from csm_model.planner.job import SpeechShape
from csm_model.planner.timing import Assumptions
from csm_model.training.config import TrainingConfig
from csm_pipelines.checks import check_config
from csm_pipelines.config import RunConfig, sections
from csm_pipelines.kubeflow import parameters
from csm_pipelines.pipelines import PIPELINES
from csm_pipelines.presets import PRESETS, ROOT, preset
from csm_pipelines.profile import RunLimits
from csm_scaling.simulate import Conditions
from csm_serving.settings import ServingSettings

DECIDED = ("tokens", "out", "base", "replay")
"""What a recipe does not say."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A field with a value that it must not have."""

    field: str
    value: Any
    how: str

    @property
    def setting(self) -> str:
        """As `--set` takes it; text as JSON, so that it stays text."""
        return f"{self.field}={json.dumps(self.value)}"


def parts(annotation: Any) -> tuple[set[Any], list[Any]]:
    """The plain types that a field takes, and its rules."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *rules = get_args(annotation)
        kinds, more = parts(inner)
        return kinds, more + [
            each for rule in rules for each in (rule.metadata if isinstance(rule, FieldInfo) else [rule])
        ]
    if origin in (Union, UnionType):
        found = [parts(each) for each in get_args(annotation)]
        return {kind for kinds, _ in found for kind in kinds}, [rule for _, rules in found for rule in rules]
    return {origin or annotation}, []


def run_fields() -> Iterator[tuple[str, Any]]:
    """Every field of a run's configuration by its `--set` path, with its annotation."""
    for section, kind in sections().items():
        for name, info in kind.model_fields.items():
            yield f"{section}.{name}", Annotated[info.annotation, *info.metadata, None]
    hints = get_type_hints(TrainingConfig, include_extras=True)
    for each in fields(TrainingConfig):
        if each.name not in DECIDED:
            yield f"train.recipe.{each.name}", hints[each.name]


def mutations() -> Iterator[Mutation]:
    """Every field, with each wrong value that its type and its rules give."""
    wrong_types: dict[str, Any] = {
        "text": "x y", "text of a number": "3", "a number": 2.5, "true": True, "a list": [[]], "an object": {"a": {}},
        "an empty object": {}, "an empty list": [], "text of a word": "false",
    }  # fmt: skip
    takes: dict[Any, set[str]] = {
        str: {"text", "text of a number", "text of a word"},
        float: {"a number"},
        bool: {"true"},
        dict: {"an empty object"},
        Mapping: {"an empty object"},
        tuple: {"an empty list"},
    }
    for field, annotation in run_fields():
        kinds, rules = parts(annotation)
        free = {how for kind in kinds for how in takes.get(kind, ())}
        if str in kinds and not field.startswith("train.recipe."):
            free |= {"a number", "true"}  # --set gives text as it was written
        if field == "train.recipe.lora_targets":
            free.discard("an empty list")
        for how, value in wrong_types.items():
            if how not in free:
                yield Mutation(field=field, value=value, how=how)
        if NoneType not in kinds:
            yield Mutation(field=field, value=None, how="null")
        if Literal in kinds:
            yield Mutation(field=field, value="no such word", how="no such word")
        for value in (float("nan"), float("inf"), float("-inf")) if kinds & {int, float} else ():
            yield Mutation(field=field, value=value, how=str(value))
        for rule in rules:
            match rule:
                case Ge(ge=bound):
                    yield Mutation(field=field, value=bound - 1, how="below")
                case Gt(gt=bound):
                    yield Mutation(field=field, value=bound, how="at the bound")
                case Le(le=bound):
                    yield Mutation(field=field, value=bound + 1, how="above")
                case Lt(lt=bound):
                    yield Mutation(field=field, value=bound, how="at the bound")
        *sections_, last = field.split(".")
        yield Mutation(field=".".join([*sections_, f"{last}x"]), value=1, how="misspelt")


CHOSEN = (
    ("data.annotations", "nowhere"), ("annotate.recogniser", "large"),
    ("data.corpus", "nowhere"), ("data.codec", "nowhere"), ("data.base", "nowhere"), ("data.replay", "nowhere"),
    ("data.tokenizer", "nowhere.json"), ("data.tokenizer", "bpe:none"), ("data.prompt_format", "plain"),
    ("data.license", "CC-BY-9.0"), ("data.corpus", "s3://Bucket"), ("release.dialogue", "nowhere.txt"),
    ("release.model", "a/b"), ("release.model", "models:/x"), ("release.model", "-x"), ("release.model", "x" * 64),
    ("release.model", ""), ("release.say", "..."), ("train.nodes", "2"), ("train.nodes", "0x1"),
    ("train.recipe.model", "csm-9b"), ("train.recipe.row_length", 100_000), ("train.recipe.batch_packs", 3),
    ("train.recipe.micro_packs", 3), ("train.recipe.mirror", "http://mirror"), ("train.recipe.checkpoint", "nowhere"),
    ("train.recipe.model", "csm-8b"), ("train.recipe.loss_weights", {"speaker:ann": 1.0}),
    ("train.recipe.loss_weights", {"filler": -1.0}), ("train.recipe.loss_weights", {"fillers": 1.0}),
    ("train.recipe.sampling", {"temperature": 9}), ("train.recipe.sampling", {"temperatur": 0.5}),
    ("train.recipe.sampling", {"top_k": 2.5}), ("train.recipe.tokens", "x"), ("train.recipe.base", "x"),
)  # fmt: skip
"""Values of the right type that name nothing, or do not fit the rest."""


def refusal(config: RunConfig, *settings: str) -> str:
    """What the check says of settings, which must be wrong."""
    with pytest.raises(InputError) as raised:
        check_config(config, settings)
    return str(raised.value)


def test_every_field_broken_in_every_way_is_refused_by_its_name() -> None:
    tried = [*mutations(), *(Mutation(field=field, value=value, how="chosen") for field, value in CHOSEN)]
    assert len(tried) >= 400
    assert {each.field for each in tried if each.how != "misspelt"} >= {field for field, _ in run_fields()}
    config = preset("debug")
    for each in tried:
        said = refusal(config, each.setting)
        last = each.field.rpartition(".")[2]
        assert last in said, f"{each.setting}: {said}"
        assert "\n" not in said, f"{each.setting}: {said}"
        if each.how not in ("misspelt", "chosen"):
            assert each.field in said, f"{each.setting}: {said}"


def test_a_misspelt_field_is_told_the_nearest() -> None:
    config = preset("debug")
    for field, _ in run_fields():
        *before, last = field.split(".")
        if len(last) > 3:
            said = refusal(config, f"{'.'.join([*before, last[:-2] + last[-1]])}=1")
            assert f"did you mean {field.removeprefix('train.recipe.')}?" in said or f"did you mean {last}?" in said


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = ("train.recipe.steps=abc", "train.recipe.seed=-1", "gate.max_wer=NaN", "judge.split=tset", "data.base=no")
    said = refusal(preset("debug"), *wrong)
    for setting in wrong:
        assert setting.partition("=")[0] in said


def test_settings_that_are_right_are_taken_as_they_are_written() -> None:
    config = check_config(
        preset("debug"),
        ["train.recipe.learning_rate=1", 'train.recipe.lora_targets=["*.w1"]', "release.say=1e5", "release.model=007"],
    )
    assert dict(config.train.recipe) == {
        **preset("debug").train.recipe, "learning_rate": 1, "lora_targets": ["*.w1"],
    }  # fmt: skip
    assert isinstance(config.train.recipe["learning_rate"], int)
    assert (config.release.say, config.release.model) == ("1e5", "007")


def test_the_canonical_form_of_a_recipe_is_what_was_written() -> None:
    """Reuse keys and names of runs are made of it."""
    recipe = {"steps": 6, "learning_rate": 1, "dropout": 0, "loss_weights": {"untagged": 1}, "lora_targets": ["*.w1"]}
    config = preset("debug").changed(train={"recipe": recipe})
    assert digest_of(config.to_json()["train"]["recipe"]) == digest_of(recipe)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"demo-base"}))
def test_presets_pass(name: str) -> None:
    check_config(preset(name))


def test_a_base_of_another_codec_or_of_rounded_weights_is_refused(tmp_path: Path) -> None:
    codec, base = tmp_path / "codec", tmp_path / "base"
    codec.mkdir()
    write_json(codec / "codec.json", {"digest": "abc"})
    own = ROOT / "deploy" / "demo" / "base"
    shutil.copytree(own, base)
    write_json(base / "manifest.json", read_json(own / "manifest.json") | {"precision": "int8"})
    config = preset("demo").changed(data={"replay": None})
    with pytest.raises(ArtifactError, match="the base speaks the codes of"):
        check_config(config, [f"data.codec={codec}"])
    with pytest.raises(ArtifactError, match="weights are int8, which is for speaking only"):
        check_config(config, [f"data.base={base}"])


def test_knobs_of_a_run_know_their_rules() -> None:
    for section, kind in sections().items():
        for name, info in kind.model_fields.items():
            if not info.is_required():
                default = info.get_default(call_default_factory=True)
                assert Knob(owner=kind, name=name).problems(default) == [], section


def test_a_default_that_stands_in_several_places_is_the_same() -> None:
    """Functions that do a step's work, options of commands and settings give one knob one default."""
    speech, assumed, around, served = SpeechShape(), Assumptions(), Conditions(), ServingSettings()
    given = [
        (export, {"precision": ExportSettings().precision}),
        (LaunchSpec, {"nodes": TrainSettings().nodes, "threads": TrainSettings().threads}),
        (
            speak_suite,
            {name: getattr(EvaluateSettings(), name) for name in ("recogniser", "mos", "seed", "max_frames")},
        ),
        (judge_context, {name: getattr(EvaluateSettings(), name) for name in ("split", "seed", "max_frames")}),
        (plan, {n: getattr(speech, n) for n in ("turn_seconds", "ids_per_second", "document_turns")}),
        (plan, {name: getattr(assumed, name) for name in ("mfu", "link_share", "reserve_gb", "gpus_per_node")}),
        (scale_sim, {"wait": around.wait_s, "balancer": around.balancer, "first_audio": around.first_audio_s}),
    ]
    for function, defaults in given:
        own = inspect.signature(function).parameters
        assert {name: own[name].default for name in defaults} == defaults, function
    shown = get_type_hints(serve, include_extras=True)
    for name in ("grpc_port", "http_port", "metrics_port", "slots", "queue"):
        assert get_args(shown[name])[1].show_default == str(getattr(served, name)), name
    assert parameters(PIPELINES["training"])["shards"][1] == RunLimits().shards


@pytest.mark.parametrize(
    ("pod", "settings", "said"),
    [
        (
            {"gpus": 4},
            ["train.nodes=2x8"],
            "an agent's pod (train.gpus of the profile) has 4 GPUs",
        ),
        ({"gpus": 8, "gpu": "l4"}, ["train.nodes=1x8", "train.recipe.model=csm-8b"], "8 x l4"),
        ({"memory_mb": 4096}, ["train.nodes=4x1", "train.recipe.model=csm-1b"], "train.memory_mb of the profile"),
        ({"memory_mb": 16384}, ["train.nodes=1x2", "train.recipe.model=csm-1b"], "of 2 processes"),
    ],
)
def test_a_training_that_a_cluster_cannot_hold_is_refused_before_it_is_sent(
    pod: dict[str, Any], settings: list[str], said: str
) -> None:
    target = TrainTarget(backend="volcano", image="train@sha256:" + "0" * 64, **pod)
    base = ["data.base=null", "data.replay=null", "train.recipe.batch_packs=32"]
    with pytest.raises(InputError, match=re.escape(said)):
        check_config(preset("demo"), [*base, *settings], target=target)


@pytest.mark.parametrize(
    ("pod", "settings"),
    [
        ({"gpus": 8, "gpu": "h100"}, ["train.nodes=1x8", "train.recipe.model=csm-1b", "train.recipe.strategy=fsdp"]),
        ({"memory_mb": 32768}, ["train.nodes=4x1", "train.recipe.model=csm-1b"]),
        ({"memory_mb": 16384}, ["train.nodes=2x1", "train.recipe.model=csm-1b", "train.recipe.strategy=fsdp"]),
    ],
)
def test_a_training_that_a_cluster_can_hold_is_sent(pod: dict[str, Any], settings: list[str]) -> None:
    base = ["data.base=null", "data.replay=null", "train.recipe.batch_packs=32", "train.recipe.bf16=true"]
    check_config(preset("demo"), [*base, *settings], target=TrainTarget(backend="volcano", **pod))


def test_a_policy_is_read_and_judges_the_licence_before_anything_runs(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[licenses]\nMIT = ["train"]\n')
    settings = [f"data.policy={policy}"]
    assert check_config(preset("debug"), settings).data.policy == str(policy)
    line = refusal(preset("debug"), *settings, "data.license=CC-BY-4.0")
    assert "data.policy" in line or "data.license" in line
    assert "license 'CC-BY-4.0' is not one of MIT" in line
    policy.write_text("[licences]\n")
    assert "licences: there is no such section; did you mean licenses?" in refusal(preset("debug"), *settings)
    assert "no such policy" in refusal(preset("debug"), "data.policy=nowhere.toml")
