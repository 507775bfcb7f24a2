"""`CSM_CPU_ISA`: the same model and codecs without kernels, by torch alone, to within rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csm_model.codec import RvqCodec, RvqConfig, load_codec
from csm_model.codec.mimi import MimiCodec
from csm_model.codec.slots import rows_of
from csm_model.codec.source import Controls
from csm_model.config import debug_config
from csm_model.errors import InputError
from csm_model.kernels import machine, use_kernels
from csm_model.kernels.linear import KernelLinear
from csm_model.model import CsmModel

DEMO_CODEC = Path(__file__).parents[2] / "deploy" / "demo" / "codec"
CONFIG = debug_config(text_vocab_size=40, num_codebooks=4, codebook_size=61)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is made meanwhile has no kernels."""
    forget()
    monkeypatch.setenv("CSM_CPU_ISA", "none")
    yield
    monkeypatch.undo()
    forget()


def forget() -> None:
    machine._wanted.cache_clear()
    machine.this_machine.cache_clear()


def rvq_controls() -> Tensor:
    """What drives the vocoder, of weights drawn at random: their pitch jumps about, and so would the sound."""
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig(voicing=True)).eval().requires_grad_(False)
    decoder = codec.slot_decoder(2)
    codes = torch.randint(1024, (2, 4, 3), generator=torch.Generator().manual_seed(1))
    rows = rows_of([1, 0], 2, 2, torch.device("cpu"))
    with torch.inference_mode():
        latents = codec.quantizer.decode(codes).split(1, dim=1)
        controls = [decoder._controls(latent, rows) for latent in latents]
    return torch.cat([driven(each) for each in controls])


def driven(by: Controls) -> Tensor:
    """All of it side by side; the pitch in hundreds of Hz."""
    assert by.voicing is not None
    return torch.cat([by.pitch[..., None] / 100, by.voicing[..., None], by.pulses, by.noise], dim=-1)


def demo_sound() -> Tensor:
    """Of the demo's codec, stepped in slots."""
    decoder = load_codec(DEMO_CODEC).slot_decoder(4)
    codes = torch.randint(1024, (3, 4, 6), generator=torch.Generator().manual_seed(1))
    return torch.cat([decoder.step(codes[:, :, frame : frame + 1], [0, 1, 2]) for frame in range(6)], dim=-1)


def mimi_sound() -> Tensor:
    codec = MimiCodec.random(0, num_codebooks=4)
    return codec.decode(torch.randint(2048, (2, 4, 2), generator=torch.Generator().manual_seed(1)))


def logits() -> Tensor:
    torch.manual_seed(0)
    model = use_kernels(CsmModel(CONFIG).eval().requires_grad_(False))
    rows = torch.randint(40, (2, 9, CONFIG.num_codebooks + 1), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        state = model.hidden(rows, torch.ones_like(rows, dtype=torch.bool))
        return model.codebook0_head(state)


def test_the_demos_sound_is_the_same_but_for_a_harmonic(request: pytest.FixtureRequest) -> None:
    """A pitch that is off by a rounding may bring one harmonic more or less below 12 kHz: 40 dB under full scale."""
    expected = demo_sound()
    request.getfixturevalue("without")
    torch.testing.assert_close(demo_sound(), expected, rtol=0.0, atol=1e-2)


@pytest.mark.parametrize("made", [rvq_controls, mimi_sound, logits], ids=lambda made: made.__name__)
def test_torch_alone_gives_the_same_to_within_rounding(
    made: Callable[[], Tensor], request: pytest.FixtureRequest
) -> None:
    expected = made()
    request.getfixturevalue("without")
    torch.testing.assert_close(made(), expected, rtol=1e-4, atol=2e-5)


def test_there_are_no_kernels_then(without: None) -> None:
    model = use_kernels(CsmModel(CONFIG).eval().requires_grad_(False))
    assert not any(isinstance(module, KernelLinear) for module in model.modules())
    assert model.backbone.stepped is None
    with pytest.raises(InputError, match="CSM_CPU_ISA is 'none': there are no kernels"):
        machine.this_machine()


def test_a_setting_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_CPU_ISA", "sse9")
    forget()
    try:
        with pytest.raises(InputError, match="'sse9'; it must be one of native, avx512, avx2, none"):
            machine.this_machine()
    finally:
        monkeypatch.undo()
        forget()


def test_neither_numba_nor_llvmlite_is_needed_then() -> None:
    """As in an installation that has them not: their import fails."""
    script = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
import torch
from csm_model.codec import RvqCodec, RvqConfig, load_codec
from csm_model.config import debug_config
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.prompt import text_rows
from csm_model.inference.sampling import Sampling
from csm_model.kernels import use_kernels
from csm_model.model import CsmModel

config = debug_config(text_vocab_size=40, num_codebooks=4, codebook_size=32)
decoder = FrameDecoder(use_kernels(CsmModel(config).eval().requires_grad_(False)), slots=2, rows=9)
decoder.begin(1, Sampling())
decoder.read(1, Prompt(*text_rows([5, 6, 7], config)))
codes = decoder.draw([1], [False]).codes
decoder.feed([1], codes)
sound = RvqCodec(RvqConfig.debug()).eval().decode(codes.clamp(max=31)[..., None])
print(tuple(sound.shape), bool(sound.isfinite().all()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "CSM_CPU_ISA": "none"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(1, 1, 1920) True"
