"""A bundle as a source of streams: whatever cuts its text, a server says what the offline generator says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from csm_model.bundle import load_bundle
from csm_model.errors import InputError
from csm_model.inference.context import ContextTurn
from csm_model.inference.generator import Generator
from csm_serving.protocol import SpeechRequest, Turn
from csm_serving.source import BundleSource


def test_a_bundle_whose_text_is_cut_by_bpe_is_served(bpe_bundle: Path) -> None:
    source = BundleSource.load(bpe_bundle)
    request = SpeechRequest(
        text="Hello 雨 <|end_of_text|>", speaker=1, max_frames=6, context=(Turn(speaker=0, text="How are you?"),)
    )
    chunks = list(source(request))
    context = [ContextTurn(speaker=0, text="How are you?")]
    offline = Generator(load_bundle(bpe_bundle)).speak(request.text, 1, context=context, max_frames=6)
    assert np.array_equal(np.stack([chunk.codes for chunk in chunks], axis=1), offline.codes.numpy())
    assert list(source(source.warm_up_request()))


@pytest.mark.parametrize(("text", "speaker", "message"), [("?!", 0, "nothing to say"), ("Hello", 2, "speaker 2 is")])
def test_what_a_bpe_bundle_cannot_say_is_refused(bpe_bundle: Path, text: str, speaker: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        next(BundleSource.load(bpe_bundle)(SpeechRequest(text=text, speaker=speaker)))
