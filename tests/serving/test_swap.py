"""Another bundle in a real, running Triton: nobody who listens hears anything of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from csm_model.errors import DigestError, InputError
from csm_serving.client import SpeechClient
from csm_serving.errors import BusyError, ServingError
from csm_serving.protocol import Chunk, End, SamplingOptions
from csm_serving.repository import versions_in
from csm_serving.settings import load_settings
from csm_serving.swap import ServerState, swap_bundle
from csm_serving.triton import LocalTriton

LONG = "This is a long story that nobody has the patience to hear out to its very end. " * 10
TEXT = "The train to Boston leaves at half past nine."
GREEDY = SamplingOptions(temperature=0.0)
FRAMES = 400


@pytest.fixture(scope="module")
def other_bundle(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("other"), seed=8)


@pytest.fixture(scope="module")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    settings = load_settings(
        grpc_port=0, http_port=0, metrics_port=0, slots=3, queue=4, frame_budget=0, ready_timeout_s=300
    )
    with LocalTriton(bundle, settings=settings, folder=tmp_path_factory.mktemp("swap")) as running:
        yield running


def codes_of(chunks: list[Chunk]) -> np.ndarray:
    assert [chunk.frame_index for chunk in chunks] == list(range(len(chunks)))
    return np.stack([chunk.codes for chunk in chunks], axis=1)


def spoken(client: SpeechClient, text: str, seed: int, **more: object) -> tuple[np.ndarray, End | None]:
    stream = client.stream(text, seed=seed, sampling=GREEDY, **more)  # type: ignore[arg-type]
    return codes_of(list(stream)), stream.end


def test_live_and_waiting_streams_end_on_the_old_version(served: LocalTriton, bundle: Path, other_bundle: Path) -> None:
    with SpeechClient(served.url) as client:
        wanted = [spoken(client, LONG, seed, max_frames=FRAMES)[0] for seed in range(3)]
        short = spoken(client, TEXT, 9, max_frames=20)[0]
        live = [client.stream(LONG, seed=seed, sampling=GREEDY, max_frames=FRAMES) for seed in range(3)]
        heard = [[next(stream)] for stream in live]  # all slots are taken
        waiting: list[np.ndarray] = []
        waits = threading.Thread(
            target=lambda: waiting.append(spoken(client, TEXT, 9, max_frames=20, max_wait_s=120.0)[0])
        )
        waits.start()
        ready: list[tuple[str, int]] = []

        def new_streams(version: str) -> None:
            """While the old version still speaks: it has not been read on."""
            ready.append((version, len(heard[0])))
            ready.append((version, spoken(client, TEXT, 9, max_frames=20)[0].shape[1]))

        for chunks, stream in zip(heard, live, strict=True):
            chunks += [next(stream) for _ in range(5)]
        swapped = served.swap(other_bundle, on_ready=new_streams)
        assert ready == [("2", 6), ("2", 20)]
        assert (swapped.version, swapped.replaced) == ("2", ("1",))
        for seed, (chunks, stream) in enumerate(zip(heard, live, strict=True)):
            chunks += list(stream)
            np.testing.assert_array_equal(codes_of(chunks), wanted[seed])
            assert stream.end == End(ended=False)
        waits.join()
        np.testing.assert_array_equal(waiting[0], short)
        fresh = spoken(client, TEXT, 9, max_frames=20)[0]
        assert not np.array_equal(fresh, short), "the other bundle speaks otherwise"
        assert versions_in(served.folder / "repository") == [2]
        served.swap(bundle)  # and back
        np.testing.assert_array_equal(spoken(client, TEXT, 9, max_frames=20)[0], short)


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


def test_a_drain_may_have_a_bound(
    served: LocalTriton, bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    slow = make_bundle(tmp_path, layers=60)
    with SpeechClient(served.url) as client:
        served.swap(slow)
        stream = client.stream(LONG, sampling=GREEDY, max_frames=FRAMES)
        next(stream)
        with pytest.raises(ServingError, match="still speaks after 0 s"):
            served.swap(bundle, drain_timeout_s=0)
        assert sum(1 for _ in stream) == FRAMES - 1


def test_two_swaps_at_once_are_one(served: LocalTriton, bundle: Path) -> None:
    refused: list[str] = []

    def second(version: str) -> None:
        with pytest.raises(BusyError, match="another swap is under way") as caught:
            swap_bundle(served.folder, bundle)
        refused.append(str(caught.value))

    served.swap(bundle, on_ready=second)
    assert len(refused) == 1


def test_csm_swap_says_what_it_does(served: LocalTriton, bundle: Path) -> None:
    command = [str(Path(sys.executable).with_name("csm")), "swap", str(bundle), "--folder", str(served.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    ready, gone = done.stdout.splitlines()
    assert "new streams go to it" in ready
    assert "is gone" in gone
    assert json.loads((served.folder / "server.json").read_text())["bundle"] == str(bundle)


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
    state = ServerState(pid=process.pid, host="127.0.0.1", grpc_port=1, http_port=1, metrics_port=1, bundle=str(bundle))
    state.write(tmp_path)
    with pytest.raises(InputError, match="is gone; start it with csm serve"):
        swap_bundle(tmp_path, bundle)
