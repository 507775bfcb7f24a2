"""Plans by arithmetic: load against the trainer's own batches, FLOPs and exchange by hand, remedies in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from csm_model.config import CONFIGS, csm_1b_config, csm_30m_config
from csm_model.errors import InputError
from csm_model.model import CsmModel
from csm_model.planner.flops import parameter_count
from csm_model.planner.hardware import GPUS, gpu_named
from csm_model.planner.job import SpeechShape, TrainingJob
from csm_model.planner.memory import gpu_kernels, memory
from csm_model.planner.plan import Plan, plan, until_it_fits, why
from csm_model.planner.storage import storage
from csm_model.planner.tape import Kernels, tape
from csm_model.planner.timing import Assumptions, exchange_seconds, sent_bytes, timing
from csm_model.training.config import TrainingConfig
from csm_model.training.data import DropoutSettings, PackedTokens, TurnsInMemory
from csm_model.training.packing import Packing
from csm_model.training.parallel import blocks
from csm_model.training.shards import TokenTurn, write_shard


def job_of(preset: str = "csm-1b", *, speech: SpeechShape | None = None, gpus: int = 1, **settings: Any) -> TrainingJob:
    config = TrainingConfig(tokens="", out="", **{"bf16": True, "batch_packs": gpus, **settings})
    return TrainingJob.of(config, CONFIGS[preset](), gpus=gpus, speech=speech or SpeechShape())


def plan_of(job: TrainingJob, gpu: str = "h100", **assumptions: Any) -> Plan:
    return plan(job, gpu_named(gpu), hours=1000.0, assumptions=Assumptions(**assumptions))


def turns_of(count: int, speech: SpeechShape, **fields: Any) -> list[TokenTurn]:
    sizes = csm_30m_config()
    frames, ids = round(speech.frames_of_turn), round(speech.text_of_turn(sizes))
    return [
        TokenTurn(
            id=f"{number}", conversation=f"{number // 20}", split="train", speaker=0, text="a hundred letters " * 5,
            text_ids=np.ones(ids, np.int32), codes=np.ones((32, frames), np.int16), **fields,
        )
        for number in range(count)
    ]  # fmt: skip


def test_the_mean_load_is_what_the_trainer_makes_of_such_speech() -> None:
    speech = SpeechShape(turn_seconds=8.0, ids_per_second=3.5, document_turns=20)
    source = TurnsInMemory(turns_of(600, speech))
    data = PackedTokens(
        source, csm_30m_config(), packing=Packing(row_length=2048), reading=DropoutSettings(depth_share=1 / 16)
    )
    packs = min(20, data.packs.count(0))
    batch = data.batch(range(packs))
    padding = 1.0 - batch.rows_held / batch.rows[..., 0].numel()
    job = job_of("csm-30m", speech=SpeechShape(turn_seconds=8.0, document_turns=20, padding=padding))
    assert job.load.rows * packs == batch.rows[..., 0].numel()
    assert job.load.first * packs == pytest.approx(len(batch.first.places), rel=0.02)
    assert job.load.depth * packs == pytest.approx(len(batch.depth.places), rel=0.03)
    text = job_of("csm-30m", speech=job.speech, text_weight=0.5).load.text
    assert text * packs == pytest.approx(len(batch.text.places), rel=0.03)
    assert sum(job.load.documents) == job.load.rows


def test_tokens_take_what_a_shard_of_them_takes(tmp_path: Any) -> None:
    speech, count = SpeechShape(turn_seconds=8.0), 200
    row = write_shard(tmp_path / "shard.safetensors", turns_of(count, speech))
    assert row["turns"] == count
    planned = storage(job_of("csm-30m", speech=speech), hours=count * 8.0 / 3600).tokens
    assert planned == pytest.approx((tmp_path / "shard.safetensors").stat().st_size, rel=0.03)


def test_audio_and_checkpoints_by_hand() -> None:
    held = storage(job_of("csm-1b", keep_checkpoints=3), hours=2.0)
    assert held.audio["pcm16"] == 2 * 3600 * 24_000 * 2
    assert held.checkpoint == 12 * 1_552_791_552
    assert held.checkpoints == 5 * held.checkpoint


@pytest.mark.parametrize("preset", ["csm-1b", "csm-8b", "csm-30m"])
def test_parts_have_all_parameters_and_blocks_as_fsdp_shares_them(preset: str) -> None:
    job = job_of(preset)
    with torch.device("meta"):
        model = CsmModel(job.sizes)
    parts = tape(job, job.load, Kernels())
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in model.parameters())
    shared = [sum(p.numel() for p in block.parameters()) for block in blocks(model)]
    assert [part.parameters for part in parts if part.name in ("backbone", "depth")] == shared


def test_what_fsdp_sends_by_hand() -> None:
    """Blocks are gathered twice, the rest once, in bf16; gradients are scattered once, in float32."""
    job = job_of("csm-1b", gpus=8, strategy="fsdp")
    with torch.device("meta"):
        model = CsmModel(job.sizes)
    inside = sum(p.numel() for block in blocks(model) for p in block.parameters())
    everything = sum(p.numel() for p in model.parameters())
    assert sent_bytes(job) == 2 * (2 * inside + everything - inside) + 4 * everything
    assert sent_bytes(job_of("csm-1b", gpus=8)) == 8 * everything
    assert sent_bytes(job_of("csm-1b")) == 0


def test_between_nodes_the_network_decides() -> None:
    gpu, assumed = gpu_named("h100"), Assumptions(link_share=1.0)
    assert exchange_seconds(8e9, 8, gpu, assumed) == pytest.approx(7e9 / 450e9)
    assert exchange_seconds(8e9, 16, gpu, assumed) == pytest.approx(max(7.5e9 / 450e9, 4e9 / 400e9))
    slow = gpu_named("l4")
    assert exchange_seconds(8e9, 16, slow, assumed) == pytest.approx(max(7.5e9 / 32e9, 4e9 / 25e9))
    assert exchange_seconds(8e9, 2, gpu, Assumptions(link_share=1.0, gpus_per_node=1)) == pytest.approx(4e9 / 50e9)


def test_time_follows_the_share_of_the_peak() -> None:
    job = job_of("csm-1b")
    whole, half = (timing(job, gpu_named("a100-80"), Assumptions(mfu=mfu)) for mfu in (0.4, 0.2))
    assert half.compute == pytest.approx(2 * whole.compute)
    assert whole.compute == pytest.approx(whole.flops / (0.4 * 312e12))
    again = timing(job.changed(recompute=True), gpu_named("a100-80"), Assumptions(mfu=0.4))
    assert 1.25 < again.compute / whole.compute < 1.34, "a forward more, but for the heads"
    assert again.flops == whole.flops, "what is done twice is no model FLOP"
    told = plan_of(job, "a100-80", mfu=0.4)
    assert told.mfu < 0.4, "AdamW takes time too"


def test_days_count_rows_hours_and_epochs() -> None:
    job = job_of("csm-1b", gpus=8, strategy="fsdp")
    told = plan_of(job)
    rows = 1000 * 3600 / 7.0 * job.speech.rows_of_turn(job.sizes)
    assert told.steps == pytest.approx(rows / (8 * 2048 * 0.98))
    assert told.days == pytest.approx(told.steps * told.timing.seconds / 86_400)
    twice = plan(job, gpu_named("h100"), hours=1000.0, epochs=2.0, assumptions=Assumptions())
    assert twice.days == pytest.approx(2 * told.days)


def test_fsdp_keeps_gradients_whole_over_micro_batches() -> None:
    """Where micro-batches exchange nothing, each process holds all gradients in float32; a plan must say so."""
    once, twice = (memory(job_of("csm-8b", gpus=64, strategy="fsdp", batch_packs=packs)) for packs in (64, 128))
    assert twice.gradients - once.gradients == pytest.approx(4 * parameter_count(CONFIGS["csm-8b"]()), rel=0.01)


def test_ddp_costs_a_second_copy_of_the_gradients() -> None:
    alone, two = memory(job_of("csm-1b")), memory(job_of("csm-1b", gpus=2))
    assert two.buckets == 4 * 1_552_791_552
    assert two.total - alone.total == two.buckets


def test_float32_attention_with_grouped_heads_holds_the_scores_on_a_gpu() -> None:
    whole = job_of("csm-1b", bf16=False)
    assert not gpu_kernels(whole).fused_attention
    assert memory(whole).backbone > memory(whole, kernels=Kernels()).backbone
    assert gpu_kernels(job_of("csm-1b")).fused_attention


def test_8b_on_one_gpu_names_what_exceeds_and_what_helps() -> None:
    told = plan_of(job_of("csm-8b"))
    assert not told.fits
    over = (told.memory.total - told.room) / 1e9
    assert f"{over:.1f} too much (optimiser states 65.5" in why(told)
    assert "parameters, gradients and optimiser alone do not fit" in why(told)
    tried, cured = until_it_fits(told)
    assert cured
    assert [remedy.change for remedy in tried] == ["gpus=2, strategy=fsdp"], "recomputing saves nothing here"


def test_remedies_come_in_order_and_add_up() -> None:
    job = job_of("csm-8b", gpus=4, micro_packs=8, batch_packs=64)
    told = plan_of(job, "a100-40")
    tried, cured = until_it_fits(told)
    assert cured
    names = [remedy.change.partition("=")[0] for remedy in tried]
    assert names == sorted(names, key=["recompute", "strategy", "micro_packs", "row_length", "gpus"].index)
    sizes = [told.memory.total, *(remedy.memory.total for remedy in tried)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(remedy.memory.total > told.room for remedy in tried[:-1])
    assert plan_of(tried[-1].job, "a100-40").fits


def test_what_is_fixed_stays() -> None:
    told = plan_of(job_of("csm-8b", gpus=4), "a100-40")
    tried, cured = until_it_fits(told, fixed={"strategy", "gpus"})
    assert not cured
    assert all(remedy.job.strategy == "ddp" and remedy.job.gpus == 4 for remedy in tried)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: job_of(trainable="lora"), "plans trainings of all weights"),
        (lambda: job_of(row_length=4096), "the model holds 2048 rows"),
        (lambda: job_of(gpus=3, batch_packs=8), "batch_packs 8: must be a multiple"),
        (lambda: gpu_named("v100"), "gpu 'v100' is unknown; there are b200"),
        (lambda: Assumptions(mfu=1.5), "mfu 1.5: must be more than 0"),
        (lambda: Assumptions(reserve_gb=-1), "reserve_gb -1"),
        (lambda: SpeechShape(turn_seconds=0), "turn_seconds 0: must be more than 0"),
        (lambda: SpeechShape(padding=1.0), "padding 1.0"),
        (lambda: plan(job_of(), GPUS["h100"], hours=0, assumptions=Assumptions()), "hours 0: must be more than 0"),
    ],
)
def test_bad_values_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_every_gpu_says_where_its_figures_stand(gpu: Any) -> None:
    assert "NVIDIA" in gpu.source
    assert plan_of(job_of("csm-30m"), gpu.name).fits


def test_larger_settings_take_more() -> None:
    base = memory(job_of("csm-1b")).total
    assert memory(job_of("csm-1b", micro_packs=2, batch_packs=2)).total > base
    assert memory(job_of("csm-1b", depth_share=1.0)).total > base
    assert memory(job_of("csm-1b", text_weight=1.0)).total > base
    assert memory(job_of("csm-1b", dropout=0.1)).total > base
    assert memory(job_of("csm-1b", recompute=True)).total < base
    assert csm_1b_config().max_rows == 2048
