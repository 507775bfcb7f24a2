"""A run is a named preset: a function that returns the whole configuration of the pipeline.

`csm run --preset demo --set train.recipe.steps=200 --set gate.max_wer=0.2` changes fields by their dotted names.

Paths are relative to the repository, where the demo's corpus, codec and base are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from csm_model.errors import InputError
from csm_pipelines.config import RunConfig, run_config

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
DEMO = Path("deploy/demo")

DIALOGUE = str(DEMO / "dialogue.txt")
"""What the demo's voices say to each other at the end of a run."""

_RECIPE: Mapping[str, Any] = {
    "model": "demo",
    "row_length": 1536,
    "batch_packs": 2,
    "max_turns": 2,
    "depth_share": 0.4,
    "history_dropout": 0.5,
    "dropout": 0.1,
    "sampling": {
        "temperature": 0.5,
        "depth_temperature": 0.5,
        "guidance": 1.5,
        "depth_guidance": 2.0,
        "depth_mean": 3,
    },
}
"""What the base and its fine-tuning share; docs/demo.md says how it was found."""


def demo() -> RunConfig:
    """Fine-tunes the base in the repository on the demo's two voices: minutes on two cores."""
    return run_config(
        "demo",
        data={
            "corpus": str(DEMO / "corpus"),
            "codec": str(DEMO / "codec"),
            "base": str(DEMO / "base"),
            "replay": str(DEMO / "replay"),
        },
        train={"recipe": {**_RECIPE, "steps": 360, "learning_rate": 4e-4, "warmup_steps": 40}},
        release={"model": "csm-demo", "dialogue": DIALOGUE},
    )


def demo_base() -> RunConfig:
    """Trains the demo's base from nothing, on many voices and a wider text: hours."""
    return run_config(
        "demo-base",
        data={"corpus": str(DEMO / "base-corpus"), "codec": str(DEMO / "codec")},
        train={"recipe": {**_RECIPE, "steps": 12_000, "learning_rate": 1.5e-3, "warmup_steps": 200}},
        judge={"split": "validation"},
        release={"model": "csm-demo-base"},
    )


def debug() -> RunConfig:
    """Every step in seconds: a random codec, a model of a few thousand weights, two sentences. It says nothing."""
    return run_config(
        "debug",
        data={
            "corpus": str(DEMO / "corpus"),
            "codec": "random",
            "conversations": 12,
            "workers": 1,
            "min_energy_correlation": -1.0,
            "heard_turns": 0,
        },
        train={
            "recipe": {
                "model": "debug",
                "row_length": 512,
                "batch_packs": 4,
                "steps": 6,
                "log_every": 2,
                "validate_every": 6,
                "checkpoint_every": 2,
            }
        },
        annotate={"recogniser": "tiny"},
        judge={
            "sentences_per_voice": 1,
            "parent_per_voice": 1,
            "recogniser": "tiny",
            "mos": False,
            "max_frames": 25,
        },
        release={"model": "csm-debug", "dialogue": DIALOGUE},
    )


def emotion() -> RunConfig:
    """The demo, learning most from what is spoken with emotion: turns without a tag count a quarter.

    Which turns are tagged (laughing, sad, ...) is the corpus's to say.
    """
    return _purpose("emotion", {"loss_weights": {"untagged": 0.25}})


def one_voice() -> RunConfig:
    """The demo, learning one voice: the other speakers' turns are heard as context, and nothing is asked of them."""
    config = _purpose("one-voice", {"loss_weights": {"other-speakers:1": 0.0}})
    return config.changed(data={"replay": None})  # its voices are other speakers


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
    return config.changed(
        preset=name,
        train={"recipe": {**config.train.recipe, **recipe}},
        release={"model": f"csm-{name}"},
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


def resolve(path: str) -> Path:
    """A path as it stands where it exists, else below the repository."""
    here = Path(path).expanduser()
    return here if here.is_absolute() or here.exists() else ROOT / here
