"""Whether a recipe fits what it is trained from and by: base, codec, processes, and memory, here or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from csm_components.targets import TrainTarget
from csm_components.train.nodes import parse_nodes
from csm_model.config import CONFIGS, ModelConfig
from csm_model.errors import ArtifactError, CsmError, InputError
from csm_model.files import read_json
from csm_model.manifest import precision_of, read_manifest
from csm_model.planner.flops import parameter_count
from csm_model.planner.hardware import GPUS, Gpu
from csm_model.planner.job import SpeechShape, TrainingJob
from csm_model.planner.plan import Plan, plan, until_it_fits, why
from csm_model.planner.timing import Assumptions
from csm_model.training.config import TrainingConfig, linear_layers
from csm_pipelines.config import RunConfig

_ROUNDED = ("int8", "int4")
_FLOATS_A_WEIGHT = 4
"""What a training keeps in float32 of each weight: itself, its gradient, and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the processes of a training have: all of them where they share this machine, else those of one agent."""

    of: str
    """Whose it is: this machine's, or an agent's pod's, with the setting that says so."""
    memory: float | None = None
    """Bytes; None where GPUs hold the model."""
    all_agents: bool = False
    """Whether the agents of a job share it."""
    gpus: int | None = None
    """GPUs; None where processors compute."""
    gpu: Gpu | None = None
    """Their model, where it is known."""


def this_machine() -> Room:
    """This machine, whose processors compute: all agents of a run share it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Room(of="this machine", memory=memory, all_agents=True)


def pod_of(target: TrainTarget) -> Room | None:
    """A pod of a cluster's agents; None where the step train trains beside itself."""
    if target.backend == "local":
        return None
    if target.gpus:
        gpu = GPUS[target.gpu] if target.gpu else None
        return Room(of="an agent's pod (train.gpus of the profile)", gpus=target.gpus, gpu=gpu)
    memory = target.memory_mb * 2**20
    return Room(of="an agent's pod (train.memory_mb of the profile)", memory=memory)


def misfits(config: RunConfig, base: Path | None, codec: Path | None, *, room: Room | None) -> Iterator[CsmError]:
    """What is wrong with a recipe beside what it is trained from.

    Args:
        config: the run; its recipe's fields keep their rules.
        base: folder of the base; None where there is none, or it is in the storage.
        codec: folder of the codec, likewise.
        room: what an agent has; None where nothing is known of it.
    """
    recipe = TrainingConfig(tokens="", out="", **config.train.recipe)
    agents, each = parse_nodes(config.train.nodes)
    try:
        recipe.check_processes(agents * each)
    except InputError as error:
        yield InputError(f"train.recipe.{error}; processes are train.nodes {config.train.nodes}")
    if room is not None and room.gpus is not None and each > room.gpus:
        yield InputError(f"train.nodes {config.train.nodes}: {each} processes an agent, {room.of} has {room.gpus} GPUs")
    if recipe.checkpoint and config.data.base:
        yield InputError(
            f"train.recipe.checkpoint {recipe.checkpoint} and data.base {config.data.base}: begin from one of them"
        )
        return
    if base is not None:
        yield from _base_misfits(base, codec)
    try:
        sizes = _sizes(recipe, base, known=base is not None or not config.data.base)
    except CsmError as error:
        yield error
        return
    if sizes is None:
        return
    if recipe.row_length > sizes.max_rows:
        yield InputError(f"train.recipe.row_length {recipe.row_length}: the model holds {sizes.max_rows} rows")
    if recipe.trainable == "lora":
        yield from _targets_misfits(recipe, sizes)
    if room is not None and recipe.trainable == "all":
        yield from _memory_misfits(recipe, sizes, room, config.train.nodes)


def _base_misfits(base: Path, codec: Path | None) -> Iterator[CsmError]:
    manifest = read_manifest(base, verify=False)
    if precision_of(manifest, base) in _ROUNDED:
        yield ArtifactError(
            f"data.base {base}: its weights are {manifest['precision']}, which is for speaking only; take its float "
            "parent, the folder train/final of a run"
        )
    if codec is not None:
        digest = read_json(codec / "codec.json").get("digest")
        if digest and manifest.get("codec_digest") not in (None, digest):
            yield ArtifactError(
                f"data.codec {codec}: its digest is {digest[:12]}, the base speaks the codes of "
                f"{str(manifest['codec_digest'])[:12]}; take the base's own codec, or no base (data.base=null)"
            )


def _sizes(recipe: TrainingConfig, base: Path | None, *, known: bool) -> ModelConfig | None:
    """Sizes of the model that is trained; None where they are in the storage."""
    if base is not None:
        return ModelConfig.from_json(read_json(base / "config.json"), where=str(base / "config.json"))
    if not known:
        return None
    if recipe.checkpoint:
        from csm_model.checkpoints import read_sizes

        return read_sizes(Path(recipe.checkpoint))
    return CONFIGS[recipe.model](text_vocab_size=1, num_codebooks=2, codebook_size=1)


def _targets_misfits(recipe: TrainingConfig, sizes: ModelConfig) -> Iterator[CsmError]:
    layers = linear_layers(sizes)
    if not any(fnmatch(layer, pattern) for layer in layers for pattern in recipe.lora_targets):
        yield InputError(
            f"train.recipe.lora_targets {list(recipe.lora_targets)}: no linear layer has such a name; they are like "
            f"{layers[0]}"
        )


def _memory_misfits(recipe: TrainingConfig, sizes: ModelConfig, room: Room, nodes: str) -> Iterator[CsmError]:
    agents, each = parse_nodes(nodes)
    if room.gpu is not None:
        job = TrainingJob.of(recipe, sizes, gpus=agents * each, speech=SpeechShape())
        found = plan(job, room.gpu, hours=1.0, assumptions=Assumptions())
        if not found.fits:
            yield InputError(f"train.recipe on {agents * each} x {room.gpu.name}: {why(found)}; {_cure(found)}")
    if room.memory is not None:
        here = agents * each if room.all_agents else each
        needed = _least_bytes(recipe, sizes, here, agents * each)
        if needed > room.memory:
            yield InputError(
                f"train.recipe.model {recipe.model}: weights, gradients and AdamW of {here} processes take "
                f"{needed / 1e9:,.0f} GB, {room.of} has {room.memory / 1e9:,.0f} GB; take smaller sizes, or fewer "
                "processes by train.nodes"
            )


def _least_bytes(recipe: TrainingConfig, sizes: ModelConfig, here: int, processes: int) -> float:
    """Weights, gradients and moments of those processes that share a memory alone; activations come on top."""
    copies = here / processes if recipe.strategy == "fsdp" else here
    return 4.0 * _FLOATS_A_WEIGHT * parameter_count(sizes) * copies


def _cure(found: Plan) -> str:
    """What would make a plan fit; whatever the recipe says may change."""
    tried, cured = until_it_fits(found)
    if not cured:
        return "nothing that was tried fits: take smaller sizes (train.recipe.model), or a GPU with more memory"
    return "take " + " and ".join(remedy.change for remedy in tried)
