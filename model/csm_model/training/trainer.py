"""The trainer: steps, validation, checkpoints, resuming, and a bundle at the end."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csm_model.bundle import load_weights, read_config, read_manifest, write_bundle
from csm_model.config import CONFIGS, ModelConfig
from csm_model.errors import ArtifactError, InputError
from csm_model.files import digest_of, read_json, write_bytes, write_json
from csm_model.model import CsmModel
from csm_model.text import TextTokenizer
from csm_model.training.checkpoint import load_newest, save_checkpoint
from csm_model.training.config import TrainingConfig
from csm_model.training.data import Batch, BatchPlan, Windows
from csm_model.training.loss import Losses, LossModule
from csm_model.training.parallel import World, distributed
from csm_model.training.shards import load_tokens


def build_model(config: TrainingConfig, manifest: dict[str, Any]) -> tuple[CsmModel, dict[str, Any]]:
    """The model to start from, and the manifest of the base ({} from scratch).

    Raises:
        ArtifactError: the base was trained on another codec or tokenizer than the tokens.
    """
    torch.manual_seed(config.seed)
    if config.base is None:
        if config.model not in CONFIGS:
            raise InputError(f"model {config.model!r} is unknown; there are {', '.join(CONFIGS)}")
        sizes = CONFIGS[config.model](
            text_vocab_size=manifest["vocab_size"],
            num_codebooks=manifest["num_codebooks"],
            codebook_size=manifest["codebook_size"],
        )
        return CsmModel(with_dropout(sizes, config.dropout)), {}
    base = Path(config.base)
    base_manifest = read_manifest(base)
    for name in ("codec_digest", "tokenizer_digest"):
        if base_manifest[name] != manifest[name]:
            raise ArtifactError(
                f"{base}: its {name} is {base_manifest[name][:12]}, the tokens' is {manifest[name][:12]}; "
                "tokenise the corpus with the base's own codec and tokenizer"
            )
    model = CsmModel(with_dropout(read_config(base), config.dropout))
    return load_weights(model, base, base_manifest["precision"]), base_manifest


def with_dropout(sizes: ModelConfig, dropout: float) -> ModelConfig:
    """The same sizes with another dropout."""
    return replace(
        sizes,
        backbone=replace(sizes.backbone, dropout=dropout),
        depth=replace(sizes.depth, dropout=dropout),
    )


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices that are no embeddings."""
    decayed = [p for name, p in model.named_parameters() if p.dim() >= 2 and "embeddings" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() < 2 or "embeddings" in name]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine from the peak down to a twentieth at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.05 + 0.475 * (1 + math.cos(math.pi * progress)))


def _seed_of(*parts: int) -> int:
    """One seed from several numbers, the same in every process and version of Python."""
    return int(digest_of(parts)[:15], 16)


class Trainer:
    """One training run of one process of the job."""

    def __init__(self, config: TrainingConfig, world: World) -> None:
        self.config, self.world = config, world
        self.out, tokens = Path(config.out), Path(config.tokens)
        self.tokens_manifest = read_json(tokens / "manifest.json")
        self.model, self.base_manifest = build_model(config, self.tokens_manifest)
        self.model.train()
        self.windows = Windows(load_tokens(tokens, "train"), self.model.config)
        held_out = "validation" if "validation" in self.tokens_manifest["splits"] else "train"
        self.held_out = Windows(load_tokens(tokens, held_out), self.model.config)
        self.optimizer = make_optimizer(self.model, config)
        self.module = distributed(
            LossModule(self.model, depth_share=config.depth_share, depth_weight=config.depth_weight), world
        )
        self.plan = BatchPlan(
            rows_per_batch=config.rows_per_batch,
            max_turns=config.max_turns,
            history_dropout=config.history_dropout,
            text_dropout=config.text_dropout,
            seed=config.seed,
        )
        self.step = load_newest(self.out / "checkpoints", model=self.model, optimizer=self.optimizer)

    def run(self) -> dict[str, Any]:
        """Trains to the last step and writes `final/`; returns its manifest, {} where this process does not lead."""
        config = self.config
        if self.world.leads:
            self.out.mkdir(parents=True, exist_ok=True)
            self._forget_after(self.step)
        began, frames_seen = time.monotonic(), 0
        while self.step < config.steps:
            losses, norm, frames = self._advance()
            self.step += 1
            frames_seen += frames * self.world.size
            if self.step % config.log_every == 0 or self.step == config.steps:
                means = self.world.mean(torch.stack([part.detach() for part in losses]))
                row = dict(zip(("loss", "loss_first", "loss_depth", "accuracy_first"), means.tolist(), strict=True))
                seconds = time.monotonic() - began
                self._log({**row, "gradient_norm": norm, "frames_per_second": frames_seen / seconds})
                began, frames_seen = time.monotonic(), 0
            if self.step % config.validate_every == 0 or self.step == config.steps:
                self._log(self._validate())
                began, frames_seen = time.monotonic(), 0
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._checkpoint()
        return self._finish() if self.world.leads else {}

    def _advance(self) -> tuple[Losses, float, int]:
        """One optimiser step; returns the last micro-batch's losses, the gradient norm and the frames seen."""
        config = self.config
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        frames, losses = 0, None
        for micro in range(config.accumulation):
            number = micro * self.world.size + self.world.rank
            batch = self.windows.draw(self.plan, step=self.step, number=number)
            last = micro == config.accumulation - 1
            quiet = self.module.no_sync() if self.world.size > 1 and not last else nullcontext()  # type: ignore[operator]
            with quiet:
                losses = self._losses(batch, seed=_seed_of(config.seed, self.step, number))
                (losses.total / config.accumulation).backward()  # type: ignore[no-untyped-call]
            frames += int(batch.frames.sum())
        assert losses is not None
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        return losses, float(norm), frames

    def _losses(self, batch: Batch, *, seed: int) -> Losses:
        generator = torch.Generator().manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.autocast):
            losses: Losses = self.module(batch, generator)
        return losses

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Mean losses over the held-out turns, nothing dropped, every process the same."""
        module = self.module.module if self.world.size > 1 else self.module
        self.model.eval()
        total, count = torch.zeros(4, dtype=torch.float64), 0
        for index, batch in enumerate(self.held_out.in_order(self.config.rows_per_batch)):
            assert isinstance(module, LossModule)
            losses = module(batch, torch.Generator().manual_seed(index))
            size = int(batch.targets.sum())
            total += torch.stack([part.double() for part in losses]) * size
            count += size
        self.model.train()
        _, first, depth, accuracy = (total / count).tolist()
        return {"validation_first": first, "validation_depth": depth, "validation_accuracy": accuracy}

    def _checkpoint(self) -> None:
        if self.world.leads:
            save_checkpoint(
                self.out / "checkpoints",
                step=self.step,
                model=self.model,
                optimizer=self.optimizer,
                keep=self.config.keep_checkpoints,
            )
        self.world.barrier()

    def _log(self, values: dict[str, float]) -> None:
        if not self.world.leads:
            return
        row = {"step": self.step, "steps": self.config.steps, "time": round(time.time(), 2)}
        row["learning_rate"] = learning_rate(self.config, self.step - 1)
        rounded: dict[str, Tensor | float] = {name: round(value, 5) for name, value in values.items()}
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({**row, **rounded}) + "\n")

    def _forget_after(self, step: int) -> None:
        """Drops the lines of `metrics.jsonl` that a killed run wrote after its last checkpoint."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:  # the line that the kill cut
                continue
        write_bytes(path, "".join(kept).encode())

    def _finish(self) -> dict[str, Any]:
        manifest, base = self.tokens_manifest, self.base_manifest
        recipe = {name: value for name, value in asdict(self.config).items() if name not in ("tokens", "out", "base")}
        info = {
            "dataset_digest": manifest["dataset_digest"],
            "tokens_digest": manifest["digest"],
            "parent_digest": base.get("digest"),
            "speakers": {**base.get("speakers", {}), **manifest.get("speakers", {})},
            "sampling": self.config.sampling or base.get("sampling", {}),
            "recipe": recipe,
            "recipe_digest": digest_of(recipe),
            "steps": self.step,
        }
        tokens = Path(self.config.tokens)
        written = write_bundle(
            self.out / "final",
            model=self.model,
            tokenizer=TextTokenizer.load(tokens / "tokenizer.json"),
            codec_folder=tokens / "codec",
            precision=self.config.final_precision,
            info=info,
        )
        write_json(self.out / "result.json", {"digest": written["digest"], "steps": self.step})
        return written
