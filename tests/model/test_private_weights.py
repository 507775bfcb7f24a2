"""What speaks is what was digested when it was loaded, whatever becomes of the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_bundles import random_bundle
from safetensors.torch import load_file, save_file

from csm_model.bundle import load_bundle
from csm_model.errors import DigestError
from csm_model.files import private_copy
from csm_model.inference.generator import Generator
from csm_model.inference.sampling import Sampling

TEXT = "The train to the lake leaves at nine."


def zeros(path: Path) -> None:
    """As `rsync --inplace` and `dd conv=notrunc` write."""
    with path.open("r+b") as file:
        kept = min(2_000, path.stat().st_size)
        file.seek(kept)
        file.write(bytes(path.stat().st_size - kept))


def cut(path: Path) -> None:
    """As `cp` does first. A map of it is then no memory any more: SIGBUS."""
    os.truncate(path, 0)


@pytest.mark.parametrize("becomes", [zeros, cut, Path.unlink], ids=["overwritten", "cut", "gone"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
def test_speech_does_not_follow_the_files(weights: str, becomes: Callable[[Path], None], tmp_path: Path) -> None:
    folder = random_bundle(tmp_path)
    bundle = load_bundle(folder, weights=weights)  # type: ignore[arg-type]
    sampling = Sampling(temperature=0.0, guidance=1.0)
    before = Generator(bundle).speak(TEXT, 0, sampling=sampling, max_frames=6)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            becomes(path)
    again = Generator(bundle).speak(TEXT, 0, sampling=sampling, max_frames=6)
    assert torch.equal(before.codes, again.codes)
    assert np.array_equal(before.audio, again.audio)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(), "some file is still mapped"


def test_weights_that_change_between_their_check_and_their_reading_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_bundle(tmp_path)
    from csm_model import bundle as module

    real = module.read_manifest
    monkeypatch.setattr(module, "read_manifest", lambda of: (real(of), zeros(of / "model.safetensors"))[0])
    with pytest.raises(DigestError, match=r"model\.safetensors: was changed while it was read"):
        load_bundle(folder)


def test_a_private_copy_is_the_file_and_takes_its_memory_once(tmp_path: Path) -> None:
    path = tmp_path / ("ein Name mit 'allem' äöü " + "x" * 200)
    tensors = {"a": torch.arange(3_000_000, dtype=torch.float32), "b": torch.zeros(0)}
    save_file(tensors, path)
    with private_copy(path) as (copy, digest):
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        loaded = load_file(copy)
        descriptor = int(copy.name)
    cut(path)
    assert torch.equal(loaded["a"], tensors["a"])
    loaded["a"][0] = 7.0  # private to whoever mapped it
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
