"""A checkpoint as a model: built without memory, its weights laid over the file's own pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csm_model.checkpoints.sizes import Rope
from csm_model.checkpoints.source import open_checkpoint
from csm_model.config import ModelConfig
from csm_model.model import CsmModel, meta_model, with_tables


def load_model(path: Path, *, dtype: torch.dtype | None = None, rope: Rope | None = None) -> CsmModel:
    """A model with the weights of a checkpoint in any layout, in eval mode.

    Weights stay in the file's pages until they are used, and are shared with other processes that map the file; a
    write to them (training) changes the process's own copy. `dtype` None leaves them as they are.

    Raises:
        InputError, ArtifactError: see `open_checkpoint`; or it is not a whole model, or a number in it is none.
    """
    checkpoint = open_checkpoint(path, rope=rope)
    checkpoint.check()
    for entry in checkpoint.entries:
        for _ in checkpoint.blocks(entry):  # read on the way to the page cache, in blocks; mapped, all would count
            pass
    model = meta_model(checkpoint.config)
    files: dict[Path, Any] = {}
    state: dict[str, Tensor] = {}
    for entry in checkpoint.entries:
        tensor = entry.to_own(checkpoint.weights[entry.own].mapped(files))
        state[entry.own] = tensor if dtype is None else tensor.to(dtype)
    model.load_state_dict(state, assign=True)
    return with_tables(model).eval()


def read_sizes(path: Path, *, rope: Rope | None = None) -> ModelConfig:
    """The sizes of a checkpoint in any layout; its weights are not read."""
    return open_checkpoint(path, rope=rope).config
