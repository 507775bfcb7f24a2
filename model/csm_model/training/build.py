"""The model that a training starts from, and the bundle that it ends with."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from csm_model.bundle import load_weights, read_config, read_manifest, write_bundle
from csm_model.config import CONFIGS, ModelConfig
from csm_model.errors import ArtifactError, InputError, shown
from csm_model.files import digest_of
from csm_model.manifest import precision_of
from csm_model.model import CsmModel
from csm_model.text import load_tokenizer
from csm_model.training.config import TrainingConfig
from csm_model.training.lora import add_lora, merge_lora
from csm_model.training.parallel import World, parallelise, without_wrapper
from csm_model.training.stream import TokenFolder

_DEPTH_ONLY = ("decoder.", "projection.", "audio_head")


def build_model(config: TrainingConfig, manifest: dict[str, Any], world: World) -> tuple[CsmModel, dict[str, Any]]:
    """The model to start from, and the manifest of the base ({} for none).

    Under `fsdp` only the leading process holds the weights; the others get theirs from `distribute`.

    Raises:
        ArtifactError: the base was trained on another codec or tokenizer than the tokens.
    """
    sizes, base_manifest = _sizes(config, manifest)
    sizes = with_dropout(sizes, config.dropout)
    torch.manual_seed(config.seed)
    with torch.device("cpu" if world.leads or config.strategy == "ddp" else "meta"):
        model = CsmModel(sizes)
    if not model.offsets.is_meta:
        if config.base:
            load_weights(model, Path(config.base), precision_of(base_manifest, Path(config.base)))
        if config.checkpoint:
            from csm_model.checkpoints import load_model

            loaded = load_model(Path(config.checkpoint), dtype=torch.float32)
            model.load_state_dict(loaded.state_dict(), assign=True)
    if config.trainable == "lora":
        add_lora(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets)
    elif config.trainable == "depth":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(_DEPTH_ONLY))
    return model, base_manifest


def _sizes(config: TrainingConfig, manifest: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """The sizes of the model, and the manifest of the base ({} for none)."""
    tokens = {
        "text_vocab_size": manifest["vocab_size"],
        "num_codebooks": manifest["num_codebooks"],
        "codebook_size": manifest["codebook_size"],
    }
    if config.base:
        base = Path(config.base)
        base_manifest = read_manifest(base)
        for name in ("codec_digest", "tokenizer_digest"):
            if base_manifest.get(name) != manifest[name]:
                its = shown(base_manifest.get(name))[:12]
                raise ArtifactError(
                    f"{base}: its {name} is {its}, the tokens' is {manifest[name][:12]}; "
                    "tokenise the corpus with the base's own codec and tokenizer"
                )
        return read_config(base), base_manifest
    if config.checkpoint:
        from csm_model.checkpoints import read_sizes

        sizes = read_sizes(Path(config.checkpoint))
        for name, value in tokens.items():
            if getattr(sizes, name) != value:
                raise ArtifactError(
                    f"{config.checkpoint}: its {name} is {getattr(sizes, name)}, the tokens' is {value}; "
                    "tokenise the corpus with the codec and the tokenizer that it was trained with"
                )
        return replace(sizes, text_prefix=manifest.get("text_prefix", sizes.text_prefix)), {}
    if config.model not in CONFIGS:
        raise InputError(f"model {config.model!r} is unknown; there are {', '.join(CONFIGS)}")
    sizes = CONFIGS[config.model](**tokens)
    return replace(sizes, text_prefix=manifest.get("text_prefix", sizes.text_prefix)), {}


def with_dropout(sizes: ModelConfig, dropout: float) -> ModelConfig:
    """The same sizes with another dropout."""
    return replace(
        sizes,
        backbone=replace(sizes.backbone, dropout=dropout),
        depth=replace(sizes.depth, dropout=dropout),
    )


def distribute(module: nn.Module, model: CsmModel, config: TrainingConfig, world: World) -> nn.Module:
    """Puts the module, whose model is `model`, on its device and into the hands of all processes."""
    shared = config.strategy == "fsdp" and world.size > 1
    full = model.state_dict() if shared and world.leads else {}
    if shared:
        module.to("meta")
    else:
        module.to(world.device)
    wrapped = parallelise(
        module,
        world,
        strategy=config.strategy,
        bf16=config.bf16,
        recompute=config.recompute,
        compiled=config.compile,
    )
    if shared:
        module.to_empty(device=world.device)
        model.reset_tables()
        set_model_state_dict(model, full, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    assert without_wrapper(wrapped) is module
    return wrapped


def finish(
    config: TrainingConfig,
    state: dict[str, Tensor],
    *,
    sizes: ModelConfig,
    tokens: TokenFolder,
    replay: TokenFolder | None,
    base_manifest: dict[str, Any],
    step: int,
) -> dict[str, Any]:
    """Writes the bundle of a trained state, adapters folded in; returns its manifest."""
    manifest = tokens.manifest
    replayed = replay.manifest if replay else {}
    with torch.device("meta"):
        model = CsmModel(sizes)
        if config.trainable == "lora":
            add_lora(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets)
    model.load_state_dict(state, assign=True)
    merge_lora(model)
    places = ("tokens", "out", "base", "checkpoint", "replay", "mirror", "cache_dir", "cache_gb")
    unused = () if replay else ("replay_share",)
    recipe = {name: value for name, value in asdict(config).items() if name not in (*places, *unused)}
    info = {
        "dataset_digest": manifest["dataset_digest"],
        "tokens_digest": manifest["digest"],
        "replay_digest": replayed.get("digest"),
        "parent_digest": base_manifest.get("digest"),
        **({"use": manifest["use"]} if "use" in manifest else {}),
        "speakers": {
            **base_manifest.get("speakers", {}),
            **replayed.get("speakers", {}),
            **manifest.get("speakers", {}),
        },
        "sampling": config.sampling or base_manifest.get("sampling", {}),
        "recipe": recipe,
        "recipe_digest": digest_of(recipe),
        "steps": step,
    }
    return write_bundle(
        Path(config.out) / "final",
        model=model,
        tokenizer=load_tokenizer(tokens.local / "tokenizer.json"),
        codec_folder=tokens.local / "codec",
        precision=config.final_precision,
        info=info,
    )
