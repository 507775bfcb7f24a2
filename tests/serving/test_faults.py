"""Faults of every kind at every place of one stream's own work, beside streams that must not notice anything of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import HANG_S, eventually

from csm_model.bundle import Bundle, load_bundle
from csm_model.errors import CsmError, InputError
from csm_model.inference import narration
from csm_model.inference.batch import SpeechBatch
from csm_model.inference.jobs import SchedulerPolicy
from csm_model.inference.narration import Narration
from csm_model.inference.safety import Bounds
from csm_model.inference.sentences import SentenceSplitter
from csm_model.watermark import SlotMarker, open_watermark
from csm_serving.server.engine import Engine, Watchers
from csm_serving.server.failures import MOST, WITHIN_S, FailureBudget
from csm_serving.server.metrics import MemoryMetrics
from csm_serving.server.source import RequestReader, ResolvedRequest
from csm_serving.server.tokens import TurnChain
from csm_serving.wire.errors import ServingError, UnavailableError
from csm_serving.wire.protocol import Chunk, End, SpeechRequest, Turn

GOOD = "The train to the lake leaves at nine. Would you like some tea? We shall go for a walk. "
MARKED = "Hello there, my friend. This one has zebras in it. And then some more is said, as you can see. "
"""Whoever says this is to break."""
SLOTS = 4


class Panic(BaseException):
    """As PyO3's, which is no `Exception`."""


class SpeechlessError(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


FAULTS: list[Callable[[], BaseException]] = [
    lambda: IndexError("list index out of range"),
    lambda: KeyError("x"),
    lambda: RuntimeError("two\nlines"),
    lambda: AssertionError(),
    lambda: RecursionError("maximum recursion depth exceeded"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: StopIteration(),
    lambda: ZeroDivisionError(),
    lambda: OSError(28, "No space left on device"),
    lambda: MemoryError(),
    lambda: InputError("one line"),
    lambda: ServingError("one line"),
    lambda: Panic("a library panicked"),
    lambda: SpeechlessError(),
    lambda: SystemExit(3),
    lambda: KeyboardInterrupt(),
    lambda: GeneratorExit(),
]


class Ear:
    """A sink that keeps what it hears, and breaks where it is told to."""

    def __init__(self, breaks: str = "", fault: Callable[[], BaseException] = RuntimeError) -> None:
        self.codes: list[bytes] = []
        self.sound: list[bytes] = []
        self.answer: End | Exception | str | None = None
        self.over = threading.Event()
        self._breaks = breaks
        self._fault = fault

    def chunk(self, chunk: Chunk) -> None:
        self._maybe("chunk", len(self.codes) == 2)
        self.codes.append(chunk.codes.tobytes())
        self.sound.append(chunk.audio.tobytes())

    def end(self, end: End) -> None:
        self._last(end, "end")

    def fail(self, error: Exception) -> None:
        self._last(error, "fail")

    def drop(self) -> None:
        self._last("dropped", "drop")

    def cancelled(self) -> bool:
        self._maybe("cancelled", len(self.codes) > 0)
        return self._breaks == "drop" and len(self.codes) > 1

    def _last(self, answer: End | Exception | str, what: str) -> None:
        self.answer = answer
        self.over.set()
        self._maybe(what, True)

    def _maybe(self, what: str, now: bool) -> None:
        if self._breaks == what and now:
            raise self._fault()


class Tokenizer:
    """The bundle's, which breaks on a word."""

    def __init__(self, real: Any, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def read(self, text: str) -> Any:
        self._faults.at("read text", "zebras" in text)
        return self._real.read(text)

    def sounds_in(self, words: str) -> int:
        self._faults.at("sounds", "zebras" in words)
        sounds: int = self._real.sounds_in(words)
        return sounds

    def encode(self, text: str, speaker: int) -> list[int]:
        self._faults.at("tokenizer", "zebras" in text)
        ids: list[int] = self._real.encode(text, speaker)
        return ids


class Marker:
    """A watermark that cannot be set into one stream's sound."""

    def __init__(self, real: SlotMarker, faults: Faults) -> None:
        self._real = real
        self._faults = faults
        self.of: SpeechBatch | None = None

    def reset(self, slot: int) -> None:
        self._real.reset(slot)

    def step(self, audio: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
        assert self.of is not None
        talk = self.of.narration(slots[0])
        self._faults.at("mark", talk._asked.text == MARKED and talk.made == 4)
        return self._real.step(audio, slots)


class Chain(TurnChain):
    """Tokens of a stream that cannot be made."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def next(self, codes: Any) -> bytes:
        self._faults.at("token", True)
        return b""


class Faults:
    """What is raised, and where: set before a marked request is made, one at a time."""

    def __init__(self) -> None:
        self.place = ""
        self.fault: Callable[[], BaseException] = RuntimeError
        self.raised = 0

    def at(self, place: str, marked: bool) -> None:
        if marked and self.place == place:
            self.raised += 1
            raise self.fault()


class Reader(RequestReader):
    """Reads as always, and breaks where it is told to."""

    def __init__(self, bundle: Bundle, faults: Faults) -> None:
        super().__init__(bundle, client_voices="allow")
        self._faults = faults

    def read(self, request: SpeechRequest, **more: Any) -> ResolvedRequest:
        self._faults.at("read", request.text == MARKED)
        asked = super().read(request, **more)
        return (
            replace(asked, chain=Chain(self._faults))
            if request.text == MARKED and self._faults.place == "token"
            else asked
        )

    def is_quick(self, request: SpeechRequest) -> bool:
        self._faults.at("is_quick", request.text == MARKED)
        return super().is_quick(request) and not (request.text == MARKED and self._faults.place == "read")


OF_THE_TEXT = ("tokenizer", "read text", "sounds", "feed")
OF_THE_NARRATION = ("add", "advance", "see", "finish", "passed", "waiting", "dropped")
OF_THE_LISTENER = ("chunk", "end", "fail", "drop", "cancelled")
PLACES = (
    *(
        "tokenizer",
        "read text",
        "sounds",
        "read",
        "is_quick",
        "token",
        "feed",
        "lay_out",
        "watch",
        "mark",
        "enter",
        "over",
    ),
    *OF_THE_NARRATION,
    *OF_THE_LISTENER,
)


def cases() -> Iterator[tuple[str, Callable[[], BaseException]]]:
    """Every fault at some places, and at the others some of them, in turn."""
    turn = itertools.cycle(FAULTS)
    for place in PLACES:
        for fault in FAULTS if place in ("tokenizer", "see", "chunk") else itertools.islice(turn, 4):
            yield place, fault


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    return load_bundle(bundle)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Every place of a stream's own work, ready to break."""
    faults = Faults()

    def wrap(owner: Any, name: str, place: str, marked: Callable[..., bool]) -> None:
        real = vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)
        if isinstance(real, property):

            def of_property(self: Any) -> Any:
                faults.at(place, marked(self))
                return real.fget(self)  # type: ignore[misc]

            monkeypatch.setattr(owner, name, property(of_property))
            return

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            faults.at(place, marked(*args))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    def is_marked(talk: Narration, *_: Any) -> bool:
        return talk._asked.text == MARKED

    for name in OF_THE_NARRATION:
        wrap(Narration, name, name, is_marked)
    wrap(SentenceSplitter, "feed", "feed", lambda splitter, text: "zebras" in text)
    wrap(narration, "lay_out", "lay_out", lambda text, *_: "zebras" in text)
    wrap(SpeechBatch, "_enter", "enter", lambda batch, slot, stream: is_marked(stream.narration))
    real_see = Narration.see

    def see(self: Narration, codes: Any, audio: Any) -> Any:
        if is_marked(self) and faults.place == "watch" and len(self.sentences) == 1:
            monkeypatch.setattr(self._watch, "see", lambda *_: faults.at("watch", True))
        return real_see(self, codes, audio)

    monkeypatch.setattr(Narration, "see", see)
    return faults


@pytest.fixture
def engine(loaded: Bundle, faults: Faults) -> Iterator[Engine]:
    bundle = replace(loaded, tokenizer=Tokenizer(loaded.tokenizer, faults))
    mark = open_watermark("perth")
    assert mark is not None
    marker = Marker(mark.slot_marker(SLOTS), faults)
    batch = SpeechBatch(bundle, slots=SLOTS, bounds=Bounds(silent_frames=0), marker=marker)
    marker.of = batch

    def over(account: Any) -> None:
        faults.at("over", account.request.text == MARKED)

    engine = Engine(
        batch,
        Reader(bundle, faults),
        policy=SchedulerPolicy(frame_budget=0, lead_s=None),
        metrics=MemoryMetrics(),
        watchers=Watchers(over=over),
    )
    try:
        yield engine
    finally:
        engine.close(0.0)


def hear(engine: Engine, **given: Any) -> Ear:
    ear = Ear()
    engine.submit(SpeechRequest(**{"text": GOOD} | given), ear)
    assert ear.over.wait(HANG_S)
    return ear


def test_whatever_breaks_in_a_streams_own_work_ends_that_stream_alone(engine: Engine, faults: Faults) -> None:
    """Streams go on beside it from the first to the last, and every frame of theirs is the one of before."""
    asked = [{"seed": seed, "speaker": seed % 2, "max_frames": 60} for seed in range(SLOTS - 1)]
    before = [hear(engine, **given) for given in asked]
    assert all(isinstance(ear.answer, End) for ear in before)
    done = threading.Event()
    beside: list[tuple[int, Ear]] = []

    def listen(number: int) -> None:
        while not done.is_set():
            beside.append((number, hear(engine, **asked[number])))

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    wrong = []
    for place, fault in cases():
        faults.place, faults.fault = place, fault
        ear = Ear(place, fault)
        error: BaseException | None = None
        try:
            engine.submit(SpeechRequest(text=MARKED, max_frames=120, max_wait_s=HANG_S), ear)
        except BaseException as raised:
            error = raised
        else:
            if not ear.over.wait(HANG_S):
                wrong.append(f"{place}: {fault()!r}: hangs")
                break
            error = ear.answer if isinstance(ear.answer, Exception) else None
        faults.place = ""
        if place not in ("end", "drop", "over", "fail") and error is None:
            wrong.append(f"{place}: {type(fault()).__name__}: {ear.answer}")
        of_the_text = isinstance(fault(), LookupError | ArithmeticError | Panic) and place in OF_THE_TEXT
        if of_the_text and not isinstance(error, InputError):
            wrong.append(f"{place}: {type(fault()).__name__}: the text is its caller's, and the error is {error!r}")
        if place not in ("is_quick",) and error is not None and not isinstance(error, CsmError):
            wrong.append(f"{place}: {type(fault()).__name__}: not typed: {error!r}")
        if engine.broken or not engine.ready:
            wrong.append(f"{place}: {type(fault()).__name__}: the engine gave up: {engine.broken}")
            break
    done.set()
    for thread in threads:
        thread.join(HANG_S)
    assert not wrong, "\n".join(wrong)
    assert faults.raised > len(PLACES)
    assert len(beside) >= len(asked)
    for number, ear in beside:
        assert ear.answer == before[number].answer
        assert ear.codes == before[number].codes
        assert ear.sound == before[number].sound
    eventually(lambda: engine.live == 0)


def test_a_model_that_breaks_again_and_again_is_given_up(
    engine: Engine, loaded: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    real = SpeechBatch.step
    monkeypatch.setattr(engine, "_watchers", Watchers(broken=said.append))
    breaks = itertools.cycle([True] * (MOST - 1) + [False] * 30)

    def step(self: SpeechBatch, *args: Any) -> None:
        if next(breaks):
            raise RuntimeError("out of\nmemory")
        real(self, *args)

    monkeypatch.setattr(SpeechBatch, "step", step)
    broken = [hear(engine, max_frames=3) for _ in range(MOST - 1)]
    assert all(isinstance(ear.answer, ServingError) for ear in broken)
    assert engine.ready, "an accident or two are no reason to stop"
    assert isinstance(hear(engine, max_frames=3).answer, End)
    monkeypatch.setattr(SpeechBatch, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("out of\nmemory")))
    hear(engine, max_frames=3)
    eventually(lambda: said)
    assert not engine.ready
    assert said == [f"{MOST} steps broke within 60 s, the last one with RuntimeError: out of memory"]
    with pytest.raises(UnavailableError, match="the server is broken"):
        engine.submit(SpeechRequest(text=GOOD), Ear())


def test_what_a_prompt_breaks_on_counts_only_while_nothing_is_spoken() -> None:
    now = [0.0]
    budget = FailureBudget(lambda: now[0])
    for _ in range(20):
        for _ in range(MOST - 1):
            assert budget.failed(IndexError("x"), step=False) is None
        budget.worked()
    for _ in range(MOST - 1):
        budget.failed(IndexError("x"), step=False)
    assert "5 times in a row" in str(budget.failed(IndexError("x"), step=False))
    budget = FailureBudget(lambda: now[0])
    for _ in range(4 * MOST):
        assert budget.failed(SpeechlessError(), step=True) is None
        budget.worked()
        now[0] += WITHIN_S / (MOST - 1) + 1


def test_the_context_that_fits_is_known_before_any_of_it_is_encoded(loaded: Bundle) -> None:
    """Random contexts: the layout is the one of all their sound, and no more of it was encoded than was laid out.

    Also where the model was trained with few turns, which then are all it hears.
    """
    rng = np.random.default_rng(3)
    config = loaded.model.config
    encoded: list[int] = []

    class Codec:
        def __getattr__(self, name: str) -> Any:
            return getattr(loaded.codec, name)

        def encode(self, audio: torch.Tensor) -> torch.Tensor:
            encoded.append(audio.shape[-1])
            return torch.zeros(1, config.num_codebooks, -(-audio.shape[-1] // 1920), dtype=torch.long)

    words = "tea lake train walk morning nine sentence station".split()
    for n in range(60):
        trained = int(rng.choice([0, 0, 1, 2, 3]))
        recipe = {"recipe": {"max_turns": trained}}
        bundle = replace(loaded, codec=Codec(), manifest={**loaded.manifest, **recipe})  # type: ignore[arg-type]
        reader = RequestReader(bundle, client_voices="allow")
        most = int(rng.choice([40, config.max_rows // 3, config.max_rows]))
        turns = tuple(
            Turn(
                speaker=int(rng.integers(2)),
                text=" ".join(rng.choice(words, int(rng.integers(1, 12)))),
                audio=np.full(int(rng.integers(1, most)) * 1920, 0.1, np.float32) if rng.random() < 0.8 else None,
            )
            for _ in range(int(rng.integers(0, 1 + min(7, 4096 // most))))
        )
        text = GOOD[: int(rng.integers(20, len(GOOD)))]
        encoded.clear()
        request = SpeechRequest(text=text, context=turns)
        asked = reader.read(request).utterance
        kept = [turn for turn in turns if turn.audio is not None][-len(encoded) or len(turns) :]
        assert encoded == [len(turn.audio) for turn in kept if turn.audio is not None], n
        assert reader.is_quick(request) <= (not encoded), n
        all_of_it = replace(asked, context=tuple(reader._context_turn(turn, lambda: True) for turn in turns), dropped=0)
        one, other = (Narration(each, bundle=bundle, bounds=Bounds()) for each in (asked, all_of_it))
        one.advance()
        other.advance()
        assert one.speaking is not None
        assert other.speaking is not None
        assert torch.equal(one.speaking.layout.prompt.rows, other.speaking.layout.prompt.rows), n
        assert one.dropped == other.dropped, n
        assert not trained or len(turns) - one.dropped < trained, n
        if asked.is_whole(bundle.tokenizer) and any(turn.audio is not None for turn in turns):
            assert one.speaking.layout.dropped == 0, "what was encoded was laid out"


def test_a_caller_who_has_gone_is_not_read_for(loaded: Bundle) -> None:
    sound = np.full(1920, 0.1, np.float32)
    context = tuple(Turn(speaker=1, text="Tea?", audio=sound) for _ in range(3))
    left = iter([True, True, False])
    with pytest.raises(UnavailableError, match="nobody waits"):
        RequestReader(loaded).read(SpeechRequest(text=GOOD, context=context), wanted=lambda: next(left))
