"""The best of several takes: a packaged voice says what it was asked for in some, and something else in others."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import numpy as np
import pytest

from csm_components.speak.takes import MAX_TAKES, BestOf, KeptTake, check_takes, take_seed
from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.client.speech import SpeechService, SpeechStream
from csm_serving.wire.protocol import Chunk, End, SpeechRequest

ASKED = "The library opens at nine thirty on Monday."
CLOSE = "The library opens at ten thirty on Monday."
OTHER = "My brother works at the museum in Chicago."


class Actor(SpeechService):
    """Says the texts of `script` one after another, whatever it is asked; `!` before one: it is cut."""

    def __init__(self, script: Sequence[str]) -> None:
        from hibari import Hibari

        self._voice = Hibari(threads=1)
        self._script = script
        self.seeds: list[int] = []
        self.asked: list[str] = []

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        text = self._script[len(self.seeds)]
        self.seeds.append(request.seed)
        self.asked.append(request.text + "".join(parts or ()))
        return SpeechStream(self._frames(self._voice(text.removeprefix("!"), seed=0), ended=text[0] != "!"))

    def _frames(self, sound: np.ndarray, *, ended: bool) -> Generator[Chunk | End, None, None]:
        for index in range(len(sound) // FRAME_SAMPLES):
            frame = sound[index * FRAME_SAMPLES : (index + 1) * FRAME_SAMPLES]
            yield Chunk(audio=frame, frame_index=index, codes=np.full(4, len(self.seeds), np.int32))
        yield End(ended=ended)


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        ([ASKED], KeptTake(number=1, drawn=1, word_errors=0, words=8)),
        ([OTHER, ASKED, OTHER], KeptTake(number=2, drawn=2, word_errors=0, words=8)),
        ([OTHER, CLOSE, OTHER], KeptTake(number=2, drawn=3, word_errors=1, words=8)),
        ([f"!{ASKED}", CLOSE, OTHER], KeptTake(number=2, drawn=3, word_errors=1, words=8)),
        ([CLOSE, CLOSE, CLOSE], KeptTake(number=1, drawn=3, word_errors=1, words=8)),
    ],
    ids=["the first is right", "the second is right", "the closest", "none that was cut", "the first of equals"],
)
def test_the_take_with_the_fewest_faults_is_handed_on(script: list[str], kept: KeptTake) -> None:
    actor, told = Actor(script), list[KeptTake]()
    chunks = list(BestOf(actor, 3, tell=told.append).stream(ASKED, 1, seed=7))
    assert told == [kept]
    assert {int(chunk.codes[0]) for chunk in chunks} == {kept.number}
    assert actor.seeds == [take_seed(7, number) for number in range(1, kept.drawn + 1)]
    assert actor.seeds[0] == 7


def test_text_that_comes_in_parts_is_waited_for() -> None:
    actor = Actor([OTHER, ASKED])
    BestOf(actor, 2).say(iter(["The library ", "opens at nine ", "thirty on Monday."]))
    assert actor.asked == [ASKED, ASKED]


def test_seeds_of_takes_differ() -> None:
    seeds = {take_seed(seed, number) for seed in range(50) for number in range(1, MAX_TAKES + 1)}
    assert len(seeds) == 50 * MAX_TAKES
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("takes", [0, -1, MAX_TAKES + 1])
def test_too_many_takes_or_none_are_refused(takes: int) -> None:
    with pytest.raises(InputError, match=f"takes {takes}: must be 1 to 16"):
        check_takes(takes)
