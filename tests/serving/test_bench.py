"""`csm bench-serve`: when streams are asked for, what a listener has of them, and a load on a real Triton."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csm_model.errors import InputError
from csm_model.frames import FRAME_SECONDS
from csm_serving.client.load import Listened, LoadPlan, LoadResult
from csm_serving.client.load_report import live_over_time, objectives_of, read_metrics, report_of, risen, scrape, spread
from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings
from csm_serving.wire.errors import UnavailableError

CSM = str(Path(sys.executable).with_name("csm"))


def listened(arrived: list[float], *, asked: float = 0.0, buffer_s: float = 0.0, **more: Any) -> Listened:
    stream = Listened(asked=asked, over=max([asked, *arrived]), **more)
    for now in arrived:
        stream.hear(now, buffer_s)
    return stream


def test_constant_arrivals_keep_their_distance() -> None:
    assert list(LoadPlan(pattern="constant", rate=4, count=4).arrivals()) == [0, 0.25, 0.5, 0.75]
    assert list(LoadPlan(pattern="constant", rate=4, duration_s=0.6).arrivals()) == [0, 0.25, 0.5]


def test_bursts_come_together_at_the_mean_rate() -> None:
    load = LoadPlan(pattern="burst", streams=3, rate=6, count=7)
    assert list(load.arrivals()) == [0, 0, 0, 0.5, 0.5, 0.5, 1.0]


def test_a_ramp_reaches_its_rate() -> None:
    times = list(LoadPlan(pattern="ramp", rate=100, duration_s=10).arrivals())
    # After t seconds 100 t^2 / (2 * 10) streams have been asked for; the last of 500 would begin at the end.
    assert [sum(t <= until for t in times) for until in (1, 2, 5, 9.999)] == [5, 20, 125, 499]
    assert times == sorted(times)


def test_random_arrivals_are_those_of_their_seed_and_have_the_rate() -> None:
    load = LoadPlan(pattern="poisson", rate=50, duration_s=40, seed=3)
    times = list(load.arrivals())
    assert times == list(load.arrivals())
    assert times != list(LoadPlan(pattern="poisson", rate=50, duration_s=40, seed=4).arrivals())
    gaps = np.diff(times)
    # Of 2,000 exponential gaps the mean has a standard error of 2.2 %, the deviation one of 3.2 %: five of each.
    assert gaps.mean() == pytest.approx(0.02, rel=0.11)
    assert gaps.std() == pytest.approx(0.02, rel=0.16)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "load without an end"),
        ({"pattern": "wild", "count": 1}, "must be one of closed"),
        ({"count": 0}, "count 0: must be at least 1"),
        ({"count": 1, "streams": 0}, "streams 0"),
        ({"count": 1, "rate": 0.0}, "rate 0.0: must be above 0"),
        ({"duration_s": float("inf")}, "duration_s inf"),
        ({"count": 1, "buffer_s": -1.0}, "buffer_s -1.0"),
        ({"count": 1, "pattern": "ramp"}, "ramp without duration_s"),
    ],
)
def test_a_load_without_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LoadPlan(**values)


def test_chunks_in_time_are_no_underruns() -> None:
    assert listened([1.0, 1.01, 1.02, 1.0 + 3 * FRAME_SECONDS]).late == []


def test_a_late_chunk_stops_the_player_once() -> None:
    stream = listened([1.0, 1.3, 1.38, 1.46, 1.53])
    assert stream.late == [1.3]
    assert stream.stalled_s == pytest.approx(0.3 - FRAME_SECONDS)


def test_a_buffer_is_what_a_chunk_may_be_late() -> None:
    arrived = [1.0, 1.2, 1.3]
    assert len(listened(arrived).late) == 2
    assert listened(arrived, buffer_s=0.15).late == []


def test_the_report_counts_what_was_heard() -> None:
    heard = LoadResult(took_s=10.0, client_cpu_s=0.5, lags=[0.001, 0.002])
    heard.streams = [
        listened([0.1, 0.11], ended=True),
        listened([1.5, 1.9], asked=1.0, ended=True),
        Listened(asked=2.0, over=2.02, code="busy", error="full"),
        Listened(asked=2.0, over=2.04, code="busy", error="full"),
        listened([3.2], asked=3.0, code="unavailable", error="gone"),
    ]
    report = report_of(LoadPlan(count=5), heard, metrics={"csm_frames_total": 5.0})
    assert report["streams"] == {
        "asked": 5,
        "not_asked": 0,
        "complete": 2,
        "refused": {"busy": 2},
        "errors": {"unavailable": 1},
        "first_error": "gone",
    }
    assert report["first_audio_ms"]["max"] == pytest.approx(500)
    assert report["first_audio_ms"]["p50"] == pytest.approx(200)
    assert report["refusal_ms"]["busy"]["max"] == pytest.approx(40)
    assert report["underruns"]["chunks"] == report["underruns"]["streams"] == 1
    assert report["underruns"]["stalled_ms"]["max"] == pytest.approx(320)
    assert report["sound"]["seconds"] == pytest.approx(5 * FRAME_SECONDS)
    assert report["most_live"] == 1
    json.dumps(report)

    objectives = objectives_of(report, max_first_audio_ms=300, max_underruns=1, max_refused=1, max_refusal_ms=50)
    assert [(o.name.split(",")[0], o.met) for o in objectives] == [
        ("first audio", False),
        ("underruns", True),
        ("streams refused", False),
        ("refusal", True),
    ]


def test_what_was_not_measured_meets_no_objective() -> None:
    report = report_of(LoadPlan(count=1), LoadResult(streams=[Listened(asked=0.0, code="busy")]))
    assert not any(o.met for o in objectives_of(report, max_first_audio_ms=1e9, max_underruns=99))
    assert spread([]) == {}


def test_streams_are_live_from_their_first_chunk_to_their_end() -> None:
    heard = LoadResult(streams=[listened([1.0, 3.0]), listened([2.0, 4.0]), Listened(asked=0.0, over=5.0, code="busy")])
    assert live_over_time(heard) == [(1.0, 1), (2.0, 2), (3.0, 1), (4.0, 0)]


def test_counters_are_told_by_what_they_rose_and_gauges_as_they_are() -> None:
    before = {"csm_frames_total": 5.0, "csm_live_streams": 2.0}
    after = {
        "csm_frames_total": 9.0,
        "csm_live_streams": 3.0,
        'csm_refusals_total{reason="busy"}': 2.0,
        'csm_first_audio_seconds_bucket{le="1"}': 4.0,
    }
    assert risen(before, after) == {
        "csm_frames_total": 4.0,
        "csm_live_streams": 3.0,
        'csm_refusals_total{reason="busy"}': 2.0,
    }


def test_metrics_of_two_versions_are_added_up() -> None:
    rows = [
        "# HELP csm_frames_total Frames of 80 ms sent",
        'csm_frames_total{version="1"} 4.000000',
        'csm_frames_total{version="2"} 3',
        'csm_refusals_total{version="1",reason="busy"} 1',
        'csm_refusals_total{reason="busy",version="2"} 1',
        'csm_first_audio_seconds_bucket{version="1",le="0.1"} 2',
        'nv_inference_count{model="csm",version="1"} 9',
    ]
    assert read_metrics(rows) == {
        "csm_frames_total": 7,
        'csm_refusals_total{reason="busy"}': 2,
        'csm_first_audio_seconds_bucket{le="0.1"}': 2,
    }


def test_metrics_that_are_not_there() -> None:
    with pytest.raises(UnavailableError, match="no metrics at"):
        scrape("http://127.0.0.1:9/metrics")
    with pytest.raises(InputError, match="must be http://host:port/metrics"):
        scrape("127.0.0.1:8002")


def bench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CSM, "bench-serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "120"} | environment,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--pattern", "wild"], {}, "pattern 'wild': must be one of closed"),
        (["--encoding", "mp3"], {}, "must be one of float32, int16, opus"),
        (["--texts", "none.txt"], {}, "none.txt: cannot be read"),
        ([], {"CSM_SERVING_HOST": "far.example"}, "far.example:8001 is not this machine: name it with --url"),
        (["--url", "127.0.0.1:9", "--count", "2"], {}, "no server at 127.0.0.1:9"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], environment: dict[str, str], words: str) -> None:
    done = bench(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def eight(bundle: Path) -> Iterator[LocalTriton]:
    settings = load_settings(grpc_port=0, http_port=0, metrics_port=0, slots=8, frame_budget=0, ready_timeout_s=300)
    with LocalTriton(bundle, settings=settings) as triton:
        yield triton


def test_eight_streams_on_a_real_triton(eight: LocalTriton, tmp_path: Path) -> None:
    done = bench(
        *("--url", eight.url, "--metrics", eight.metrics_url, "--streams", 8, "--count", 24, "--max-frames", 40),
        *("--out", tmp_path / "load.json", "--plot", tmp_path / "load.png", "--speaker", 0, "--speaker", 1),
        *("--wait", 120, "--max-refused", 0, "--max-errors", 0),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "24 streams asked for" in done.stdout
    assert "met    streams refused: 0" in done.stdout
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["streams"]["complete"] == 24
    assert 1 <= report["most_live"] <= 8
    # What the client heard is what the server says that it sent.
    assert round(report["sound"]["seconds"] / FRAME_SECONDS) == report["server"]["csm_frames_total"]
    assert report["server"]["csm_stream_slots"] == 8
    assert all(0 < report[name]["p50"] <= report[name]["max"] for name in ("first_audio_ms", "real_time_factor"))
    assert (tmp_path / "load.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_missed_objective_is_exit_1(eight: LocalTriton, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("It is cold and windy today, take the red scarf with you.\n\n")
    done = bench(
        *("--url", eight.url, "--pattern", "burst", "--streams", 24, "--rate", 24, "--count", 24),
        *("--texts", tmp_path / "texts.txt", "--max-refused", 0, "--json", "--out", tmp_path / "load.json"),
    )
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "load.json").read_text())
    assert report["streams"]["refused"]["busy"] + report["streams"]["complete"] == 24
    assert report["objectives"] == [
        {"name": "streams refused", "most": 0, "found": report["streams"]["refused"]["busy"], "met": False}
    ]
    assert list(itertools.islice(report["refusal_ms"], 1)) == ["busy"]
