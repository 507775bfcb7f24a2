"""A dialogue: read line by line, refused whole before its first sound, each turn heard by the next as it was spoken."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_model.errors import CsmError, InputError
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_serving.client.dialogue import (
    MAX_TURNS,
    PAUSE_S,
    Said,
    SpokenLine,
    check_dialogue,
    dialogue_of,
    read_dialogue,
    speak_dialogue,
)
from csm_serving.client.speech import SpeechOptions, SpeechService, SpeechStream
from csm_serving.server.local import LocalSpeech
from csm_serving.wire.protocol import MAX_CONTEXT_FRAMES, MAX_CONTEXT_TURNS, Chunk, End, SpeechRequest, Turn

TURNS: list[Said] = [
    (0, "Hello there."),
    (1, "Good morning to you."),
    (0, "Shall we go?"),
    (1, "Yes, at once."),
    (0, "Good."),
]


class Noted(SpeechService):
    """Speaks as another service does, and keeps what was asked; with `ends` its speakers end every turn."""

    def __init__(self, service: SpeechService, *, ends: bool = False) -> None:
        self._service = service
        self._ends = ends
        self.asked: list[SpeechRequest] = []

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        self.asked.append(request)
        stream = self._service.open(request, parts)
        return SpeechStream(self._ended(stream)) if self._ends else stream

    def _ended(self, stream: SpeechStream) -> Generator[Chunk | End, None, None]:
        yield from stream
        assert stream.end is not None
        yield replace(stream.end, ended=True, reason="ended")


class Counted(Noted):
    """Counts the frames that are made of what is asked."""

    frames = 0

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        return SpeechStream(self._counted(super().open(request, parts)))

    def _counted(self, stream: SpeechStream) -> Generator[Chunk | End, None, None]:
        for chunk in stream:
            self.frames += 1
            yield chunk
        assert stream.end is not None
        yield stream.end


class Frames(SpeechService):
    """So many frames of whatever is asked; those of speaker 1 are stopped."""

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        chunk = Chunk(audio=np.zeros(FRAME_SAMPLES, np.float32), frame_index=0, codes=np.zeros(4, np.int32))
        frames = min(self._frames, request.max_frames or self._frames)
        items: list[Chunk | End] = [*[chunk] * frames, End(ended=request.speaker != 1)]
        return SpeechStream(item for item in items)


@pytest.fixture(scope="module")
def local(bundle: Path) -> LocalSpeech:
    return LocalSpeech(bundle)


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_a_text_has_a_turn_a_line(tmp_path: Path) -> None:
    rows = ["\ufeff# A talk", "", "heart: Hello: you there?\r", "  1 :  Yes.  ", "\t", "Mr. Kumo: It is 9:30."]
    lines = read_dialogue(write(tmp_path / "talk.txt", *rows))
    assert [(line.place.rpartition(", ")[2], line.who, line.text) for line in lines] == [
        ("line 3", "heart", "Hello: you there?"),
        ("line 4", 1, "Yes."),
        ("line 6", "Mr. Kumo", "It is 9:30."),
    ]


def test_json_says_the_same(tmp_path: Path) -> None:
    turns = [{"speaker": "heart", "text": "Hello."}, {"speaker": 1, "text": "Yes."}]
    lines = read_dialogue(write(tmp_path / "talk.json", json.dumps(turns)))
    assert [(line.who, line.text) for line in lines] == [("heart", "Hello."), (1, "Yes.")]
    assert lines[1].place.endswith("talk.json, turn 2")


BAD_LINES = {
    "Hello there.": "has no colon",
    ": Hello there.": "nobody is named before the colon",
    "heart:": "the turn is empty: nothing to say",
    "heart: ...?!": "nothing to say",
    "heart: " + "word " * 201: "at most 1000 are one turn",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=BAD_LINES.values())
@pytest.mark.parametrize("seed", range(8))
def test_a_line_of_another_form_is_refused_with_its_number(tmp_path: Path, bad: str, seed: int) -> None:
    draw = random.Random(seed)
    good = ["0: Hello.", "kumo: And you?", "", "# nothing"]
    rows = [draw.choice(good) for _ in range(draw.randint(0, 20))]
    rows.insert(number := draw.randint(0, len(rows)), bad)
    with pytest.raises(InputError) as refused:
        read_dialogue(write(tmp_path / "talk.txt", *rows))
    assert f"talk.txt, line {number + 1}: " in str(refused.value)
    assert BAD_LINES[bad] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("talk.txt", b"", "talk.txt: has no turn; write who speaks, a colon"),
        ("talk.txt", b"# nothing but this\n\n", "talk.txt: has no turn"),
        ("talk.txt", "0: caf\u00e9".encode("latin-1"), "talk.txt: is not UTF-8"),
        ("talk.txt", None, "talk.txt: no such file; give a text with a turn a line"),
        ("talk.json", b"[]", "talk.json: has no turn"),
        ("talk.json", b"{}", "talk.json: must be a list of turns"),
        ("talk.json", b"[", "not valid JSON"),
        ("talk.json", b'[{"speaker": 0, "text": "Hi."}, {"speaker": 0}]', "talk.json, turn 2: must have speaker"),
        ("talk.json", b'[{"speaker": true, "text": "Hi."}]', "talk.json, turn 1: must have speaker"),
        ("talk.json", b'[{"speaker": 0, "text": "Hi.", "audio": "x.wav"}]', "talk.json, turn 1: must have speaker"),
        ("talk.json", b'[{"speaker": 0, "text": " "}]', "talk.json, turn 1: the turn is empty"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CsmError) as refused:
        read_dialogue(tmp_path / name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_as_many_turns_as_a_request_has_room_for(tmp_path: Path) -> None:
    rows = [f"{number % 2}: Hello." for number in range(MAX_TURNS)]
    assert len(read_dialogue(write(tmp_path / "talk.txt", *rows))) == MAX_TURNS == MAX_CONTEXT_TURNS + 1
    with pytest.raises(InputError, match=rf"talk.txt, line {MAX_TURNS + 1}: this is turn 66; .* at most 65, .*end it"):
        read_dialogue(write(tmp_path / "talk.txt", *rows, "0: Once more."))


def test_a_turn_that_may_go_on_becomes_several(tmp_path: Path) -> None:
    text = "It is sunny today, and we go out to the lake. " * 40
    lines = read_dialogue(write(tmp_path / "talk.txt", f"0: {text}", "1: Yes."), go_on=True)
    assert [line.who for line in lines] == [0, 0, 1]
    assert " ".join(line.text for line in lines[:2]) == text.strip()
    assert {line.place.rpartition(", ")[2] for line in lines[:2]} == {"line 1"}


def test_names_are_asked_for_and_heard_by_name(local: LocalSpeech) -> None:
    service = Noted(local, ends=True)
    turns: list[Said] = [("kumo", "Hello."), (0, "Good day."), ("kumo", "Shall we go?")]
    named = speak_dialogue(service, dialogue_of(turns, source="t"), max_frames=9)
    assert [(request.voice, request.speaker) for request in service.asked] == [
        ("kumo", None),
        (None, 0),
        ("kumo", None),
    ]
    assert [turn.voice for turn in service.asked[2].context] == ["kumo", None]
    by_number = dialogue_of([(1 if who == "kumo" else who, text) for who, text in turns], source="t")
    numbered = speak_dialogue(Noted(local, ends=True), by_number, max_frames=9)
    for one, other in zip(named.lines, numbered.lines, strict=True):
        np.testing.assert_array_equal(one.audio, other.audio)


def test_each_turn_hears_those_before_it_as_they_were_spoken(local: LocalSpeech, tmp_path: Path) -> None:
    service, told = Noted(local, ends=True), list[SpokenLine]()
    before = Turn(speaker=1, text="It is late.")
    done = speak_dialogue(
        service,
        dialogue_of(TURNS, source="t"),
        path=tmp_path / "talk.wav",
        tell=told.append,
        seed=5,
        max_frames=12,
        context=[before],
    )
    assert [(request.speaker, request.text, request.seed) for request in service.asked] == [
        (speaker, text, 5 + number) for number, (speaker, text) in enumerate(TURNS)
    ]
    assert tuple(told) == done.lines
    heard = [before]
    for request, line in zip(service.asked, done.lines, strict=True):
        assert [(turn.speaker, turn.text) for turn in request.context] == [(turn.speaker, turn.text) for turn in heard]
        assert (line.heard, line.dropped) == (len(heard), 0)
        chunks = list(local.open(request))
        np.testing.assert_array_equal(line.audio, np.concatenate([chunk.audio for chunk in chunks]))
        codes = np.stack([chunk.codes for chunk in chunks], axis=1)
        heard.append(Turn(speaker=request.speaker or 0, text=request.text, codes=codes, token=chunks[-1].token))
    for turn, known in zip(service.asked[-1].context[1:], heard[1:-1], strict=True):
        assert turn.codes is not None
        assert known.codes is not None
        np.testing.assert_array_equal(turn.codes, known.codes)
        assert turn.token == known.token


def test_the_sound_is_the_turns_with_silence_between(local: LocalSpeech, tmp_path: Path) -> None:
    played: list[np.ndarray] = []
    lines = dialogue_of(TURNS[:3], source="t")
    done = speak_dialogue(local, lines, path=tmp_path / "talk.wav", listener=played.append, max_frames=6)
    sound, rate = soundfile.read(tmp_path / "talk.wav", dtype="float32")
    assert rate == SAMPLE_RATE
    np.testing.assert_allclose(np.concatenate(played), sound, atol=1 / 32_768)
    assert done.seconds == len(sound) / SAMPLE_RATE
    end = 0
    for number, line in enumerate(done.lines):
        begin = round(line.begin_s * SAMPLE_RATE)
        assert begin == end + (round(PAUSE_S * SAMPLE_RATE) if number else 0)
        assert not sound[end:begin].any()
        end = begin + len(line.audio)
        np.testing.assert_allclose(sound[begin:end], line.audio, atol=1 / 32_768)
    assert end == len(sound)


def test_a_listener_that_leaves_gets_no_file(local: LocalSpeech, tmp_path: Path) -> None:
    def leave(line: SpokenLine) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speak_dialogue(local, dialogue_of(TURNS, source="t"), path=tmp_path / "talk.wav", tell=leave, max_frames=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hears", [0, 1, 3, None])
def test_a_turn_hears_as_many_as_it_should(hears: int | None) -> None:
    service = Noted(Frames(2))
    done = speak_dialogue(service, dialogue_of([(0, "Hello.")] * 6, source="t"), hears=hears)
    most = 6 if hears is None else hears
    assert [line.heard for line in done.lines] == [min(number, most) for number in range(6)]
    assert [len(request.context) for request in service.asked] == [line.heard for line in done.lines]
    assert not any(line.dropped for line in done.lines), "what is not to be heard is not left out for want of room"


def test_what_does_not_fit_a_request_is_left_out_and_told() -> None:
    frames = MAX_CONTEXT_FRAMES // 4 + 1
    done = speak_dialogue(Frames(frames), dialogue_of([(0, "Hello.")] * 6, source="t"))
    assert [(line.heard, line.dropped) for line in done.lines] == [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


def test_what_the_model_has_no_room_for_is_told(local: LocalSpeech) -> None:
    long = Turn(speaker=1, text="It is late.", codes=np.zeros((4, 1_950), np.int32))  # of 2,048 rows
    done = speak_dialogue(Noted(local, ends=True), dialogue_of(TURNS, source="t"), context=[long], max_frames=9)
    assert [line.heard + line.dropped for line in done.lines] == [1, 2, 3, 4, 5]
    assert (done.lines[0].dropped, done.lines[-1].dropped) == (0, 1)


def test_a_turn_that_was_stopped_is_not_heard_by_the_next() -> None:
    service = Noted(Frames(3))
    done = speak_dialogue(service, dialogue_of(TURNS, source="t"))
    assert [[turn.text for turn in request.context] for request in service.asked] == [
        [],
        ["Hello there."],
        ["Hello there."],
        ["Hello there.", "Shall we go?"],
        ["Hello there.", "Shall we go?"],
    ]
    assert not done.ended


def test_what_is_refused_is_refused_before_anything_is_spoken(local: LocalSpeech) -> None:
    service = Noted(local)
    check_dialogue(service, dialogue_of(TURNS, source="t"))
    assert [request.check for request in service.asked] == [True] * len(TURNS)
    bad: list[tuple[int | str, str, str]] = [
        (7, "Hello.", "speaker 7 is unknown: this bundle speaks as 0 (heart), 1 (kumo)"),
        ("anna", "Hello.", "voice 'anna' is unknown; this server has: heart, kumo"),
        (2**40, "Hello.", "speaker 1099511627776: must be 0 to"),
        ("a" * 101, "Hello.", "must be 1 to 100 characters"),
        (0, "你好。", "nothing to say"),
    ]
    for who, text, words in bad:
        with pytest.raises(InputError, match=rf"t, turn 6: .*{re.escape(words)}"):
            check_dialogue(local, dialogue_of([*TURNS, (who, text)], source="t"))


_BREAKS = [
    "<break/>",
    "<break time='40ms'/>",
    "<break time='1s'/>",
    '<break time="9s"/>',
    "<break strength='x-strong'/>",
]
_WORDS = [
    "Hello.",
    "At 9:30?",
    "1,204",
    "$5.20!",
    "3/4 cup",
    "Who?",
    "50 %",
    "(well)",
    "\N{LEFT DOUBLE QUOTATION MARK}No",
]
_MARKS = ["...", "\N{EM DASH}", "\N{THUMBS UP SIGN}", "\u4f60\u597d", "?!", "#", "<b>", "&amp;"]


@pytest.mark.parametrize("seed", range(12))
def test_a_turn_is_refused_beforehand_if_and_only_if_it_would_be_when_spoken(local: LocalSpeech, seed: int) -> None:
    """Turns that begin with breaks, have nothing else, are numbers, questions or marks."""
    draw = random.Random(seed)
    kinds = [_BREAKS, [*_BREAKS, *_MARKS], [*_BREAKS, *_WORDS], [*_WORDS, *_MARKS], [*_BREAKS, *_WORDS, *_MARKS]]
    texts = []
    for kind in kinds:
        pieces = draw.choices(kind, k=draw.randint(1, 5))
        texts.append(" ".join(pieces))
        texts.append(" ".join([draw.choice(_BREAKS), *pieces]))
    for text in texts:
        asked, refused = SpeechOptions(max_frames=draw.choice([None, 1, 3, 30])), ""
        try:
            next(local.stream(text, 0, **asked))
        except InputError as error:
            refused = str(error)
        service = Counted(local)
        line = dialogue_of([(0, text)], source="t")
        if refused:
            with pytest.raises(InputError) as beforehand:
                check_dialogue(service, line, **asked)
            assert str(beforehand.value) == f"t, turn 1: {refused}", text
        else:
            check_dialogue(service, line, **asked)
        assert service.frames == 0, "a check makes no sound"


@pytest.mark.parametrize(("pause_s", "hears"), [(-0.1, None), (11, None), (float("nan"), None), (0, -1)])
def test_a_pause_and_a_number_that_cannot_be_are_refused(pause_s: float, hears: int | None) -> None:
    with pytest.raises(InputError, match="must be 0"):
        speak_dialogue(Frames(1), dialogue_of(TURNS, source="t"), pause_s=pause_s, hears=hears)
