"""Steps through torch.compile draw the codes that eager ones do."""

from __future__ import annotations

import shutil

import pytest
import torch

from csm_model.config import debug_config
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.prompt import text_rows
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel

CONFIG = debug_config(text_vocab_size=40, num_codebooks=4, codebook_size=61)


def frames(model: CsmModel, *, compiled: bool) -> torch.Tensor:
    decoder = FrameDecoder(model, slots=1, rows=10, compiled=compiled)
    decoder.begin(0, Sampling(temperature=0.0, depth_temperature=0.0))
    decoder.read(0, Prompt(*text_rows([5, 6, 7, 8], CONFIG)))
    codes = []
    for _ in range(6):
        codes.append(decoder.draw([0], [False]).codes)
        decoder.feed([0], codes[-1])
    return torch.cat(codes)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_give_the_same_codes() -> None:
    torch.manual_seed(3)
    model = CsmModel(CONFIG).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(6.0 if weight.dim() > 1 else 1.0)
    assert torch.equal(frames(model, compiled=True), frames(model, compiled=False))
