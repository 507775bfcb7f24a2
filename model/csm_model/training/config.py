"""Settings of one training run; a JSON file of them is what `python -m csm_model.training.main` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from csm_model.errors import InputError
from csm_model.files import read_json, write_json
from csm_model.training.lora import TARGETS
from csm_model.training.selectors import check_weights

_CHOICES = {
    "trainable": ("all", "depth", "lora"),
    "strategy": ("ddp", "fsdp"),
    "disks": ("shared", "own"),
    "final_from": ("last", "best"),
    "final_precision": ("fp32", "fp16"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What to train, from what, and how. Paths are strings so that the whole is JSON."""

    tokens: str
    """Folder of token shards, or where it is stored: s3://bucket/prefix."""
    out: str
    """Folder for metrics, checkpoints and the final bundle."""
    model: str = "demo"
    """Name of the sizes (`csm_model.config.CONFIGS`); ignored when there is a `base` or a `checkpoint`."""
    base: str | None = None
    """Bundle to fine-tune; None trains from scratch."""
    checkpoint: str | None = None
    """Weights to fine-tune that are no bundle: in Sesame's, Hugging Face's or this program's layout."""
    replay: str | None = None
    """Folder or address of further token shards, of the same codec and tokenizer, that are learnt beside `tokens`: what
    the base could is then kept. None replays nothing."""
    replay_share: float = 0.3
    """Share of the packs that come from the `replay`."""
    trainable: Literal["all", "depth", "lora"] = "all"
    """What is trained: everything, the depth decoder with its heads, or low-rank adapters beside frozen weights."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float = 32.0
    """Adapters count `lora_alpha / lora_rank` times."""
    lora_targets: tuple[str, ...] = TARGETS
    """Names of the linear layers that get one, as patterns."""
    steps: int = 1000
    """Optimiser steps."""
    row_length: int = 2048
    """Rows (text and audio) of a pack: of one item of a batch."""
    batch_packs: int = 8
    """Packs of an optimiser step, over all processes."""
    micro_packs: int = 1
    """Packs that a process handles at once."""
    max_turns: int = 0
    """A document is 1 to this many consecutive turns of a conversation; 0 leaves conversations whole."""
    shuffle_shards: int = 64
    """Shards whose turns are mixed with one another; a process holds so many open."""
    cache_dir: str | None = None
    """Folder on a local disk for shards that come from a storage; all processes of a machine share it."""
    cache_gb: float = 50.0
    """Gigabytes that it may hold."""
    learning_rate: float = 1.5e-3
    """Peak; reached after the warm-up, then a cosine down to a twentieth."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """Of the matrices; vectors and embeddings have none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    depth_share: float = 0.0625
    """Share of the audio frames, drawn anew every epoch, on which the depth decoder is trained (CSM: 1/16)."""
    depth_weight: float = 1.0
    """Weight of the mean depth loss beside the mean loss of codebook 0."""
    text_weight: float = 0.0
    """Weight of the mean loss of the text ids; CSM has none."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """What turns count in the loss, by selector (`csm_model.training.selectors`), such as {"speaker:1": 0.0}."""
    history_dropout: float = 0.0
    """Mean share of past audio frames hidden from the backbone; a document's own is uniform from 0 to twice that."""
    text_dropout: float = 0.1
    """Share of documents that do not see their text, so that guidance has something to compare with."""
    dropout: float = 0.0
    """Inside the transformer blocks."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How processes share the work: whole models with averaged gradients, or FSDP2's shares of everything."""
    bf16: bool = False
    """Matrix products in bfloat16, the rest in float32; slower on processors without AVX512-BF16 or AMX."""
    recompute: bool = False
    """Activation checkpointing: those of a block are computed again in the backward pass."""
    compile: bool = False
    """Blocks go through torch.compile, but for the attention of packed documents, whose lengths change."""
    spike_factor: float = 20.0
    """A loss so many robust deviations above the recent ones skips the step; 0 lets every finite loss pass."""
    skip_limit: int = 10
    """More skipped steps in a row end the training."""
    peak_tflops: float | None = None
    """Of one device, for the share of it that is used (MFU); None leaves that out."""
    seed: int = 0
    """Of weights, order and dropouts."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""
    validate_every: int = 200
    """Steps between validations."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Older ones are removed, but for the one with the lowest validation loss."""
    final_from: Literal["last", "best"] = "last"
    """Which weights the bundle gets: those of the last step, or of the checkpoint with the lowest validation loss."""
    mirror: str | None = None
    """Where copies of the checkpoints go: a folder or s3://bucket/prefix; a machine that has none begins from there."""
    disks: Literal["shared", "own"] = "shared"
    """Whether all processes see `out`, or each machine has a disk of its own: then rank 0 writes and reads whole
    checkpoints, and gathers and hands out what they hold."""
    sampling: dict[str, Any] | None = None
    """Sampling that the bundle shall recommend."""
    final_precision: Literal["fp32", "fp16"] = "fp32"
    """Of the bundle written at the end."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        for name in (
            "steps", "row_length", "batch_packs", "micro_packs", "log_every", "validate_every", "checkpoint_every",
            "keep_checkpoints", "lora_rank", "shuffle_shards",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in (
            "max_turns", "warmup_steps", "spike_factor", "skip_limit", "depth_weight", "text_weight", "cache_gb",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: must be 0 or more")
        for name in ("depth_share", "text_dropout", "dropout", "replay_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} {getattr(self, name)}: must be from 0 to 1")
        if not 0.0 <= self.history_dropout <= 0.5:
            raise InputError(f"history_dropout {self.history_dropout}: must be from 0 to 0.5")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} {getattr(self, name)!r}: must be one of {', '.join(choices)}")
        if self.base and self.checkpoint:
            raise InputError(f"base {self.base} and checkpoint {self.checkpoint}: begin from one of them")
        check_weights(self.loss_weights)

    def check_processes(self, processes: int) -> None:
        """Raises `InputError` where the packs of a step cannot be shared out evenly."""
        at_once = processes * self.micro_packs
        if self.batch_packs % at_once:
            raise InputError(
                f"batch_packs {self.batch_packs}: must be a multiple of processes {processes} x micro_packs "
                f"{self.micro_packs}; take {max(1, round(self.batch_packs / at_once)) * at_once}"
            )

    def save(self, path: Path) -> None:
        """Writes the settings as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Reads settings; a name that is none is an error that lists those there are."""
        values = read_json(path)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
        return cls(**values)
