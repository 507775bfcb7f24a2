"""The clients against a real Triton over a bundle of random weights: text in parts, breaks, queues, deadlines."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from waiting import HANG_S, eventually, eventually_async, held_back, let_pass

from csm_model.errors import InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.client import SpeechClient
from csm_serving.client.aio import AsyncSpeechClient
from csm_serving.client.load_report import scrape
from csm_serving.client.retry import Retry
from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings
from csm_serving.wire.errors import BusyError, DeadlineError, UnavailableError
from csm_serving.wire.protocol import Chunk, SamplingOptions

TEXT = "The train to Boston leaves at half past nine. It is cold and windy today, take the red scarf. Good morning."
LONG = "This is a long story that nobody has the patience to hear out to its very end. " * 12
GREEDY = SamplingOptions(temperature=0.0)
FREE_PORTS = {
    "grpc_port": 0, "http_port": 0, "metrics_port": 0, "frame_budget": 0,
    "ready_timeout_s": HANG_S, "text_timeout_s": HANG_S, "max_wait_s": HANG_S,
}  # fmt: skip


def codes_of(chunks: list[Chunk]) -> np.ndarray:
    assert [chunk.frame_index for chunk in chunks] == list(range(len(chunks)))
    return np.stack([chunk.codes for chunk in chunks], axis=1)


@pytest.fixture
def whole(client: SpeechClient) -> list[Chunk]:
    """`TEXT`, undisturbed."""
    return list(client.stream(TEXT, 1, seed=3, max_frames=120))


def test_text_in_parts_gives_the_codes_of_the_whole(triton: LocalTriton, whole: list[Chunk]) -> None:
    def parts() -> Iterator[str]:
        for character in TEXT:
            yield character
            let_pass(0.001)

    async def main() -> list[Chunk]:
        async with AsyncSpeechClient(triton.url) as client:
            return [chunk async for chunk in client.stream(parts(), 1, seed=3, max_frames=120)]

    with SpeechClient(triton.url) as client:
        by_threads = list(client.stream(parts(), 1, seed=3, max_frames=120))
    np.testing.assert_array_equal(codes_of(by_threads), codes_of(whole))
    np.testing.assert_array_equal(codes_of(asyncio.run(main())), codes_of(whole))
    np.testing.assert_array_equal(by_threads[-1].audio, whole[-1].audio)


def test_speech_goes_out_while_text_comes(client: SpeechClient) -> None:
    """The second sentence is only written when the first was heard; its first letter tells that the first is over."""
    heard: list[Chunk] = []

    def parts() -> Iterator[str]:
        yield "Good morning. I"
        eventually(lambda: len(heard) > 5)
        yield "t is cold today."

    heard.extend(client.stream(parts(), sampling=GREEDY, max_frames=300))
    assert codes_of(heard).shape[1] > 5
    assert {chunk.sentence for chunk in heard} == {0, -1, 1}


def test_long_text_goes_in_parts(client: SpeechClient) -> None:
    assert len(LONG) < 1_000 < len(LONG * 2)
    stream = client.stream(LONG * 2, sampling=GREEDY, max_frames=30)
    assert len(list(stream)) == 30


def test_more_text_than_a_stream_may_have_is_refused_in_the_iterator(client: SpeechClient, triton: LocalTriton) -> None:
    with pytest.raises(InputError, match=r"10,?000"):
        list(client.stream(LONG * 13, sampling=GREEDY))
    eventually(lambda: scrape(triton.metrics_url)["csm_live_streams"] == 0)


def test_a_failing_source_of_text_frees_the_slot(client: SpeechClient, triton: LocalTriton) -> None:
    def parts() -> Iterator[str]:
        yield "Good morning. "
        eventually(lambda: scrape(triton.metrics_url)["csm_live_streams"] == 1)
        raise KeyError("the language model failed")

    with pytest.raises(KeyError):
        list(client.stream(parts()))
    eventually(lambda: scrape(triton.metrics_url)["csm_live_streams"] == 0)


def test_streams_outlive_their_server(
    bundle: Path, triton: LocalTriton, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Triton is killed in the middle of streams, and another one with its key started at its address.

    A stream that finds a server with another key cannot go on.
    """
    monkeypatch.setenv("CSM_SERVING_TURN_KEY", "5e" * 32)
    settings = load_settings(**FREE_PORTS)
    retry = Retry(attempts=1_000, first_s=0.05, most_s=0.2, budget_s=HANG_S)

    def parts() -> Iterator[str]:
        yield from held_back(LONG, gate, "It is cold and windy today. ")
        yield "Good morning."

    with (
        LocalTriton(bundle, settings=settings) as first,
        SpeechClient(first.url, retry=retry) as client,
        SpeechClient([first.url, triton.url]) as astray,
    ):
        gate.set()
        undisturbed = [
            list(client.stream(LONG, seed=4, max_frames=200)),
            list(client.stream(parts(), 1, seed=5, max_frames=200)),
        ]
        gate.clear()
        streams = [client.stream(LONG, seed=4, max_frames=200), client.stream(parts(), 1, seed=5, max_frames=200)]
        heard = [[next(stream) for _ in range(7)] for stream in streams]
        lost = astray.stream(held_back(LONG, gate, "Never said."), sampling=GREEDY)
        next(lost)
        os.kill(first.pid, signal.SIGKILL)
        first.wait(HANG_S)
        with pytest.raises(UnavailableError, match=r"cannot go on: .*not spoken by this service"):
            list(lost)
        ports = {f"{name}_port": port for name, port in first.ports.items()}
        with LocalTriton(bundle, settings=load_settings(**FREE_PORTS | ports)):
            gate.set()
            for chunks, stream in zip(heard, streams, strict=True):
                chunks.extend(stream)
    for chunks, expected, stream in zip(heard, undisturbed, streams, strict=True):
        np.testing.assert_array_equal(codes_of(chunks), codes_of(expected))
        audio, expected_audio = (np.concatenate([chunk.audio for chunk in each]) for each in (chunks, expected))
        np.testing.assert_allclose(audio, expected_audio, rtol=0, atol=1e-5)
        assert stream.end is not None
    assert max(stream.retries for stream in streams) > 0


def test_a_deadline_ends_a_stream_with_its_error(
    client: SpeechClient, triton: LocalTriton, gate: threading.Event
) -> None:
    before = scrape(triton.metrics_url)["csm_frames_total"]
    for deadline_s in (0.3, 3.0, 30.0, 120.0):  # until one is long enough for a first frame, however slow the machine
        with pytest.raises(DeadlineError):
            list(client.stream(held_back(TEXT, gate, "Never said."), sampling=GREEDY, deadline_s=deadline_s))
        eventually(lambda: scrape(triton.metrics_url)["csm_live_streams"] == 0)
        if scrape(triton.metrics_url)["csm_frames_total"] > before:
            break
    assert scrape(triton.metrics_url)["csm_frames_total"] > before


def test_a_full_server_is_asked_again_or_waited_for(
    client: SpeechClient, triton: LocalTriton, gate: threading.Event
) -> None:
    slots = int(scrape(triton.metrics_url)["csm_stream_slots"])
    live = [client.stream(held_back(TEXT, gate, "Never said."), sampling=GREEDY) for _ in range(slots)]
    for stream in live:
        next(stream)
    with pytest.raises(BusyError):
        client.say(TEXT)

    async def main() -> list[int]:
        patient = Retry(attempts=1_000, first_s=0.02, most_s=0.05, busy=True, budget_s=HANG_S)
        async with AsyncSpeechClient(triton.url, retry=patient) as client:
            asking = client.stream(TEXT, max_frames=5)
            waiting = client.stream(TEXT, max_frames=5, max_wait_s=HANG_S)

            async def free() -> None:
                await eventually_async(lambda: asking.retries and scrape(triton.metrics_url)["csm_queued_streams"])
                for stream in live:
                    stream.close()

            async def take(stream: object) -> int:
                return len([chunk async for chunk in stream])  # type: ignore[attr-defined]

            *counts, _ = await asyncio.gather(take(asking), take(waiting), free())
            return counts

    assert asyncio.run(main()) == [5, 5]


@pytest.mark.parametrize("encoding", ["int16", "opus"])
def test_encodings_carry_the_same_sound(client: SpeechClient, whole: list[Chunk], encoding: str) -> None:
    stream = client.stream(TEXT, 1, seed=3, max_frames=120, encoding=encoding)
    chunks = list(stream)
    assert stream.end is not None
    audio = np.concatenate([*(chunk.audio for chunk in chunks), stream.end.audio])
    expected = np.concatenate([chunk.audio for chunk in whole])
    assert audio.shape == expected.shape == (120 * FRAME_SAMPLES,)
    if encoding == "int16":
        np.testing.assert_allclose(audio, expected.clip(-1, 1), atol=1 / 32_000)
    else:
        assert all(chunk.encoded for chunk in chunks)
        assert stream.end.encoded
