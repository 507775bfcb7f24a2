"""Full fine-tuning of weights that other programs wrote."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from csm_model.bundle import load_bundle
from csm_model.checkpoints import Layout, convert
from csm_model.config import debug_config
from csm_model.errors import ArtifactError
from csm_model.files import read_json, write_json
from csm_model.model import CsmModel
from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import World
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)


def foreign(token_folder: Path, folder: Path, layout: Layout, **changes: int) -> tuple[Path, CsmModel]:
    """A model with random weights that fits the tokens, as another program would have stored it."""
    manifest = read_json(token_folder / "manifest.json")
    sizes = {
        "text_vocab_size": manifest["vocab_size"],
        "num_codebooks": manifest["num_codebooks"],
        "codebook_size": manifest["codebook_size"],
    }
    torch.manual_seed(7)
    model = CsmModel(debug_config(**{**sizes, **changes}))
    (folder / "own").mkdir(parents=True)
    save_file(dict(model.state_dict()), folder / "own" / "model.safetensors")
    write_json(folder / "own" / "config.json", asdict(model.config))
    convert(folder / "own", folder / layout, to=layout)
    return folder / layout, model


def settings(token_folder: Path, out: Path, checkpoint: Path) -> TrainingConfig:
    return TrainingConfig(
        tokens=str(token_folder), out=str(out), checkpoint=str(checkpoint), steps=3, row_length=128, batch_packs=1,
        learning_rate=1e-3, warmup_steps=1, log_every=1, validate_every=3, checkpoint_every=2, dropout=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["hf", "sesame"])
def test_weights_of_other_programs_are_where_it_begins(layout: Layout, token_folder: Path, tmp_path: Path) -> None:
    checkpoint, model = foreign(token_folder, tmp_path, layout)
    trainer = Trainer(settings(token_folder, tmp_path / "out", checkpoint), ALONE)
    before = model.state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.dtype == torch.float32
    manifest = trainer.run()
    assert manifest["parent_digest"] is None
    after = load_bundle(tmp_path / "out" / "final", kernels=False).model.state_dict()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in after.items())
    stored, _ = foreign(token_folder, tmp_path / "again", layout)
    for one, other in zip(sorted(checkpoint.iterdir()), sorted(stored.iterdir()), strict=True):
        assert one.read_bytes() == other.read_bytes(), "training must not write into the files it began from"


def test_weights_of_another_codec_are_refused(token_folder: Path, tmp_path: Path) -> None:
    checkpoint, _ = foreign(token_folder, tmp_path, "hf", codebook_size=64)
    with pytest.raises(ArtifactError, match="its codebook_size is 64, the tokens' is 32; tokenise the corpus with"):
        Trainer(settings(token_folder, tmp_path / "out", checkpoint), ALONE)
