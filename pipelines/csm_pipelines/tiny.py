"""An input that a preset asks to be made: a codec with random weights."""

from __future__ import annotations

from pathlib import Path

from csm_model.errors import ArtifactError, InputError


def random_codec(folder: Path, *, seed: int = 0) -> Path:
    """A tiny codec with random weights, the same each time: it codes and decodes, and nothing can be understood.

    One that is in the folder already, and whole, is taken.
    """
    import torch

    from csm_model.codec import RvqCodec, RvqConfig, load_codec

    try:
        load_codec(folder)
    except (InputError, ArtifactError):
        torch.manual_seed(seed)
        RvqCodec(RvqConfig.debug()).eval().save(folder)
    return folder
