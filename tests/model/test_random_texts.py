"""Random texts through the engine's frames: each is said, or refused as its caller's error, and hurts no other."""

from __future__ import annotations

from random_texts import random_texts, say_all

from csm_model.bundle import Bundle
from csm_model.errors import InputError
from csm_model.inference.batch import SpeechBatch
from csm_model.inference.safety import Bounds, Reason

FRAMES = 2


def test_random_texts_are_spoken_or_refused(bundle: Bundle) -> None:
    texts = random_texts(80, seed=3)
    batch = SpeechBatch(bundle, slots=8, bounds=Bounds(silent_frames=0, repeated_frames=0))
    said = list(say_all(batch, texts, frames=FRAMES))
    assert len(said) == len(texts)
    spoken = [one for one in said if isinstance(one.end, Reason)]
    assert len(spoken) > len(texts) / 2
    for one in said:
        if one.end in (Reason.CUT, Reason.ENDED):
            assert one.frames == FRAMES or one.end is Reason.ENDED, one
        else:
            assert isinstance(one.end, InputError), one
            assert "\n" not in str(one.end)
            assert not one.frames
            has_words = bool(bundle.tokenizer.sounds_in(bundle.tokenizer.read(one.text).words))
            assert has_words == ("the pause before the first word" in str(one.end)), one
