"""Speech taken down as it arrives, over a service of a few lines."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Generator, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_serving.client import SpeechClient
from csm_serving.client.aio import AsyncSpeechStream, _in_turn
from csm_serving.client.audio import player
from csm_serving.client.speech import SpeechService, SpeechStream, first_words, texts_of_streams, whole_request
from csm_serving.wire.errors import ServingError, UnavailableError
from csm_serving.wire.protocol import Chunk, End, SpeechRequest


class Tone(SpeechService):
    """Frame n is n hundredths; speaker 1 breaks after two frames."""

    def __init__(self) -> None:
        self.closed = 0

    def open(self, request: SpeechRequest, parts: Iterable[str] | None = None) -> SpeechStream:
        self.heard = request.text + "".join(parts or ())
        return SpeechStream(self._frames(request))

    def _frames(self, request: SpeechRequest) -> Generator[Chunk | End, None, None]:
        try:
            for index in range(request.max_frames or 4):
                if request.speaker == 1 and index == 2:
                    raise ServingError("the model failed")
                audio = np.full(FRAME_SAMPLES, index / 100, np.float32)
                yield Chunk(audio=audio, frame_index=index, codes=np.zeros(4, np.int32))
            yield End(ended=request.max_frames is None, left_out=1, left_out_text="好")
        finally:
            self.closed += 1


def test_said_to_a_file_and_to_a_listener(tmp_path: Path) -> None:
    heard: list[float] = []
    path = tmp_path / "deep" / "said.wav"

    def listen(samples: np.ndarray) -> None:
        assert not path.exists(), "the file appears when it is complete"
        heard.append(float(samples[0]))

    spoken = Tone().say("hello", path=path, listener=listen)
    audio, rate = soundfile.read(path)
    assert (rate, audio.shape) == (SAMPLE_RATE, (4 * FRAME_SAMPLES,))
    np.testing.assert_allclose(audio[::FRAME_SAMPLES], [0, 0.01, 0.02, 0.03], atol=1e-4)
    assert heard == pytest.approx([0, 0.01, 0.02, 0.03])
    assert (spoken.path, spoken.frames, spoken.ended) == (path, 4, True)
    assert spoken.seconds == pytest.approx(0.32)
    assert 0 < spoken.first_audio_ms <= spoken.real_time_factor * 320
    assert [entry.name for entry in path.parent.iterdir()] == ["said.wav"]


def test_a_stream_that_breaks_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ServingError):
        Tone().say("hello", 1, path=tmp_path / "said.wav")
    assert list(tmp_path.iterdir()) == []


def test_a_cut_turn_is_no_ended_turn() -> None:
    assert Tone().say("hello", max_frames=2).ended is False


def test_leaving_a_stream_cancels_it() -> None:
    service = Tone()
    stream = service.stream("hello")
    assert next(stream).frame_index == 0
    stream.close()
    assert service.closed == 1
    assert list(stream) == []


@pytest.mark.parametrize(
    "text", ["word " * 500, ["", " ", "hel", "lo ", "word " * 300, "", "end."], [" ?! ", "word " * 500]], ids=len
)
def test_text_of_any_length_and_cut_goes_into_requests_of_their_size(text: str | list[str]) -> None:
    service = Tone()
    list(service.stream(text))
    assert service.heard == "".join(text)


@pytest.mark.parametrize("length", [10_000, 10_001, 25_000])
def test_the_server_is_told_how_long_a_text_is(length: int) -> None:
    text = ("word " * 5_000)[:length]
    request, rest = whole_request(text, 0, {})
    assert request.text_length == length
    assert request.text + "".join(rest) == text
    assert whole_request("short", 0, {})[0].text_length is None


@pytest.mark.parametrize(
    "text", ["a" * 25_000, "One sentence here. " * 1_500, "A paragraph\n\n" * 2_000, "word " * 6_000, "short"]
)
def test_a_long_text_goes_on_in_a_second_stream(text: str) -> None:
    texts = texts_of_streams(text)
    assert "".join(texts) == text
    assert all(len(part) <= 10_000 for part in texts)
    tone = Tone()
    stream = tone.stream(text, go_on=True, max_frames=3)
    chunks = list(stream)
    assert [chunk.frame_index for chunk in chunks] == list(range(3 * len(texts)))
    assert [chunk.sentence for chunk in chunks] == [number for number in range(len(texts)) for _ in range(3)]
    assert stream.end is not None
    assert (stream.end.ended, stream.end.reason, stream.end.left_out) == (False, "cut", len(texts))
    assert tone.closed == len(texts)


def test_a_text_that_goes_on_can_be_left(tmp_path: Path) -> None:
    tone = Tone()
    stream = tone.stream("One sentence here. " * 1_500, go_on=True)
    next(stream)
    stream.close()
    assert tone.closed == 1
    said = tone.say("One sentence here. " * 1_500, go_on=True, path=tmp_path / "all.wav")
    assert said.frames == 4 * len(texts_of_streams("One sentence here. " * 1_500))
    assert (said.left_out, said.left_out_text) == (3, "好好好")


def test_parts_are_taken_as_they_are_asked_for() -> None:
    taken = []

    def parts() -> Iterable[str]:
        for word in ("...", "one", "two"):
            taken.append(word)
            yield word

    first, rest = first_words(parts())
    assert (first, taken) == ("...one", ["...", "one"])
    assert (list(rest), taken) == (["two"], ["...", "one", "two"])


@pytest.mark.parametrize("text", ["  ?!", [" ", "?!"], []])
def test_text_without_a_word_is_refused_at_once(text: str | list[str]) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        Tone().stream(text)


def test_ogg_opus_is_written_by_the_suffix(tmp_path: Path) -> None:
    Tone().say("hello", path=tmp_path / "said.opus")
    info = soundfile.info(tmp_path / "said.opus")
    assert (info.format, info.subtype, info.samplerate) == ("OGG", "OPUS", SAMPLE_RATE)
    assert info.duration == pytest.approx(0.32, abs=0.02)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.wav or \.opus"):
        Tone().say("hello", path=tmp_path / "said.mp3")


def test_a_player_gets_16_bit_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "aplay"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/heard\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with player() as play:
        assert play is not None
        Tone().say("hello", listener=play)
    heard = np.fromfile(tmp_path / "heard", "<i2")
    assert heard.shape == (4 * FRAME_SAMPLES,)
    assert heard[-1] == int(0.03 * 32767)


def test_without_a_player_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with player() as play:
        assert play is None


def test_bad_requests_are_refused_before_they_are_sent() -> None:
    with SpeechClient("127.0.0.1:9") as client, pytest.raises(InputError, match="nothing to say"):
        client.stream("  ?!")


def test_where_no_server_answers_one_line_says_so() -> None:
    with (
        SpeechClient("127.0.0.1:9") as client,
        pytest.raises(UnavailableError, match=r"no server at 127\.0\.0\.1:9 .*csm serve.*csm say --local"),
    ):
        client.say("hello")


def test_a_long_text_goes_on_in_a_second_stream_for_asyncio_too() -> None:
    closed: list[int] = []

    def opened(number: int) -> AsyncSpeechStream:
        async def responses() -> AsyncGenerator[Chunk | End, None]:
            try:
                for index in range(3):
                    audio = np.zeros(FRAME_SAMPLES, np.float32)
                    yield Chunk(audio=audio, frame_index=index, codes=np.zeros(4, np.int32), sentence=0)
                tail = np.ones(5, np.float32)
                yield End(ended=True, left_out=1, left_out_text="好", audio=tail, encoded=b"tail")
            finally:
                closed.append(number)

        return AsyncSpeechStream(responses(), cancel=lambda: None, retries=lambda: number)

    async def taken() -> None:
        async with _in_turn([functools.partial(opened, number) for number in (1, 2)]) as stream:
            chunks = [chunk async for chunk in stream]
        assert [(chunk.frame_index, chunk.sentence) for chunk in chunks] == [(n, n // 3) for n in range(6)]
        assert (chunks[3].audio.size, chunks[3].encoded) == (FRAME_SAMPLES + 5, b"tail"), "nothing of the first is lost"
        assert stream.end == End(ended=True, left_out=2, left_out_text="好好")
        assert stream.retries == 3
        async with _in_turn([functools.partial(opened, number) for number in (3, 4)]) as stream:
            await anext(stream)

    asyncio.run(taken())
    assert closed == [1, 2, 3]
