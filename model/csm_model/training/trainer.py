"""The trainer: steps, validation, checkpoints, resuming, and a bundle at the end.

A step reads `batch_packs` packs of the one order that all processes share, and takes the mean over all of their
targets. So neither the number of processes, nor how the packs are spread over micro-batches, changes what is learnt.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.tensor import DTensor

from csm_model.errors import ArtifactError, CheckpointError, InputError, shown
from csm_model.files import digest_of, write_json
from csm_model.planner.flops import flops_of_step
from csm_model.tensor_files import is_finite
from csm_model.training import resuming
from csm_model.training.build import build_model, distribute, finish
from csm_model.training.cache import Fetch
from csm_model.training.checkpoint import Checkpoints, Mirror
from csm_model.training.config import TrainingConfig
from csm_model.training.data import Batch, DropoutSettings, PackedTokens, ReplayedPacks, Totals
from csm_model.training.guards import CURE, DivergedError, SpikeGuard, StopSignal
from csm_model.training.loss import Losses, LossModule
from csm_model.training.metrics import Meter, MetricsFile
from csm_model.training.optimizer import learning_rate, make_optimizer
from csm_model.training.packing import Packing, left_out, packs_of_process
from csm_model.training.parallel import World, synchronised, without_wrapper
from csm_model.training.replay import check_replay, speakers_taken
from csm_model.training.selectors import check_known
from csm_model.training.stream import StreamedTurns, TokenFolder, open_tokens

_log = logging.getLogger(__name__)
R = TypeVar("R")


class Trainer:
    """One training run of one process of the job.

    Args:
        config: what to train, and how.
        world: the processes of the job.
        mirror: where copies of the checkpoints go.
        fetch: where the tokens come from, if they are stored elsewhere.
        replay_fetch: where those of the replay come from, if they are stored elsewhere.
    """

    def __init__(
        self,
        config: TrainingConfig,
        world: World,
        *,
        mirror: Mirror | None = None,
        fetch: Fetch | None = None,
        replay_fetch: Fetch | None = None,
    ) -> None:
        self.config, self.world = config, world
        self.out = Path(config.out)
        config.check_processes(world.size)
        self.tokens = self._opened(config.tokens, fetch)
        self.manifest = self.tokens.manifest
        self.replay = self._opened_replay(replay_fetch)
        self.model, self.base_manifest = build_model(config, self.manifest, world)
        self.sizes = self.model.config
        self.train_data = self._training_data()
        self.held_out = self._data(
            self.tokens, "validation" if "validation" in self.manifest["splits"] else "train", training=False
        )
        module = LossModule(self.model, depth_weight=config.depth_weight, text_weight=config.text_weight)
        self.module = distribute(module.train(), self.model, config, world)
        self.optimizer = make_optimizer(self.model, config)
        self.checkpoints = Checkpoints(
            self.out / "checkpoints",
            world,
            keep=config.keep_checkpoints,
            mirror=mirror,
            shared=config.disks == "shared",
        )
        self._of = resuming.made_of(
            config, self.manifest, self.replay.manifest if self.replay else None, self.base_manifest
        )
        self.step, facts = self.checkpoints.newest()
        if self.step:
            resuming.check(self.step, facts.get("of"), self._of, config, self.checkpoints.root, tell=self.world.leads)
        self._saved = self.step
        try:
            losses = [float(loss) for loss in facts.get("losses") or ()]
            self.skipped, packs_read = (int(facts.get(name, 0)) for name in ("skipped", "packs_read"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.out / 'checkpoints'}: step {self.step} does not say how far it had come ({shown(error)}); "
                "remove its folder, and the one before it is used"
            ) from None
        self.guard = SpikeGuard(factor=config.spike_factor, limit=config.skip_limit, history=losses)
        self.packs_read = packs_read
        """Packs of the one order that all steps so far consumed."""
        self._taken = self._facts()
        """What a checkpoint says of the last step that was taken."""
        self._due = False
        """Whether there shall be a checkpoint of it."""
        self._validation: float | None = None
        """The validation loss at it, where it was validated."""
        if self.step:
            self._load(self.step)

    def _opened(self, place: str, fetch: Fetch | None) -> TokenFolder:
        """The tokens at a place; raises `ArtifactError` where the processes find different ones there."""
        tokens = open_tokens(place, fetch=fetch, cache_dir=self.config.cache_dir, cache_gb=self.config.cache_gb)
        digest = tokens.manifest.get("digest")
        if self.world.agree(digest) != digest:
            raise ArtifactError(f"{place}: the processes find different tokens there; give all of them the same")
        return tokens

    def _opened_replay(self, fetch: Fetch | None) -> TokenFolder | None:
        """The tokens that are replayed; None where none are asked for, or all their speakers' numbers are taken."""
        config = self.config
        if not config.replay or not config.replay_share:
            return None
        replay = self._opened(config.replay, fetch)
        check_replay(config.replay, replay.manifest, self.manifest)
        taken = speakers_taken(replay.manifest, self.manifest)
        left = replay.manifest["speakers"].keys() - taken.keys()
        if taken and self.world.leads:
            names = ", ".join(f"{number} ({name})" for number, name in taken.items())
            what = f"speakers {names} are not" if left else "nothing is"
            _log.warning("%s replayed: the run's own voices have the numbers", what)
        return replay if left else None

    def _training_data(self) -> PackedTokens | ReplayedPacks:
        """The packs that are learnt."""
        own = self._data(self.tokens, "train", training=True)
        if self.replay is None:
            return own
        silent = {f"speaker:{number}": 0.0 for number in speakers_taken(self.replay.manifest, self.manifest)}
        return ReplayedPacks(
            own, self._data(self.replay, "train", training=True, more=silent), self.config.replay_share
        )

    def _data(
        self, tokens: TokenFolder, split: str, *, training: bool, more: Mapping[str, float] | None = None
    ) -> PackedTokens:
        """The packs of a split; `more` are weights of turns beside those of the settings."""
        config, sizes = self.config, self.model.config
        if config.row_length > sizes.max_rows:
            raise InputError(f"row_length {config.row_length}: the model holds {sizes.max_rows} rows")
        check_known(config.loss_weights, self.manifest)
        reading = DropoutSettings(
            depth_share=config.depth_share, loss_weights={**config.loss_weights, **(more or {})}, seed=config.seed
        )
        packing = Packing(
            row_length=config.row_length, max_turns=1, seed=config.seed, shuffle_shards=config.shuffle_shards
        )
        if training:
            reading = replace(reading, history_dropout=config.history_dropout, text_dropout=config.text_dropout)
            packing = replace(packing, max_turns=config.max_turns)
        source = StreamedTurns(tokens, split, open_shards=config.shuffle_shards)
        if self.world.leads and (words := left_out(source.lengths, config.row_length)):
            _log.warning("%s, split %s: %s", tokens.local, split, words)
        try:
            return PackedTokens(source, sizes, packing=packing, reading=reading)
        except InputError as error:
            raise InputError(f"split {split}: {error}") from None

    def run(self, stop: StopSignal | None = None) -> dict[str, Any]:
        """Trains to the last step and writes `final/`; returns its manifest.

        Returns {} where this process does not lead, and where SIGTERM asked the training to stop: what was learnt is
        then saved, and the same call goes on from there.

        Args:
            stop: has noted SIGTERM since before the trainer was built; without it, it is noted from now on.

        Raises:
            DivergedError: too many steps in a row could not be taken.
        """
        config = self.config
        log = MetricsFile(self.out / "metrics.jsonl", steps=config.steps, writes=self.world.leads)
        log.forget_after(self.step)
        with stop or StopSignal() as noted:
            try:
                manifest = self._run(log, noted)
            except BaseException:
                self.checkpoints.abandon()
                raise
            self.checkpoints.close()
            return manifest

    def _run(self, log: MetricsFile, stop: StopSignal) -> dict[str, Any]:
        config = self.config
        meter = Meter()
        while self.step < config.steps:
            stopping = self._advance(meter, log, stop)
            last = self.step == config.steps
            if last:
                self._at_step(self.guard.check_end)
            if self.step % config.log_every == 0 or last:
                log.write(self.step, learning_rate(config, self.step - 1), self._figures(meter))
                meter = Meter()
            validation = None
            if (self.step % config.validate_every == 0 or last) and not stopping:
                figures = self._validate()
                validation = figures["validation_first"] + config.depth_weight * figures["validation_depth"]
                log.write(self.step, learning_rate(config, self.step - 1), figures)
                if not math.isfinite(validation):
                    raise DivergedError(f"step {self.step}: the validation loss is {validation}: {CURE}")
            if self.guard.in_a_row == 0:
                self._validation = validation
            self._due |= self.step % config.checkpoint_every == 0
            if last or (stopping and not self.guard.lost):
                self._due = True
                self._save_due()
            if stopping and not last:
                self.checkpoints.wait()
                if self.world.leads:
                    print(f"asked to stop: saved at step {self._saved} of {config.steps}; the same command goes on")
                return {}
        return self._finish()

    def _advance(self, meter: Meter, log: MetricsFile, stop: StopSignal) -> bool:
        """One optimiser step; returns whether the processes were asked to stop."""
        config, world = self.config, self.world
        began = time.monotonic()
        batches = self._batches()
        totals = Totals(*self._sum([sum(part) for part in zip(*(batch.totals for batch in batches), strict=True)]))
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        shares = []
        for micro, batch in enumerate(batches):
            torch.manual_seed(seed_of(config.seed, self.step, micro * world.size + world.rank))  # dropout
            with synchronised(self.module, last=micro == len(batches) - 1):
                losses = self._losses(batch, totals)
                (losses.total * world.size).backward()  # type: ignore[no-untyped-call]  # gradients are averaged
            shares.append(torch.cat([part.detach().reshape(-1).float() for part in losses]))
        norm = nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], config.clip_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        mine = torch.stack(shares).sum(0)
        together = self._sum([*mine.tolist(), float(stop.asked)])
        means, stopping = together[:-1], together[-1] > 0
        self.packs_read += config.batch_packs
        self.step += 1
        if reason := self._at_step(lambda: self.guard.refuses(means[0], float(norm))):
            self.skipped += 1
            log.note(self.step, f"step skipped: {reason}")
        else:
            self._save_due()  # the weights of the step before have a finite loss: something can be learnt from them
            self.optimizer.step()
            self._taken, self._validation = self._facts(), None
            meter.add_losses(means, float(norm))
        meter.add_work(batches, self._flops(batches), seconds=time.monotonic() - began)
        return stopping

    def _batches(self) -> list[Batch]:
        """This process's micro-batches of the step."""
        config, world = self.config, self.world
        mine = packs_of_process(
            self.packs_read, count=config.batch_packs, at_once=config.micro_packs, rank=world.rank, size=world.size
        )
        return [self.train_data.batch(numbers).to(world.device) for numbers in mine]

    def _losses(self, batch: Batch, totals: Totals) -> Losses:
        autocast = self.config.bf16 and not (self.config.strategy == "fsdp" and self.world.size > 1)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=autocast):
            losses: Losses = self.module(batch, totals)
        return losses

    def _sum(self, values: list[float]) -> list[float]:
        """Each value summed over all processes."""
        return self.world.sum(torch.tensor(values, dtype=torch.float64)).tolist()

    def _flops(self, batches: list[Batch]) -> float:
        """Floating-point operations of these batches, forward and backward."""
        return sum(
            flops_of_step(
                self.sizes,
                row_lengths=[rows for pack in batch.lengths for rows in pack],
                depth_frames=len(batch.depth.places),
            )
            for batch in batches
        )

    def _figures(self, meter: Meter) -> dict[str, float]:
        """What a line of the log says; every process calls it."""
        rows, frames, padding, flops = self._sum(meter.work())
        seconds = meter.seconds
        figures = meter.losses() | {
            "step_seconds": seconds / max(1, meter.steps),
            "rows_per_second": rows / seconds,
            "frames_per_second": frames / seconds,
            "padding": padding / (rows + padding),
            "flops_per_second": flops / seconds,
            "memory_bytes": self.world.most(meter.peak_memory(self.world.device)),
            "skipped_steps": float(self.skipped),
        }
        if self.config.peak_tflops:
            figures["mfu"] = flops / seconds / (self.config.peak_tflops * 1e12 * self.world.size)
        return figures

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean losses over the held-out turns, nothing dropped; each process reads its part."""
        world = self.world
        self.module.eval()
        batches = self.held_out.in_order(self.config.micro_packs)
        totals = Totals(*(sum(part) for part in zip(*(batch.totals for batch in batches), strict=True)))
        count = -(-len(batches) // world.size)
        mine = [*batches[world.rank :: world.size], batches[0].without_targets()][:count]  # fsdp: as many everywhere
        sums = torch.zeros(5, dtype=torch.float64)
        for batch in mine:
            losses = self._losses(batch.to(world.device), totals)
            sums += torch.stack([part.detach().double().cpu() for part in losses[:5]])
        self.module.train()
        _, first, depth, _, accuracy = self._sum(sums.tolist())
        return {"validation_first": first, "validation_depth": depth, "validation_accuracy": accuracy}

    def _tensors(self) -> dict[str, Any]:
        """What of model and optimiser a checkpoint holds: under `lora` and `depth` only what is trained.

        Where machines have disks of their own, rank 0 gets the whole of it and the others nothing.
        """
        whole = not self.checkpoints.shared
        options = StateDictOptions(ignore_frozen_params=True, full_state_dict=whole, cpu_offload=whole)
        if not self.optimizer.state:  # torch makes it where there are no gradients; no step may have been taken yet
            self.optimizer.zero_grad(set_to_none=True)
        model, optimizer = states.get_state_dict(without_wrapper(self.module), self.optimizer, options=options)
        return {"model": model, "optimizer": optimizer}

    def _at_step(self, judge: Callable[[], R]) -> R:
        """What a judgement says; a `DivergedError` names the step."""
        try:
            return judge()
        except DivergedError as error:
            raise DivergedError(f"step {self.step}: {error}") from None

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint of the weights as they are says, beside its tensors."""
        return {
            "step": self.step,
            "losses": self.guard.history,
            "skipped": self.skipped,
            "packs_read": self.packs_read,
            "of": self._of,
        }

    def _save_due(self) -> None:
        """Saves the last step that was taken, where that is due: steps that were refused since changed no weight.

        Raises:
            DivergedError: a weight, or what the optimiser keeps of it, is no finite number.
        """
        step = self._taken["step"]
        if not self._due or step == self._saved:
            return
        self._due = False
        tensors = self._tensors()
        wrong = not_finite(tensors)
        if self.world.most(float(bool(wrong))):
            raise DivergedError(f"step {step}: {wrong or 'what another process learnt'} is not finite: {CURE}")
        self.checkpoints.save(step, tensors, self._taken, validation=self._validation)
        self._saved = step

    def _load(self, step: int) -> None:
        tensors = self._tensors()
        self.checkpoints.load(step, tensors)
        whole, module = not self.checkpoints.shared, without_wrapper(self.module)
        options = StateDictOptions(strict=False, full_state_dict=whole, broadcast_from_rank0=whole)
        # One after the other: `set_state_dict` leaves the model out in a process that has none to give.
        states.set_optimizer_state_dict(module, self.optimizer, tensors["optimizer"], options=options)
        states.set_model_state_dict(module, tensors["model"], options=options)

    def _finish(self) -> dict[str, Any]:
        self.checkpoints.wait()
        self.world.barrier()
        best = self.checkpoints.best() if self.config.final_from == "best" else None
        if best is not None and best != self.step:
            self._load(best)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = states.get_model_state_dict(self.model, options=options)
        if not self.world.leads:
            return {}
        written = finish(
            self.config,
            cast("dict[str, Tensor]", state),
            sizes=self.sizes,
            tokens=self.tokens,
            replay=self.replay,
            base_manifest=self.base_manifest,
            step=best or self.step,
        )
        write_json(self.out / "result.json", {"digest": written["digest"], "steps": best or self.step})
        return written


def not_finite(tensors: Mapping[str, Any], of: str = "") -> str:
    """The name of the first tensor of this process with a number that is not finite; empty for none."""
    for name, value in tensors.items():
        where = f"{of}.{name}" if of else str(name)
        if isinstance(value, Mapping):
            if found := not_finite(value, where):
                return found
        elif isinstance(value, Tensor):
            local = value.to_local() if isinstance(value, DTensor) else value
            if local.is_floating_point() and not is_finite(local.detach()):
                return where
    return ""


def seed_of(*parts: int) -> int:
    """One seed from several numbers, the same in every process and version of Python."""
    return int(digest_of(parts)[:15], 16)
