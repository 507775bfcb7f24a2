"""Checkpoints that a kill cannot spoil: a folder that appears by rename, every file named by its digest.

checkpoints/step-00000200/{model.safetensors, optimizer.pt, state.json}
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from csm_model.errors import ArtifactError
from csm_model.files import digest_of_file, read_json, write_json
from csm_model.model import CsmModel

_log = logging.getLogger(__name__)
_FILES = ("model.safetensors", "optimizer.pt")


def save_checkpoint(root: Path, *, step: int, model: CsmModel, optimizer: torch.optim.Optimizer, keep: int) -> Path:
    """Writes the checkpoint of a finished step and removes all but the newest `keep`."""
    folder = root / f"step-{step:08}"
    partial = root / f".{folder.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(model.state_dict(), partial / _FILES[0])
    torch.save(optimizer.state_dict(), partial / _FILES[1])
    write_json(
        partial / "state.json", {"step": step, "files": {name: digest_of_file(partial / name) for name in _FILES}}
    )
    if not folder.exists():
        partial.rename(folder)
    for old in _newest_first(root)[keep:]:
        shutil.rmtree(old)
    return folder


def load_newest(root: Path, *, model: CsmModel, optimizer: torch.optim.Optimizer) -> int:
    """Loads the newest checkpoint that is whole and returns its step; 0 where there is none.

    A damaged checkpoint is reported and passed over for the one before it.
    """
    for folder in _newest_first(root):
        try:
            state = read_json(folder / "state.json")
            damaged = [name for name in _FILES if digest_of_file(folder / name) != state["files"][name]]
        except (ArtifactError, OSError, KeyError) as error:
            damaged, state = [str(error)], {}
        if damaged:
            _log.warning("%s is damaged (%s); using the checkpoint before it", folder, damaged[0])
            continue
        model.load_state_dict(load_file(folder / _FILES[0]))
        optimizer.load_state_dict(torch.load(folder / _FILES[1], weights_only=True))
        return int(state["step"])
    return 0


def _newest_first(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []
