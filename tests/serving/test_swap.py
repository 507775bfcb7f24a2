"""Another bundle in a real, running Triton: nobody who listens hears anything of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from waiting import HANG_S

from csm_model.errors import DigestError, InputError
from csm_serving.client import SpeechClient
from csm_serving.launcher.swap import ServerState, swap_bundle
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server.repository import versions_in
from csm_serving.settings import load_settings
from csm_serving.wire.errors import BusyError, ServingError
from csm_serving.wire.protocol import Chunk, End, SamplingOptions

LONG = "This is a long story that nobody has the patience to hear out to its very end. " * 10
TEXT = "Good morning. The train to Boston leaves at half past nine."
GREEDY = SamplingOptions(temperature=0.0)
FRAMES = 400


@pytest.fixture(scope="module")
def other_bundle(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("other"), seed=8)


@pytest.fixture(scope="module")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    settings = load_settings(
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        slots=3,
        queue=4,
        frame_budget=0,
        max_wait_s=HANG_S,
        text_timeout_s=HANG_S,
        ready_timeout_s=HANG_S,
    )
    with LocalTriton(bundle, settings=settings, folder=tmp_path_factory.mktemp("swap")) as running:
        yield running


def rows_of(triton: LocalTriton) -> list[str]:
    """The metrics of our own, as they stand there."""
    with urllib.request.urlopen(triton.metrics_url, timeout=10) as page:
        return [row for row in page.read().decode().splitlines() if row.startswith("csm_")]


def codes_of(chunks: list[Chunk]) -> np.ndarray:
    assert [chunk.frame_index for chunk in chunks] == list(range(len(chunks)))
    return np.stack([chunk.codes for chunk in chunks], axis=1)


def in_parts(text: str, more: threading.Event) -> Iterator[str]:
    """The text in two parts, the second one when it is asked for."""
    half = text.index(" ", len(text) // 2)
    yield text[:half]
    assert more.wait(HANG_S)
    yield text[half:]


def spoken(client: SpeechClient, text: str, seed: int, **more: object) -> tuple[np.ndarray, End | None]:
    stream = client.stream(text, seed=seed, sampling=GREEDY, **more)  # type: ignore[arg-type]
    return codes_of(list(stream)), stream.end


def test_live_and_waiting_streams_end_on_the_old_version(served: LocalTriton, bundle: Path, other_bundle: Path) -> None:
    with SpeechClient(served.url) as client:
        wanted = [spoken(client, LONG, seed, max_frames=FRAMES)[0] for seed in range(3)]
        short = spoken(client, TEXT, 9, max_frames=20)[0]
        more = threading.Event()
        undisturbed = client.stream(in_parts(TEXT, more), seed=9, sampling=GREEDY, max_frames=60)
        first = next(undisturbed)
        more.set()
        parted = codes_of([first, *undisturbed])
        more.clear()
        live = [client.stream(LONG, seed=seed, sampling=GREEDY, max_frames=FRAMES) for seed in range(3)]
        for stream in live:
            next(stream)  # all slots are taken
        held = client.stream(in_parts(TEXT, more), seed=9, sampling=GREEDY, max_frames=60, max_wait_s=HANG_S)
        waits = threading.Thread(target=lambda: waited.extend(held))
        waited: list[Chunk] = []
        waits.start()
        seen: list[np.ndarray] = []

        def new_streams(version: str) -> None:
            """While the old version still has streams."""
            assert version == "2"
            slots = [row for row in rows_of(served) if row.startswith("csm_stream_slots")]
            assert sorted(slots) == ['csm_stream_slots{version="1"} 3', 'csm_stream_slots{version="2"} 3']
            seen.append(spoken(client, TEXT, 9, max_frames=20)[0])
            with pytest.raises(BusyError, match="another swap is under way"):
                swap_bundle(served.folder, bundle)

        with pytest.raises(ServingError, match="version 2 serves, but version 1 still speaks after 0 s"):
            served.swap(other_bundle, on_ready=new_streams, drain_timeout_s=0)
        more.set()
        for seed, stream in enumerate(live):
            rest = list(stream)
            assert [chunk.frame_index for chunk in rest] == list(range(1, FRAMES))
            np.testing.assert_array_equal(np.stack([chunk.codes for chunk in rest], axis=1), wanted[seed][:, 1:])
            assert stream.end == End(ended=False)
        waits.join()
        np.testing.assert_array_equal(codes_of(waited), parted)
        assert not np.array_equal(seen[0], short), "the other bundle speaks otherwise"
        np.testing.assert_array_equal(spoken(client, TEXT, 9, max_frames=20)[0], seen[0])


def test_a_bundle_that_does_not_load_changes_nothing(served: LocalTriton, other_bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(other_bundle, damaged)
    data = bytearray((damaged / "codec" / "codec.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "codec" / "codec.safetensors").write_bytes(data)
    before = ServerState.read(served.folder)
    with SpeechClient(served.url) as client:
        codes = spoken(client, TEXT, 9, max_frames=20)[0]
        stream = client.stream(LONG, sampling=GREEDY, max_frames=FRAMES)
        next(stream)
        with pytest.raises(DigestError, match=r"codec\.safetensors") as caught:
            served.swap(damaged)
        assert "\n" not in str(caught.value)
        assert sum(1 for _ in stream) == FRAMES - 1
        np.testing.assert_array_equal(spoken(client, TEXT, 9, max_frames=20)[0], codes)
    assert ServerState.read(served.folder) == before


def test_csm_swap_says_what_it_does(served: LocalTriton, bundle: Path) -> None:
    command = [str(Path(sys.executable).with_name("csm")), "swap", str(bundle), "--folder", str(served.folder)]
    more = threading.Event()
    with SpeechClient(served.url) as client:
        live = client.stream(in_parts(TEXT, more), sampling=GREEDY)
        next(live)  # it lives until its text is over
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as swapping:
            assert swapping.stdout is not None
            assert "new streams go to it" in swapping.stdout.readline()
            assert swapping.poll() is None
            more.set()
            list(live)
            assert "is gone" in swapping.stdout.readline()
            assert swapping.wait(HANG_S) == 0
    assert json.loads((served.folder / "server.json").read_text())["bundle"] == str(bundle)
    served_now = versions_in(served.folder / "repository")
    assert len(served_now) == 1, "what nobody serves is not kept"
    assert {row.partition('version="')[2][0] for row in rows_of(served)} == {str(served_now[0])}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no server runs from there"), ('{"pid": 4194305}', "is of another kind")],
)
def test_where_no_server_runs_there_is_nothing_to_swap(
    bundle: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "server.json").write_text(content)
    with pytest.raises(Exception, match=message):
        swap_bundle(tmp_path, bundle)
    with pytest.raises(InputError, match="no bundle there"):
        swap_bundle(tmp_path, tmp_path)


def test_a_dead_server_is_found_out(bundle: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    ports = {"grpc_port": 1, "http_port": 1, "metrics_port": 1}
    ServerState(pid=process.pid, host="127.0.0.1", bundle=str(bundle), secret="s", **ports).write(tmp_path)
    with pytest.raises(InputError, match="is gone; start it with csm serve"):
        swap_bundle(tmp_path, bundle)
