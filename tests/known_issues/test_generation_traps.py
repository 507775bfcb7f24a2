"""How other programs end speech too early, too late or not at all, or refuse a context that fits.

The letter is that of the list that the defects were collected in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from csm_model.bundle import Bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.inference.context import ContextTurn, lay_out
from csm_model.inference.decoding import FrameDecoder
from csm_model.inference.generator import Generator
from csm_model.inference.safety import MIN_FRAMES, Reason
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer

LIKELIEST = Sampling(temperature=0.0, depth_temperature=0.0)


def model_that_ends(end: Literal["reserved", "zeros"], *, last_code: int = 0) -> CsmModel:
    """A model whose likeliest frame closes speech; with a `last_code`, the last codebook has that or the next."""
    config = replace(
        debug_config(text_vocab_size=PhonemeTokenizer().vocab_size, num_codebooks=4, codebook_size=32), end=end
    )
    torch.manual_seed(0)
    model = CsmModel(config).eval()
    model.codebook0_head = torch.nn.Linear(config.backbone.dim, config.audio_vocab_size)
    with torch.no_grad():
        model.codebook0_head.weight.zero_()
        model.codebook0_head.bias.zero_()
        model.codebook0_head.bias[config.end_code] = 1.0
        model.audio_head.zero_()
        if last_code:  # whatever the state's sign, one of the two is likelier than all others
            model.audio_head[-1, :, last_code] = 1.0
            model.audio_head[-1, :, last_code + 1] = -1.0
    return model


@pytest.mark.parametrize(("last_code", "ends"), [(0, True), (5, False)])
def test_e_only_a_frame_of_zeros_in_all_codebooks_ends_speech(last_code: int, ends: bool) -> None:
    """Hugging Face stops when all codebooks but the last are zero, and decodes that frame as sound; Sesame goes on."""
    model = model_that_ends("zeros", last_code=last_code)
    layout = lay_out("Hello.", 0, tokenizer=PhonemeTokenizer(), config=model.config)
    decoder = FrameDecoder(model, slots=1, rows=len(layout.prompt.rows) + layout.limit)
    decoder.begin(0, LIKELIEST)
    decoder.read(0, layout.prompt)
    frame = decoder.draw([0], [True])
    assert frame.codes[0, :-1].tolist() == [0, 0, 0]
    assert (int(frame.codes[0, -1]) == 0) == ends
    assert bool(frame.ended) == ends


@pytest.mark.parametrize("end", ["reserved", "zeros"])
def test_e_speech_that_would_end_with_its_first_frame_has_sound(end: Literal["reserved", "zeros"]) -> None:
    """Sesame's generator has nothing to join when the first frame is the end, and breaks."""
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig.debug()).eval()
    generator = Generator(Bundle(model=model_that_ends(end), tokenizer=PhonemeTokenizer(), codec=codec, manifest={}))
    speech = generator.speak("Hello.", 0, sampling=LIKELIEST)
    assert (speech.codes.shape[1], speech.reason) == (MIN_FRAMES, Reason.ENDED)
    assert (speech.codes[0] != generator.config.end_code).all()


def test_e_the_context_may_fill_what_the_speech_does_not_need() -> None:
    """Sesame's default sets 1,125 frames aside for any text, and refuses a prompt of more than 923 rows."""
    config = debug_config(text_vocab_size=PhonemeTokenizer().vocab_size, num_codebooks=4, codebook_size=32)
    tokenizer = PhonemeTokenizer()
    alone = lay_out("Hello.", 0, tokenizer=tokenizer, config=config)
    head = len(tokenizer.encode("Before.", 1)) + 1
    room = config.max_rows - len(alone.prompt.rows) - alone.limit - head
    assert room > 1900
    for frames, dropped in ((room, 0), (room + 1, 1)):
        turn = ContextTurn(speaker=1, text="Before.", codes=torch.zeros(4, frames, dtype=torch.long))
        layout = lay_out("Hello.", 0, tokenizer=tokenizer, config=config, context=[turn])
        assert layout.dropped == dropped
    model = CsmModel(config).eval()
    codec = RvqCodec(RvqConfig.debug()).eval()
    generator = Generator(Bundle(model=model, tokenizer=tokenizer, codec=codec, manifest={}))
    full = ContextTurn(speaker=1, text="Before.", codes=torch.zeros(4, room, dtype=torch.long))
    assert generator.speak("Hello.", 0, context=[full], sampling=Sampling(seed=1)).audio.size
