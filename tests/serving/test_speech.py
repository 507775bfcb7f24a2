"""Speech taken down as it arrives, over a service of a few lines."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_serving.client import SpeechClient
from csm_serving.client.audio import player
from csm_serving.client.speech import SpeechService, SpeechStream, first_words
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
            yield End(ended=request.max_frames is None)
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
