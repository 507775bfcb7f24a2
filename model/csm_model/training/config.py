"""Settings of one training run; a JSON file of them is what `python -m csm_model.training.main` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from csm_model.config import CONFIGS, ModelConfig
from csm_model.errors import ArtifactError, InputError, quoted
from csm_model.files import read_json, write_json
from csm_model.inference.sampling import Sampling
from csm_model.rules import LISTED, broken_rules, by, nearest, refuse
from csm_model.training.selectors import check_weights

TARGETS = ("*.q_proj", "*.k_proj", "*.v_proj", "*.output_proj", "*.w1", "*.w2", "*.w3")
"""Every linear layer of the two transformers."""

_MOST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=_MOST)]
"""At least one."""
Number = Annotated[int, Field(ge=0, le=_MOST)]
"""May be 0."""
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def check_model(name: str) -> None:
    """Raises `InputError` for sizes that there are none of."""
    if name not in CONFIGS:
        raise InputError(f"model {name!r} is unknown; there are {', '.join(CONFIGS)}{nearest(name, CONFIGS)}")


def check_sampling(values: Mapping[str, Any]) -> None:
    """Raises `InputError` for a sampling that a bundle cannot recommend."""
    refuse(broken_rules(Sampling, values))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What to train, from what, and how. Paths are strings so that the whole is JSON."""

    tokens: str
    """Folder of token shards, or where it is stored: s3://bucket/prefix."""
    out: str
    """Folder for metrics, checkpoints and the final bundle."""
    model: Annotated[str, by(check_model)] = "demo"
    """Name of the sizes (`csm_model.config.CONFIGS`); ignored when there is a `base` or a `checkpoint`."""
    base: str | None = None
    """Bundle to fine-tune; None trains from scratch."""
    checkpoint: str | None = None
    """Weights to fine-tune that are no bundle: in Sesame's, Hugging Face's or this program's layout."""
    replay: str | None = None
    """Folder or address of further token shards, of the same codec and tokenizer, that are learnt beside `tokens`: what
    the base could is then kept. None replays nothing."""
    replay_share: Share = 0.3
    """Share of the packs that come from the `replay`."""
    trainable: Literal["all", "depth", "lora"] = "all"
    """What is trained: everything, the depth decoder with its heads, or low-rank adapters beside frozen weights."""
    lora_rank: Count = 16
    """Rank of the adapters."""
    lora_alpha: Positive = 32.0
    """Adapters count `lora_alpha / lora_rank` times."""
    lora_targets: Annotated[tuple[str, ...], LISTED, Field(min_length=1)] = TARGETS
    """Names of the linear layers that get one, as patterns."""
    steps: Count = 1000
    """Optimiser steps."""
    row_length: Count = 2048
    """Rows (text and audio) of a pack: of one item of a batch."""
    batch_packs: Count = 8
    """Packs of an optimiser step, over all processes."""
    micro_packs: Count = 1
    """Packs that a process handles at once."""
    max_turns: Number = 0
    """A document is 1 to this many consecutive turns of a conversation; 0 leaves conversations whole."""
    shuffle_shards: Count = 64
    """Shards whose turns are mixed with one another; a process holds so many open."""
    cache_dir: str | None = None
    """Folder on a local disk for shards that come from a storage; all processes of a machine share it."""
    cache_gb: Weight = 50.0
    """Gigabytes that it may hold."""
    learning_rate: Positive = 1.5e-3
    """Peak; reached after the warm-up, then a cosine down to a twentieth."""
    warmup_steps: Number = 100
    """Steps of linear warm-up."""
    weight_decay: Weight = 0.05
    """Of the matrices; vectors and embeddings have none."""
    clip_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    depth_share: Share = 0.0625
    """Share of the audio frames, drawn anew every epoch, on which the depth decoder is trained (CSM: 1/16)."""
    depth_weight: Weight = 1.0
    """Weight of the mean depth loss beside the mean loss of codebook 0."""
    text_weight: Weight = 0.0
    """Weight of the mean loss of the text ids; CSM has none."""
    loss_weights: Annotated[dict[str, Weight], by(check_weights)] = field(default_factory=dict)
    """What turns count in the loss, by selector (`csm_model.training.selectors`), such as {"speaker:1": 0.0}."""
    history_dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Mean share of past audio frames hidden from the backbone; a document's own is uniform from 0 to twice that."""
    text_dropout: Share = 0.1
    """Share of documents that do not see their text, so that guidance has something to compare with."""
    dropout: Annotated[float, Field(ge=0, le=0.99)] = 0.0
    """Inside the transformer blocks."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How processes share the work: whole models with averaged gradients, or FSDP2's shares of everything."""
    bf16: bool = False
    """Matrix products in bfloat16, the rest in float32; slower on processors without AVX512-BF16 or AMX."""
    recompute: bool = False
    """Activation checkpointing: those of a block are computed again in the backward pass."""
    compile: bool = False
    """Blocks go through torch.compile, but for the attention of packed documents, whose lengths change."""
    spike_factor: Weight = 20.0
    """A loss so many robust deviations above the recent ones skips the step; 0 lets every finite loss pass."""
    skip_limit: Number = 10
    """More skipped steps in a row end the training."""
    peak_tflops: Positive | None = None
    """Of one device, for the share of it that is used (MFU); None leaves that out."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of weights, order and dropouts."""
    log_every: Count = 10
    """Steps between lines of `metrics.jsonl`."""
    validate_every: Count = 200
    """Steps between validations."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Older ones are removed, but for the one with the lowest validation loss."""
    final_from: Literal["last", "best"] = "last"
    """Which weights the bundle gets: those of the last step, or of the checkpoint with the lowest validation loss."""
    mirror: str | None = None
    """Where copies of the checkpoints go: a folder or s3://bucket/prefix; a machine that has none begins from there."""
    disks: Literal["shared", "own"] = "shared"
    """Whether all processes see `out`, or each machine has a disk of its own: then rank 0 writes and reads whole
    checkpoints, and gathers and hands out what they hold."""
    sampling: Annotated[dict[str, Any] | None, by(check_sampling)] = None
    """Sampling that the bundle shall recommend."""
    final_precision: Literal["fp32", "fp16"] = "fp32"
    """Of the bundle written at the end."""

    def __post_init__(self) -> None:
        if isinstance(self.lora_targets, list):
            object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        refuse(broken_settings({each.name: getattr(self, each.name) for each in fields(self)}))

    def check_processes(self, processes: int) -> None:
        """Raises `InputError` where the packs of a step cannot be shared out evenly."""
        check_processes(processes, batch_packs=self.batch_packs, micro_packs=self.micro_packs)

    def save(self, path: Path) -> None:
        """Writes the settings as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Reads settings; `InputError` says all that is wrong with them, an unknown name with the nearest known."""
        values = read_json(path)
        if not isinstance(values, dict):
            raise ArtifactError(f"{path} holds {quoted(values)}: must be an object of settings")
        if missing := [name for name in ("tokens", "out") if name not in values]:
            raise InputError(f"{path}: {missing[0]}: is missing")
        try:
            refuse(broken_settings(values))
            return cls(**values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def broken_settings(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with settings of a training, a line each; those that are not there have their defaults."""
    lines = broken_rules(TrainingConfig, values)
    if values.get("base") and values.get("checkpoint"):
        lines.append(f"base {values['base']} and checkpoint {values['checkpoint']}: begin from one of them")
    return lines


def linear_layers(sizes: ModelConfig) -> list[str]:
    """Names of a model's linear layers, which `lora_targets` are patterns of."""
    within = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.output_proj", "mlp.w1", "mlp.w2", "mlp.w3")
    stacks = {"backbone": sizes.backbone, "decoder": sizes.depth}
    blocks = [f"{name}.layers.{layer}" for name, stack in stacks.items() for layer in range(stack.layers)]
    return [*(f"{block}.{layer}" for block in blocks for layer in within), "projection", "codebook0_head"]


def check_processes(processes: int, *, batch_packs: int, micro_packs: int) -> None:
    """Raises `InputError` where the packs of a step cannot be shared out evenly over processes."""
    at_once = processes * micro_packs
    if batch_packs % at_once:
        raise InputError(
            f"batch_packs {batch_packs}: must be a multiple of processes {processes} x micro_packs {micro_packs}; "
            f"take {max(1, round(batch_packs / at_once)) * at_once}"
        )
