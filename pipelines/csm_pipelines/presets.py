"""A run is a named preset: a function that returns the whole configuration of the pipeline.

`csm run --preset demo --set train.recipe.steps=200 --set gate.max_wer=0.2` changes fields by their dotted names.

Paths are relative to the repository, where the demo's corpus, codec and base are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from csm_components.register.gate import Gate
from csm_model.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
DEMO = Path("deploy/demo")
Settings = TypeVar("Settings")
"""A frozen dataclass of settings."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model is made from."""

    corpus: str
    """Folder of sound and text."""
    codec: str
    """Codec folder; "random" makes a tiny one without training."""
    base: str | None = None
    """Bundle to begin from; None trains from nothing."""
    tokenizer: str | None = None
    """How text becomes ids: phonemes, bpe:SIZE or a tokenizer.json; None takes the base's, or phonemes without one."""
    prompt_format: str | None = None
    """How a BPE tokenizer writes a turn: sesame or miso; None for phonemes, and where the file says it."""
    license: str | None = None
    """Licence of records that name none."""
    conversations: int | None = None
    """Take only so many conversations of the corpus, evenly spread; None takes all."""
    workers: int = 0
    """Worker processes of a step; 0 is one a core."""
    min_energy_correlation: float = 0.5
    """What turns decoded again must reach; -1 lets any codec through."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train it."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The trainer's own settings."""
    nodes: str = "2x1"
    """torchrun agents x workers of each."""
    threads: int = 1
    """Compute threads of a worker."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How to judge it; what `csm_components.evaluate` takes as its settings."""

    sentences_per_voice: int = 48
    """Held-out sentences that each voice speaks, streamed from the server."""
    parent_per_voice: int = 48
    """Of these, sentences that the float parent speaks too, with the same seeds."""
    base_per_voice: int = 12
    """Of these, sentences that the base speaks too."""
    recogniser: str = "base"
    """Whisper that reads what was said: tiny or base."""
    mos: bool = True
    """Whether naturalness is scored too; it takes as long as recognition."""
    max_frames: int | None = None
    """Longest sentence in frames of 80 ms; None is the model's own bound."""
    split: str = "test"
    """Part of the corpus that is held out for it."""
    seed: int = 0
    """The n-th sentence is drawn with `seed + n`."""


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """How to release it."""

    precision: str = "int8"
    """Weights of the bundle."""
    model: str = "csm-demo"
    """Name of the registered model."""
    say: str = "Could you book a table by the window for six people on Thursday evening?"
    """A sentence that is in no training data, spoken at the end."""
    speaker: int = 1
    """The voice that says it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run."""

    preset: str
    """Name of the preset it came from."""
    data: DataConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    gate: Gate = field(default_factory=Gate)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


_RECIPE: Mapping[str, Any] = {
    "model": "demo",
    "row_length": 1536,
    "batch_packs": 2,
    "max_turns": 2,
    "depth_share": 0.4,
    "history_dropout": 0.5,
    "dropout": 0.1,
    "sampling": {"temperature": 0.5, "depth_temperature": 0.5, "guidance": 1.5},
}
"""What the base and its fine-tuning share; docs/demo.md says how it was found."""


def demo() -> RunConfig:
    """Fine-tunes the base in the repository on the demo's two voices: minutes on two cores."""
    return RunConfig(
        preset="demo",
        data=DataConfig(corpus=str(DEMO / "corpus"), codec=str(DEMO / "codec"), base=str(DEMO / "base")),
        train=TrainConfig(recipe={**_RECIPE, "steps": 250, "learning_rate": 4e-4, "warmup_steps": 40}),
    )


def demo_base() -> RunConfig:
    """Trains the demo's base from nothing, on many voices and a wider text: hours."""
    return RunConfig(
        preset="demo-base",
        data=DataConfig(corpus=str(DEMO / "base-corpus"), codec=str(DEMO / "codec")),
        train=TrainConfig(recipe={**_RECIPE, "steps": 12_000, "learning_rate": 1.5e-3, "warmup_steps": 200}),
        judge=JudgeConfig(split="validation"),
        release=ReleaseConfig(model="csm-demo-base"),
    )


def debug() -> RunConfig:
    """Every step in seconds: a random codec, a model of a few thousand weights, two sentences. It says nothing."""
    return RunConfig(
        preset="debug",
        data=DataConfig(
            corpus=str(DEMO / "corpus"), codec="random", conversations=12, workers=1, min_energy_correlation=-1.0
        ),
        train=TrainConfig(
            recipe={
                "model": "debug",
                "row_length": 512,
                "batch_packs": 4,
                "steps": 6,
                "log_every": 2,
                "validate_every": 6,
                "checkpoint_every": 2,
            }
        ),
        judge=JudgeConfig(sentences_per_voice=1, parent_per_voice=1, recogniser="tiny", mos=False, max_frames=25),
        release=ReleaseConfig(model="csm-debug"),
    )


def emotion() -> RunConfig:
    """The demo, learning most from what is spoken with emotion: turns without a tag count a quarter.

    Which turns are tagged (laughing, sad, ...) is the corpus's to say.
    """
    return _purpose("emotion", {"loss_weights": {"untagged": 0.25}})


def one_voice() -> RunConfig:
    """The demo, learning one voice: the other speakers' turns are heard as context, and nothing is asked of them."""
    return _purpose("one-voice", {"loss_weights": {"other-speakers:1": 0.0}})


def fewer_fillers() -> RunConfig:
    """The demo, not learning to say um and uh: turns with filler words are context alone."""
    return _purpose("fewer-fillers", {"loss_weights": {"filler": 0.0}})


def lora() -> RunConfig:
    """The demo by low-rank adapters, which are folded into the weights at the end."""
    return _purpose("lora", {"trainable": "lora", "lora_rank": 16, "lora_alpha": 32.0, "learning_rate": 1e-3})


def depth_only() -> RunConfig:
    """The demo, training the depth decoder alone: how it sounds changes, and what is said when does not."""
    return _purpose("depth-only", {"trainable": "depth"})


def _purpose(name: str, recipe: Mapping[str, Any]) -> RunConfig:
    """The demo with another recipe, released under a name of its own."""
    config = demo()
    return replace(
        config,
        preset=name,
        train=replace(config.train, recipe={**config.train.recipe, **recipe}),
        release=replace(config.release, model=f"csm-{name}"),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "demo-base": demo_base,
    "debug": debug,
    "emotion": emotion,
    "one-voice": one_voice,
    "fewer-fillers": fewer_fillers,
    "lora": lora,
    "depth-only": depth_only,
}
"""All presets by name."""


def preset(name: str) -> RunConfig:
    """The configuration of a preset; raises `InputError` that lists them all."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]()


def with_settings(config: Settings, settings: Iterable[str]) -> Settings:
    """Applies `key=value` settings, such as `train.recipe.steps=200`; values are read as JSON, else as text."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(f"setting {setting!r}: write it as key=value, such as gate.max_wer=0.2")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        config = _with(config, key.split("."), value, key)
    return config


def _with(node: Any, path: list[str], value: Any, key: str) -> Any:
    head, *rest = path
    if isinstance(node, Mapping):
        return {**node, head: _with(node.get(head, {}), rest, value, key) if rest else value}
    names = [each.name for each in fields(node)]
    if head not in names or (head == "preset" and isinstance(node, RunConfig)):
        raise InputError(
            f"setting {key}: there is no {head!r}; there are {', '.join(n for n in names if n != 'preset')}"
        )
    old = getattr(node, head)
    if rest:
        if not is_dataclass(old) and not isinstance(old, Mapping):
            raise InputError(f"setting {key}: {head!r} is one value and has no {rest[0]!r}")
        return replace(node, **{head: _with(old, rest, value, key)})
    return replace(node, **{head: _checked(node, head, value, key)})


def _checked(node: Any, name: str, value: Any, key: str) -> Any:
    """`value` where it fits the field's type; int fits float, and text fits whatever is written as text."""
    declared = {each.name: str(each.type) for each in fields(node)}[name]
    kinds = {kind.strip().partition("[")[0] for kind in declared.split("|")}
    if "float" in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if "str" in kinds and not isinstance(value, str) and value is not None:
        value = str(value)
    if (
        type(value).__name__ in kinds
        or (isinstance(value, str) and "Literal" in kinds)  # the class says which words there are
        or (value is None and "None" in kinds)
        or (kinds == {"Mapping"} and isinstance(value, dict))
    ):
        return value
    raise InputError(f"setting {key}={value!r}: must be {declared}")


def resolve(path: str) -> Path:
    """A path as it stands where it exists, else below the repository."""
    here = Path(path).expanduser()
    return here if here.is_absolute() or here.exists() else ROOT / here
