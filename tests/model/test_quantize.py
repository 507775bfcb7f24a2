"""Rounding to int4, what is stored of it, and what a bundle is spoken with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from csm_model.bundle import Bundle, Weights, load_bundle, load_weights, write_bundle
from csm_model.errors import ArtifactError
from csm_model.kernels import KernelLinear
from csm_model.model import CsmModel
from csm_model.quantize import RoundedLinear, pack_int4, quantize_groups, quantize_rows, unpack_int4


def test_two_steps_a_byte_and_back() -> None:
    torch.manual_seed(0)
    steps = torch.randint(0, 16, (5, 192), dtype=torch.uint8)
    packed = pack_int4(steps)
    assert packed.shape == (5, 96)
    assert torch.equal(unpack_int4(packed), steps)
    assert packed[0, 3] == steps[0, 3] + 16 * steps[0, 35]  # as the format says


def test_each_group_has_the_best_of_the_scales_and_never_a_worse_one_than_the_plain() -> None:
    torch.manual_seed(1)
    weight = torch.randn(16, 200) * torch.logspace(-4, 2, 16)[:, None]
    weight[3] = 0.0
    packed, scale = quantize_groups(weight)
    layer = RoundedLinear(packed, scale, in_features=200)
    error = torch.nn.functional.pad(layer.floats() - weight, (0, 56)).view(16, 4, 64).square().sum(2)
    groups = torch.nn.functional.pad(weight, (0, 56)).view(16, 4, 64)
    plain = (groups.abs().amax(2, keepdim=True) / 7).clamp(min=1e-30)
    plain_error = ((groups / plain).round() * plain - groups).square().sum(2)
    assert error.sum(1).le(0.95 * plain_error.sum(1) + 1e-30).all()
    assert (layer.floats()[3] == 0).all()
    x = torch.randn(3, 200)
    torch.testing.assert_close(layer(x), x @ layer.floats().T)


def test_a_group_of_one_value_is_exact() -> None:
    for value in (1.0, -1.0, 0.5):
        layer = RoundedLinear(*quantize_groups(torch.full((2, 64), value)), in_features=64)
        assert torch.equal(layer.floats(), torch.full((2, 64), value))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_rounded_bundle_is_the_float_one_rounded_on_loading(
    bundle: Bundle, bundle_folder: Path, codec_folder: Path, tmp_path: Path, precision: Weights
) -> None:
    write_bundle(tmp_path / "b", model=bundle.model, tokenizer=bundle.tokenizer, codec_folder=codec_folder,
                 precision=precision, info={})  # fmt: skip
    rows = torch.randint(0, 30, (1, 10, bundle.model.config.num_codebooks + 1))
    mask = torch.ones_like(rows, dtype=torch.bool)
    stored = load_bundle(tmp_path / "b").model
    rounded = load_bundle(bundle_folder, weights=precision).model
    plain = load_bundle(tmp_path / "b", kernels=False).model
    assert stored.code_heads is not None
    assert {type(head) for head in stored.code_heads} == {KernelLinear}
    assert plain.to("meta").code_logits(torch.empty(1, plain.config.depth.dim, device="meta"), 1).is_meta, "all move"
    plain = load_bundle(tmp_path / "b", kernels=False).model
    kinds = {module.kind for module in stored.backbone.modules() if isinstance(module, KernelLinear)}
    assert kinds == {precision}
    assert isinstance(stored.projection, KernelLinear)
    assert stored.projection.kind == "int8"
    with torch.inference_mode():
        ours, same, torchs = (model.hidden(rows, mask) for model in (stored, rounded, plain))
    assert (ours - torchs).norm() < 0.03 * torchs.norm()
    # Embeddings of a stored bundle are float16.
    assert (ours - same).norm() < 0.03 * same.norm()
    with pytest.raises(ArtifactError, match=f"its weights are {precision}, not fp32"):
        load_bundle(tmp_path / "b", weights="fp32")
    with pytest.raises(ArtifactError, match="made for speaking only"):
        load_weights(CsmModel(bundle.model.config), tmp_path / "b", precision)


def test_float_bundles_are_spoken_with_the_weights_asked_for(bundle_folder: Path) -> None:
    for weights, kind, dtype in (("fp32", "fp32", torch.float32), ("bf16", "bf16", torch.bfloat16)):
        model = load_bundle(bundle_folder, weights=weights).model  # type: ignore[arg-type]
        assert isinstance(model.codebook0_head, KernelLinear)
        assert model.codebook0_head.kind == kind
        assert model.audio_embeddings.weight.dtype == dtype


def test_rows_of_int8_are_read_as_before() -> None:
    """Bundles written before int4 have the same names, shapes and meaning."""
    weight = torch.randn(4, 6)
    rows, scale = quantize_rows(weight)
    assert (rows.shape, rows.dtype, scale.shape, scale.dtype) == ((4, 6), torch.int8, (4,), torch.float32)
