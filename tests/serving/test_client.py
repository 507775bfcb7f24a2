"""Both clients against a stand-in for the server: text in, sound out, channels and files.

`test_client_breaks.py` breaks their streams; `test_client_triton.py` holds them against a real Triton.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from stand_in import TEXT, Fault, Hear, StandIn, check, when_asked
from waiting import HANG_S, eventually, never

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.client import SpeechClient
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.wire.protocol import End, SpeechRequest


def test_a_stream_comes_whole_and_its_call_is_closed(server: StandIn, hear: Hear) -> None:
    check(hear(server.url, TEXT), TEXT)
    assert not server.asked[0].text_more
    assert server.over == ["closed"]


def test_text_in_parts_is_heard_as_the_whole(server: StandIn, hear: Hear) -> None:
    check(hear(server.url, when_asked(server, "one t", *TEXT[5:])), TEXT)
    assert server.asked[0].text_more
    assert server.asked[0].text + "".join(part.text for part in server.parts) == TEXT
    assert [part.more for part in server.parts] == [True] * (len(server.parts) - 1) + [False]
    assert len(server.parts) < len(TEXT) - 5, "what comes while a part is on its way gathers in the next"
    assert server.over == ["closed"]


def test_text_that_is_all_there_goes_out_at_once(server: StandIn) -> None:
    with SpeechClient(server.url) as client:
        stream = client.open(SpeechRequest(text="one "), ["two ", "three"])
        assert len(list(stream)) == 3


def test_an_asynchronous_source_of_text(server: StandIn) -> None:
    async def words() -> AsyncIterator[str]:
        for word in TEXT.split():
            await asyncio.sleep(0)
            yield word + " "

    async def main() -> list[int]:
        async with AsyncSpeechClient(server.url) as client:
            return [chunk.frame_index async for chunk in client.stream(words())]

    assert asyncio.run(main()) == list(range(10))


def test_sound_comes_before_the_text_is_over(server: StandIn) -> None:
    """The second part is only written when the first was heard, as in a conversation."""
    heard = threading.Event()

    def parts() -> Iterator[str]:
        yield "one two "
        assert heard.wait(HANG_S)
        yield "three"

    with SpeechClient(server.url) as client:
        for chunk in client.stream(parts()):
            if chunk.frame_index == 1:
                heard.set()
    assert chunk.frame_index == 2


def test_long_text_goes_out_in_parts(server: StandIn, hear: Hear) -> None:
    text = "It is a long story. " * 120
    check(hear(server.url, text), text)
    assert [len(part.text) for part in server.parts] == [1_000, 400]


def test_characters_that_are_none_come_out_in_the_iterator(server: StandIn, hear: Hear) -> None:
    with pytest.raises(InputError, match="UTF-8 does not hold"):
        hear(server.url, ["one two ", "\ud800"])


def test_a_refused_part_comes_out_in_the_iterator(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(part_error=InputError("the stream's text is too long"))]
    with pytest.raises(InputError, match="too long"):
        hear(server.url, when_asked(server, "one two ", "three "))


def test_a_part_refused_because_the_stream_had_ended_is_no_error(server: StandIn, hear: Hear) -> None:
    server.faults = [Fault(most=2)]
    heard = hear(server.url, when_asked(server, "one two ", "three ", "four "))
    assert (len(heard.chunks), heard.end) == (2, End(ended=False))


def test_text_is_not_asked_for_when_the_stream_is_over(server: StandIn) -> None:
    server.faults = [Fault(most=2)]
    given, over = [], threading.Event()

    def parts() -> Iterator[str]:
        for word in when_asked(server, "one ", "two ", "three "):
            given.append(word)
            yield word
        over.wait(HANG_S)
        for _ in range(1000):
            given.append("more ")
            yield "more "

    with SpeechClient(server.url) as client:
        assert sum(1 for _ in client.stream(parts())) == 2
    over.set()
    eventually(lambda: "csm-client-text" not in {thread.name for thread in threading.enumerate()})
    assert len(given) == 4


def test_the_text_waits_while_the_server_does_not_take_it(server: StandIn) -> None:
    server.faults = [Fault(silent_before=0)]
    given = []
    too_many = threading.Event()

    def parts() -> Iterator[str]:
        for _ in range(1000):
            given.append("word ")
            if len(given) == 20:
                too_many.set()
            yield "word " * 100

    with SpeechClient(server.url) as client:
        stream = client.stream(parts())
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
        eventually(lambda: len(given) > 3)
        assert never(too_many)
        stream.close()
        reader.join(HANG_S)
        assert not reader.is_alive()


def test_more_streams_than_a_channel_takes_open_another_and_close_it(server: StandIn) -> None:
    with SpeechClient(server.url, streams_per_channel=2) as client:
        streams = [client.stream(TEXT) for _ in range(5)]
        for stream in streams:
            next(stream)
        assert client._pool.channels == 3
        assert len(server.peers) == 3
        assert [len(list(stream)) for stream in streams] == [9] * 5
        assert client._pool.channels == 1


def test_streams_go_to_the_servers_in_turn(server: StandIn) -> None:
    other = StandIn().start()
    try:
        with SpeechClient([server.url, other.url]) as client:
            for _ in range(6):
                list(client.stream(TEXT))
    finally:
        other.stop()
    assert (len(server.asked), len(other.asked)) == (3, 3)


@pytest.mark.parametrize("encoding", ["float32", "int16", "opus"])
def test_other_encodings_come_as_samples(server: StandIn, hear: Hear, encoding: str) -> None:
    heard = hear(server.url, TEXT, asked={"encoding": encoding})
    assert heard.end is not None
    audio = np.concatenate([*(chunk.audio for chunk in heard.chunks), heard.end.audio])
    assert (audio.dtype, audio.shape) == (np.float32, (10 * FRAME_SAMPLES,))
    if encoding != "opus":
        np.testing.assert_allclose(audio[::FRAME_SAMPLES], np.arange(10) / 100, atol=1e-4)


@pytest.mark.parametrize(("encoding", "kind", "scale"), [("float32", "<f4", 1.0), ("int16", "<i2", 32767.0)])
def test_raw_bytes_are_those_of_the_wire(server: StandIn, hear: Hear, encoding: str, kind: str, scale: float) -> None:
    heard = hear(server.url, TEXT, raw=True, asked={"encoding": encoding})
    assert all(chunk.audio.size == 0 for chunk in heard.chunks)
    samples = np.frombuffer(b"".join(chunk.encoded for chunk in heard.chunks), kind) / scale
    assert samples.shape == (10 * FRAME_SAMPLES,)
    np.testing.assert_allclose(samples[::FRAME_SAMPLES], np.arange(10) / 100, atol=1e-4)


def test_raw_opus_is_a_file(server: StandIn, hear: Hear) -> None:
    heard = hear(server.url, TEXT, raw=True, asked={"encoding": "opus"})
    assert heard.end is not None
    data = b"".join(chunk.encoded for chunk in heard.chunks) + heard.end.encoded
    assert data[:4] == b"OggS"
    assert all(chunk.encoded for chunk in heard.chunks)


def test_said_to_files_by_both(server: StandIn, tmp_path: Any) -> None:
    import soundfile

    async def main() -> None:
        async with AsyncSpeechClient(server.url) as client:
            for name, encoding in (("a.wav", "float32"), ("b.wav", "opus"), ("c.opus", "opus"), ("d.opus", "int16")):
                await client.say(TEXT, path=tmp_path / name, encoding=encoding)

    asyncio.run(main())
    with SpeechClient(server.url) as client:
        heard: list[np.ndarray] = []
        spoken = client.say(TEXT, path=tmp_path / "e.wav", listener=heard.append)
    assert (spoken.frames, spoken.ended, spoken.reason, spoken.retries) == (10, True, "ended", 0)
    assert len(heard) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "c.opus", "d.opus", "e.wav"]
    for path in tmp_path.iterdir():
        assert soundfile.info(path).duration == pytest.approx(0.8, abs=0.01), path.name


def test_many_streams_at_once(server: StandIn) -> None:
    async def main() -> list[int]:
        async with AsyncSpeechClient(server.url, streams_per_channel=4) as client:

            async def one() -> int:
                return len([chunk async for chunk in client.stream(TEXT)])

            return await asyncio.gather(*(one() for _ in range(20)))

    assert asyncio.run(main()) == [10] * 20


def test_addresses_must_be_given() -> None:
    with pytest.raises(InputError, match="at least one host:port"):
        SpeechClient([])
