"""Adapters and partial training: what is trained changes, what is frozen does not, and merging changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from csm_model.bundle import load_bundle, read_manifest
from csm_model.config import debug_config
from csm_model.errors import InputError
from csm_model.model import CsmModel
from csm_model.training.config import TrainingConfig, linear_layers
from csm_model.training.lora import LoraLinear, add_lora, lora_state, merge_lora
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)


def settings(token_folder: Path, out: Path, **changes: object) -> TrainingConfig:
    return TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", steps=6, row_length=256, batch_packs=1, warmup_steps=1,
        learning_rate=1e-2, log_every=2, validate_every=6, checkpoint_every=3, depth_share=0.5, **changes,
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


@pytest.fixture(scope="module")
def base(token_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base")
    Trainer(settings(token_folder, out), ALONE).run()
    return out


def test_linear_layers_are_known_by_name_without_a_model() -> None:
    sizes = debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32)
    model = CsmModel(sizes)
    assert linear_layers(sizes) == [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]


def test_merging_changes_no_logit() -> None:
    torch.manual_seed(0)
    model = CsmModel(debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32)).double().eval()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = torch.randint(0, 30, (1, 9, 5))
    mask = torch.ones_like(rows, dtype=torch.bool)
    with torch.no_grad():
        before = model.hidden(rows, mask)
        names = add_lora(model, rank=2, alpha=4.0)
        model.double()
        assert len(names) == 3 * 7
        assert torch.equal(model.hidden(rows, mask), before), "an adapter begins as nothing"
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (name.rpartition(".")[2] in ("lora_a", "lora_b"))
            if name.endswith("lora_b"):
                parameter.normal_()
        adapted = model.hidden(rows, mask)
        merge_lora(model)
        assert not any(isinstance(module, LoraLinear) for module in model.modules())
        torch.testing.assert_close(model.hidden(rows, mask), adapted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(adapted, before)
    assert list(model.state_dict()) == list(plain)


def test_lora_trains_adapters_only_and_resumes(base: Path, token_folder: Path, tmp_path: Path) -> None:
    changes = {"base": str(base / "final"), "trainable": "lora", "lora_rank": 4}
    config = settings(token_folder, tmp_path / "out", **changes)
    trainer = Trainer(config, ALONE)
    saved = trainer._tensors()["model"]
    assert set(saved) == {f"model.{name}" for name in lora_state(trainer.model.state_dict())}
    assert len(saved) == 2 * 3 * 7
    trainer.run()
    before, after = weights(base), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(before) == set(after)
    assert changed == {name for name in before if ".attn." in name or ".mlp." in name}
    assert read_manifest(tmp_path / "out" / "final")["parent_digest"] == read_manifest(base / "final")["digest"]
    merged = load_bundle(tmp_path / "out" / "final", kernels=False).model.eval()
    rows = torch.randint(0, 30, (1, 9, merged.config.num_codebooks + 1))
    mask = torch.ones_like(rows, dtype=torch.bool)
    with torch.no_grad():
        adapted = trainer.model.eval().hidden(rows, mask)
        torch.testing.assert_close(merged.hidden(rows, mask), adapted, rtol=1e-4, atol=1e-5)
    again = Trainer(config, ALONE)
    assert again.step == 6
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), parameter), name


def test_depth_only_leaves_the_backbone(base: Path, token_folder: Path, tmp_path: Path) -> None:
    Trainer(settings(token_folder, tmp_path, base=str(base / "final"), trainable="depth"), ALONE).run()
    before, after = weights(base), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("decoder.", "projection.", "audio_head"))}


def test_targets_that_match_nothing_are_refused() -> None:
    model = CsmModel(debug_config(text_vocab_size=50, num_codebooks=4, codebook_size=32))
    with pytest.raises(InputError, match="no linear layer has such a name"):
        add_lora(model, rank=2, alpha=4.0, targets=["*.query"])
