"""Whether a recipe fits what it is trained from and by: base, codec, processes, and the memory of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from csm_components.train.nodes import parse_nodes
from csm_model.config import CONFIGS, ModelConfig
from csm_model.errors import ArtifactError, CsmError, InputError
from csm_model.files import read_json
from csm_model.manifest import precision_of, read_manifest
from csm_model.planner.flops import parameter_count
from csm_model.training.config import TrainingConfig, linear_layers
from csm_pipelines.config import RunConfig

_ROUNDED = ("int8", "int4")
_FLOATS_A_WEIGHT = 4
"""What a training keeps in float32 of each weight: itself, its gradient, and AdamW's two moments."""


def misfits(config: RunConfig, base: Path | None, codec: Path | None, *, here: bool) -> Iterator[CsmError]:
    """What is wrong with a recipe beside what it is trained from.

    Args:
        config: the run; its recipe's fields keep their rules.
        base: folder of the base; None where there is none, or it is in the storage.
        codec: folder of the codec, likewise.
        here: whether the training runs on this machine.
    """
    recipe = TrainingConfig(tokens="", out="", **config.train.recipe)
    agents, each = parse_nodes(config.train.nodes)
    try:
        recipe.check_processes(agents * each)
    except InputError as error:
        yield InputError(f"train.recipe.{error}; processes are train.nodes {config.train.nodes}")
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
    if here and recipe.trainable == "all":
        yield from _memory_misfits(recipe, sizes, agents * each)


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


def _memory_misfits(recipe: TrainingConfig, sizes: ModelConfig, processes: int) -> Iterator[CsmError]:
    """Weights, gradients and moments alone are a lower bound; `csm plan` knows the rest."""
    copies = 1 if recipe.strategy == "fsdp" else processes
    needed = 4 * _FLOATS_A_WEIGHT * parameter_count(sizes) * copies
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        yield InputError(
            f"train.recipe.model {recipe.model}: weights, gradients and AdamW of {processes} processes take "
            f"{needed / 1e9:,.0f} GB, this machine has {there / 1e9:,.0f} GB; take smaller sizes, or fewer processes "
            "by train.nodes"
        )
