"""A real Triton over a bundle of random weights: what it streams, refuses, counts, and how it stops."""

from __future__ import annotations

import http
import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
import torch
from waiting import HANG_S, eventually, held_back

from csm_components.evaluate.sources import FromServer
from csm_model.bundle import Bundle, load_bundle
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.context import ContextTurn
from csm_model.inference.generator import Generator, Speech
from csm_model.inference.sampling import Sampling
from csm_model.watermark import open_watermark
from csm_serving.client import SpeechClient, calls
from csm_serving.client.load_report import scrape
from csm_serving.client.retry import NEVER, Retry
from csm_serving.client.speech import SpeechService
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server import repository
from csm_serving.server.life import signs_in
from csm_serving.server.local import LocalSpeech
from csm_serving.settings import load_settings
from csm_serving.wire.errors import BusyError, ServingError, UnavailableError
from csm_serving.wire.protocol import Chunk, End, SamplingOptions, SpeechRequest, Turn

TEXT = "The train to Boston leaves at half past nine."
LONG = "This is a long story that nobody has the patience to hear out to its very end. " * 10
FREE_PORTS = {
    "grpc_port": 0, "http_port": 0, "metrics_port": 0, "frame_budget": 0,
    "ready_timeout_s": HANG_S, "text_timeout_s": HANG_S, "max_wait_s": HANG_S,
}  # fmt: skip
GREEDY = SamplingOptions(temperature=0.0)
CONTEXT_CODES = np.arange(12, dtype=np.int64).reshape(4, 3)


@pytest.fixture(scope="module")
def offline(bundle: Path) -> Bundle:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def impatient(bundle: Path) -> Iterator[LocalTriton]:
    """Asks early whether a client is there."""
    with LocalTriton(bundle, settings=load_settings(**FREE_PORTS, slots=1, keepalive_s=1)) as running:
        yield running


def heard(service: SpeechService, *args: object, **kwargs: object) -> tuple[list[Chunk], bool]:
    stream = service.stream(*args, **kwargs)  # type: ignore[arg-type]
    chunks = list(stream)
    assert stream.end is not None
    assert [chunk.frame_index for chunk in chunks] == list(range(len(chunks)))
    return chunks, stream.end.ended


def assert_equal(chunks: list[Chunk], ended: bool, speech: Speech, *, watermark: str = "perth") -> None:
    """The offline generator's codes and sound; a server's is marked."""
    np.testing.assert_array_equal(np.stack([chunk.codes for chunk in chunks], axis=1), speech.codes.numpy())
    audio = np.concatenate([chunk.audio for chunk in chunks])
    mark = open_watermark(watermark)
    wanted = speech.audio if mark is None else mark.mark(torch.from_numpy(speech.audio)).numpy()
    np.testing.assert_allclose(audio, wanted, rtol=0, atol=1e-5)  # the server may run on fewer threads than this
    assert ended == speech.ended


def metrics_of(triton: LocalTriton) -> dict[str, float]:
    return scrape(triton.metrics_url)


@pytest.mark.parametrize(("speaker", "seed"), [(0, 0), (1, 0), (1, 2**63 - 1)])
def test_a_stream_equals_the_offline_generator(client: SpeechClient, offline: Bundle, speaker: int, seed: int) -> None:
    chunks, ended = heard(client, TEXT, speaker, seed=seed)
    sampling = Sampling(temperature=0.9, guidance=1.5, top_k=10, seed=seed)
    assert_equal(chunks, ended, Generator(offline).speak(TEXT, speaker, sampling=sampling))


def test_context_and_sampling_reach_the_model(client: SpeechClient, bundle: Path, offline: Bundle) -> None:
    context = [Turn(speaker=1, text="Where to?", codes=CONTEXT_CODES), Turn(speaker=0, text="To Boston, please.")]
    settings = {"temperature": 0.3, "depth_temperature": 0.0, "guidance": 1.5, "depth_guidance": 2.0}
    options = SamplingOptions(top_k=7, depth_mean=1, **settings)
    chunks, ended = heard(client, TEXT, 0, context=context, sampling=options, seed=5, max_frames=20)
    speech = Generator(offline).speak(
        TEXT,
        0,
        context=[
            ContextTurn(speaker=1, text="Where to?", codes=torch.from_numpy(CONTEXT_CODES)),
            ContextTurn(speaker=0, text="To Boston, please."),
        ],
        sampling=Sampling(top_k=7, depth_mean=1, seed=5, **settings),
        max_frames=20,
    )
    assert_equal(chunks, ended, speech)
    here, here_ended = heard(LocalSpeech(bundle), TEXT, 0, context=context, sampling=options, seed=5, max_frames=20)
    assert_equal(here, here_ended, speech, watermark="off")
    alone, _ = heard(client, TEXT, 0, sampling=options, seed=5, max_frames=20)
    assert [list(chunk.codes) for chunk in alone] != [list(chunk.codes) for chunk in chunks]


def test_streams_among_others_equal_streams_alone(client: SpeechClient, offline: Bundle) -> None:
    texts = [TEXT, "Good morning.", "It is cold and windy today, take the red scarf."]
    with ThreadPoolExecutor(len(texts)) as pool:
        streams = list(pool.map(lambda text: heard(client, text, 0, seed=3), texts))
    for text, (chunks, ended) in zip(texts, streams, strict=True):
        sampling = Sampling(temperature=0.9, guidance=1.5, top_k=10, seed=3)
        assert_equal(chunks, ended, Generator(offline).speak(text, 0, sampling=sampling))


def test_how_a_stream_ended_is_told(client: SpeechClient, offline: Bundle) -> None:
    sampling = Sampling(temperature=5.0, guidance=1.0, top_k=0)
    options = SamplingOptions(temperature=5.0, guidance=1.0, top_k=0)
    by_end = {}
    for seed in range(20):
        speech = Generator(offline).speak("No.", 0, sampling=replace(sampling, seed=seed))
        by_end.setdefault(speech.ended, (seed, speech))
    assert sorted(by_end) == [False, True]
    for seed, speech in by_end.values():
        assert_equal(*heard(client, "No.", 0, sampling=options, seed=seed), speech)


def test_said_to_a_file(client: SpeechClient, tmp_path: Path) -> None:
    spoken = client.say(TEXT, 1, path=tmp_path / "said.wav", max_frames=6)
    audio, _ = soundfile.read(tmp_path / "said.wav")
    assert audio.shape == (spoken.frames * FRAME_SAMPLES,)
    assert spoken.first_audio_ms > 0
    assert spoken.real_time_factor > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speaker": 2}, r"speaker 2 is unknown: this bundle speaks as 0 \(heart\), 1 \(kumo\)"),
        ({"context": (Turn(speaker=7, text="hi"),)}, "speaker 7 is unknown"),
        ({"context": (Turn(speaker=1, text="hi", codes=CONTEXT_CODES + 90),)}, "made by another codec"),
        ({"context": (Turn(speaker=1, text="hi", codes=CONTEXT_CODES[:3]),)}, r"\[4, frames\]"),
    ],
)
def test_what_only_the_server_can_refuse_comes_back_typed(
    client: SpeechClient, triton: LocalTriton, values: dict[str, object], message: str
) -> None:
    before = metrics_of(triton)['csm_refusals_total{reason="invalid_input"}']
    with pytest.raises(InputError, match=message):
        client.say(TEXT, **values)  # type: ignore[arg-type]
    assert metrics_of(triton)['csm_refusals_total{reason="invalid_input"}'] == before + 1


def test_a_cancelled_stream_frees_its_slot(client: SpeechClient, triton: LocalTriton, gate: threading.Event) -> None:
    before = metrics_of(triton)
    stream = client.stream(held_back(TEXT, gate, LONG), sampling=GREEDY, max_frames=400)
    next(stream)
    stream.close()
    outcome = 'csm_streams_total{outcome="cancelled"}'
    eventually(lambda: metrics_of(triton)[outcome] == before[outcome] + 1)
    eventually(lambda: metrics_of(triton)["csm_live_streams"] == 0)
    gate.set()
    after = metrics_of(triton)
    assert after["csm_frames_total"] - before["csm_frames_total"] < 400, "the whole story was not spoken"


def test_above_the_slots_a_request_is_refused_at_once(
    client: SpeechClient, triton: LocalTriton, gate: threading.Event
) -> None:
    slots = int(metrics_of(triton)["csm_stream_slots"])
    live = [client.stream(held_back(TEXT, gate, LONG), sampling=GREEDY) for _ in range(slots)]
    try:
        for stream in live:
            next(stream)
        with pytest.raises(BusyError, match=f"all {slots} slots"):
            client.say(TEXT)  # before any of them ends
        eventually(lambda: metrics_of(triton)["csm_live_streams"] == slots)  # the gauge is set between two steps
    finally:
        for stream in live:
            stream.close()
    eventually(lambda: metrics_of(triton)["csm_live_streams"] == 0)
    assert client.say(TEXT, max_frames=3).frames == 3


def test_metrics_count_streams(client: SpeechClient, triton: LocalTriton) -> None:
    before = metrics_of(triton)
    spoken = client.say(TEXT, max_frames=5)
    after = metrics_of(triton)
    assert after["csm_frames_total"] - before["csm_frames_total"] == spoken.frames == 5
    assert after["csm_audio_seconds_total"] - before["csm_audio_seconds_total"] == pytest.approx(0.4, abs=1e-3)
    assert after["csm_first_audio_seconds_count"] == before["csm_first_audio_seconds_count"] + 1
    assert after["csm_first_audio_seconds_sum"] > before["csm_first_audio_seconds_sum"]
    assert after["csm_real_time_factor"] > 0


def test_sigterm_lets_live_streams_end_and_takes_the_rest_of_their_text(bundle: Path, gate: threading.Event) -> None:
    settings = load_settings(**FREE_PORTS, exit_timeout_s=HANG_S)
    with LocalTriton(bundle, settings=settings) as triton, SpeechClient(triton.url, retry=NEVER) as client:
        stream = client.stream(LONG, sampling=GREEDY, max_frames=400)
        next(stream)
        part_by_part = client.stream(held_back(TEXT, gate, LONG), sampling=GREEDY, max_frames=400)
        next(part_by_part)
        triton.terminate()
        eventually(lambda: _refuses(client))
        gate.set()
        assert sum(1 for _ in part_by_part) == 399
        eventually(lambda: _gone(triton.pid))  # though nobody has read the other one on
        assert sum(1 for _ in stream) == 399
        assert stream.end == part_by_part.end == End(ended=False)


def test_sigterm_sends_those_that_wait_elsewhere_at_once(bundle: Path) -> None:
    """Two that are live keep each other at the pace of their players: for two minutes, on any machine."""
    settings = load_settings(**FREE_PORTS, slots=2, exit_timeout_s=HANG_S)
    with LocalTriton(bundle, settings=settings) as triton, SpeechClient(triton.url, retry=NEVER) as client:
        live, company = (client.stream(LONG * 5, sampling=GREEDY, max_frames=1500) for _ in range(2))
        next(live)
        next(company)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.say, TEXT, max_wait_s=HANG_S)
            eventually(lambda: metrics_of(triton)["csm_queued_streams"] == 1)
            triton.terminate()
            with pytest.raises(UnavailableError, match="stopping"):
                waiting.result()
            assert metrics_of(triton)["csm_live_streams"] == 2, "the live ones go on"
        company.close()  # what is left alone is spoken as fast as can be
        assert sum(1 for _ in live) == 1499
        assert triton.wait(HANG_S) == 0


def test_what_is_judged_waits_for_room(client: SpeechClient, triton: LocalTriton, gate: threading.Event) -> None:
    slots = int(metrics_of(triton)["csm_stream_slots"])
    live = [client.stream(held_back(TEXT, gate, LONG), sampling=GREEDY) for _ in range(slots)]
    with ThreadPoolExecutor(1) as pool, FromServer(url=triton.url, digest="").open() as speak:
        try:
            for stream in live:
                next(stream)
            waiting = pool.submit(speak, SpeechRequest(text=TEXT, speaker=0, max_frames=3))
            eventually(lambda: metrics_of(triton)["csm_queued_streams"] == 1)
        finally:
            for stream in live:
                stream.close()
        assert len(waiting.result().audio) == 3 * FRAME_SAMPLES
    eventually(lambda: metrics_of(triton)["csm_live_streams"] == 0)


def test_a_client_that_never_reads_holds_up_nobody(client: SpeechClient, triton: LocalTriton) -> None:
    before = metrics_of(triton)
    request = SpeechRequest(text=LONG, sampling=GREEDY, max_frames=300)
    with grpc.insecure_channel(triton.url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = calls.infer_stream(channel)(iter([calls.message_of(request, "deaf")]))  # far more than gRPC buffers
        assert client.say(TEXT, max_frames=20).frames == 20
        eventually(lambda: metrics_of(triton)["csm_live_streams"] == 0)
        counted = metrics_of(triton)
        assert counted["csm_frames_total"] - before["csm_frames_total"] == 320
        assert sum(1 for answer in call if answer.infer_response.outputs) == 301, "all of it, and the end, had waited"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "freezes"])
def test_a_client_that_is_gone_frees_its_slot(impatient: LocalTriton, how: signal.Signals) -> None:
    code = (
        "import signal, sys, threading; from csm_serving.client import SpeechClient\n"
        "from csm_serving.wire.protocol import SamplingOptions\n"
        "def text(): yield sys.argv[2] + ' A'; threading.Event().wait()\n"
        "stream = SpeechClient(sys.argv[1]).stream(text(), sampling=SamplingOptions(temperature=0.0))\n"
        "next(stream); print('heard', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, impatient.url, TEXT]
    before = metrics_of(impatient)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gone:
        try:
            assert gone.stdout is not None
            assert gone.stdout.readline() == "heard\n"
            gone.send_signal(how)
            outcome = 'csm_streams_total{outcome="cancelled"}'
            eventually(lambda: metrics_of(impatient)[outcome] == before[outcome] + 1)
            eventually(lambda: metrics_of(impatient)["csm_live_streams"] == 0)
        finally:
            gone.kill()


def test_a_stream_longer_than_the_grace_is_broken_with_a_typed_error(bundle: Path, gate: threading.Event) -> None:
    settings = load_settings(**FREE_PORTS, exit_timeout_s=5)
    with LocalTriton(bundle, settings=settings) as triton, SpeechClient(triton.url) as client:
        stream = client.stream(held_back(TEXT, gate, LONG), sampling=GREEDY)
        next(stream)
        triton.terminate()
        with pytest.raises(UnavailableError):
            list(stream)


def test_a_damaged_bundle_is_one_clear_line(bundle: Path, tmp_path: Path) -> None:
    name = "codec/codec.safetensors"
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle, damaged)
    data = bytearray((damaged / name).read_bytes())
    data[-1] ^= 1
    (damaged / name).write_bytes(data)
    settings = load_settings(**FREE_PORTS)
    with pytest.raises(DigestError, match=name) as caught, LocalTriton(damaged, settings=settings):
        pass
    assert "\n" not in str(caught.value)
    assert "At:" not in str(caught.value)


def test_another_configuration_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path, settings: dict[str, object]) -> None:
        repository.write_repository(folder, settings)
        config = folder / "csm" / "config.pbtxt"
        config.write_text(
            config.read_text().replace('"TOP_K", data_type: TYPE_INT32', '"TOP_K", data_type: TYPE_INT64')
        )

    monkeypatch.setattr("csm_serving.launcher.triton.write_repository", other)
    with (
        pytest.raises(ArtifactError, match="another protocol: TOP_K differ"),
        LocalTriton(bundle, settings=load_settings(**FREE_PORTS)),
    ):
        pass


def test_a_server_that_takes_too_long_is_given_up(bundle: Path) -> None:
    settings = load_settings(**FREE_PORTS | {"ready_timeout_s": 0.2})
    with pytest.raises(ServingError, match=r"did not answer within 0\.2 s"), LocalTriton(bundle, settings=settings):
        pass


def test_a_killed_parent_takes_triton_with_it(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from csm_serving.launcher.triton import LocalTriton\n"
        "from csm_serving.settings import load_settings\n"
        "settings = load_settings(grpc_port=0, http_port=0, metrics_port=0)\n"
        "with LocalTriton(Path(sys.argv[1]), settings=settings, folder=Path(sys.argv[2])) as triton:\n"
        "    print(triton.pid, flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, str(bundle), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    eventually(lambda: _gone(pid))


@pytest.mark.parametrize(
    ("whom", "how"), [("triton", signal.SIGKILL), ("model", signal.SIGBUS)], ids=["triton", "model"]
)
def test_serve_runs_until_it_is_told_to_stop_and_outlives_a_death(
    bundle: Path, gate: threading.Event, tmp_path: Path, whom: str, how: signal.Signals
) -> None:
    """In a folder whose name nobody would give it, in no locale to speak of; the bundle's is not ASCII either."""
    code = (
        "import sys; from pathlib import Path; from csm_serving.launcher.triton import serve\n"
        "from csm_serving.settings import load_settings\n"
        "settings = load_settings(grpc_port=0, http_port=0, metrics_port=0, slots=1, threads=1)\n"
        "sys.exit(serve(Path(sys.argv[1]), settings=settings, folder=Path(sys.argv[2]),"
        " on_ready=lambda triton: print(triton.url, triton.http_url, triton.pid, flush=True)))"
    )
    folder = tmp_path / f'{"o" * 100}/it\'s & me; touch X/$(touch Y) `z` "q":äöü' / ("long" * 60)
    served = shutil.copytree(bundle, tmp_path / ("o" * 100) / "Gespräche" / "bündel")
    command = [sys.executable, "-c", code, str(served), str(folder)]
    environment = os.environ | {"LC_ALL": "C"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        url, http_url, pid = process.stdout.readline().split()
        with SpeechClient(url, retry=Retry(attempts=1_000, first_s=0.5, budget_s=HANG_S)) as client:
            stream = client.stream(held_back(TEXT, gate, LONG), sampling=GREEDY, max_frames=200)
            next(stream)
            victim = int(pid) if whom == "triton" else next(signs_in(folder / "life")).pid
            os.kill(victim, how)
            eventually(lambda: not _is_green(http_url))
            gate.set()
            assert [chunk.frame_index for chunk in stream] == list(range(1, 200))
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert said.count("; it is started again\n") == 1
        if whom == "triton":
            assert "ended by itself with status -9" in said
        else:  # whose death Triton may die of too, before anybody has looked
            assert f"process {victim}) is gone" in said or "Triton ended by itself with status" in said
    assert [path.name for path in tmp_path.iterdir()] == ["o" * 100], "no part of a path is run"


def _is_green(http_url: str) -> bool:
    """Whether the server says that it is ready, or at least alive."""
    address = http_url.removeprefix("http://")
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/csm/ready"):
        connection = http.client.HTTPConnection(address, timeout=HANG_S)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        except OSError:
            pass
        finally:
            connection.close()
    return False


def _refuses(client: SpeechClient) -> bool:
    try:
        client.say(TEXT, max_frames=1)
    except UnavailableError:
        return True
    return False


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
