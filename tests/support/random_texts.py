"""Texts of every kind of character, and what a model says of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from readings import forms

from csm_model.errors import InputError
from csm_model.inference.batch import SpeechBatch
from csm_model.inference.narration import Utterance
from csm_model.inference.safety import Reason
from csm_model.inference.sampling import Sampling


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of every kind of character, of forms side by side, and of forms with characters in between."""
    rng = random.Random(seed)
    signs = list(
        "abcxyzABCXYZ0123456789 .,;:!?-\u2013\u2014\u2212+*/\\<>=~^_|#@&%$\u20ac\u00a3\u00a5()[]{}\"'`\u00b4\u2019"
        "\u201c\u00bd\u00b2\u00b3\u00b0\u00b5\u03c0\u03a9\u221e\u2264\u2260\u2192\U0001f600\u597d\u042f\u00e9\u0301\u200b\u202e"
        "\u00a0\u202f\u00ad\ue005\ufffd\0\t\n"
    )
    known = [form for form, _ in forms()]
    texts = []
    for number in range(count):
        kind = number % 4
        if kind == 0:
            text = "".join(rng.choices(signs, k=rng.randint(1, 200)))
        elif kind == 1:
            text = rng.choice(["", " ", ". "]).join(rng.choices(known, k=rng.randint(1, 8)))
        elif kind == 2:
            mixed = list(" ".join(rng.choices(known, k=rng.randint(1, 5))))
            for _ in range(rng.randint(1, 8)):
                place = rng.randrange(len(mixed) + 1)
                mixed[place : place + rng.randint(0, 1)] = [rng.choice(signs)]
            text = "".join(mixed)
        else:
            ranges = ((32, 127), (160, 0x2FFF), (0x1F300, 0x1F700), (0xE000, 0xF8FF), (0x10000, 0x10FFFF))
            text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randint(1, 100)))
        texts.append(text[:1000])
    return texts


@dataclass
class Said:
    """What became of a text."""

    text: str
    frames: int = 0
    seconds: float = 0.0
    """Until its first turn was ready to be read."""
    end: Reason | Exception | None = None


def say_all(
    batch: SpeechBatch, texts: Sequence[str], *, frames: int, clock: Callable[[], float] = lambda: 0.0
) -> Iterator[Said]:
    """Says texts in all slots of a model together, `frames` frames of each at most; in the order in which they end."""
    waiting = list(enumerate(texts))[::-1]
    live: dict[int, Said] = {}

    def hear(slot: int, _: object) -> None:
        live[slot].frames += 1

    while waiting or live:
        for slot in set(range(batch.slots)) - live.keys():
            if not waiting:
                break
            seed, text = waiting.pop()
            said, begin = Said(text), clock()
            try:
                batch.open(slot, Utterance(text=text, speaker=0, sampling=Sampling(seed=seed), max_frames=frames))
            except InputError as error:
                said.end = error
                yield said
            else:
                live[slot] = said
            said.seconds = clock() - begin
        for slot in live:
            if batch.over(slot) is None and batch.reads(slot):
                batch.prefill(slot)
        sounding = [slot for slot in live if batch.over(slot) is None and batch.sounds(slot)]
        if sounding:
            batch.step(sounding, hear)
        for slot in [slot for slot in live if batch.over(slot) is not None]:
            live[slot].end = batch.over(slot)
            batch.close(slot)
            yield live.pop(slot)
