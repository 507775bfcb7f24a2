"""The chart's own queries, asked of a real Prometheus that scrapes a real Triton under load."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import served.prometheus
import yaml
from chart_rendering import ci_file, render
from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server
from served.prometheus import scraping
from waiting import HANG_S, let_pass

from csm_model.errors import InputError, MissingDependencyError
from csm_scaling.keda import Keda, Missing
from csm_scaling.manifest import Scaled, read_manifest
from csm_scaling.pods import Pod, Stream
from csm_scaling.record import Prometheus, record
from csm_scaling.signals import Scrapes
from csm_scaling.simulate import Conditions, simulate
from csm_serving.client.load import LoadPlan, LoadResult, offer
from csm_serving.client.load_report import scrape
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server.metrics import FIRST_AUDIO
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import SpeechRequest

until = partial(served.prometheus.until, seconds=HANG_S)
SLOTS, STREAMS = 3, 5
LABELS = {"namespace": "speech", "release": "csm", "track": "stable", "pod": "csm-serving-0"}
OTHERS = {"namespace": "speech", "release": "other", "track": "stable", "pod": "other-0"}
"""Of a page with times to first audio that are known one by one."""


def rendered(release: str) -> Scaled:
    """The chart's autoscaler for a release, for pods of the size of the server here."""
    objects = render(
        "csm-serving",
        ci_file("csm-serving", "default"),
        set={"serving.slots": SLOTS},
        release=release,
        namespace="speech",
    )
    return read_manifest(yaml.safe_dump_all(objects), start_s=60)


@pytest.fixture(scope="module")
def others() -> Iterator[tuple[str, Histogram]]:
    """A page with the server's histogram, and where to put times to first audio into it."""
    registry = CollectorRegistry()
    Gauge("csm_stream_slots", "slots", registry=registry).set(8)
    first_audio = Histogram(FIRST_AUDIO.name, FIRST_AUDIO.help, buckets=FIRST_AUDIO.buckets, registry=registry)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics", first_audio
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(
    triton: LocalTriton, others: tuple[str, Histogram], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    try:
        with scraping(
            tmp_path_factory.mktemp("prometheus"), {triton.metrics_url: LABELS, others[0]: OTHERS}
        ) as running:
            yield running
    except MissingDependencyError as error:
        pytest.skip(str(error))


def simulated(live: int, queued: int) -> float | Missing:
    """What the simulator's Prometheus gives for one pod in this state."""
    pod = Pod(number=1, server=rendered("csm").server, born=0.0, state="ready")
    for number in range(live + queued):
        found = pod.admit(Stream(number=number, left_s=9.0, asked=0.0), patient=True)
        assert found == ("live" if number < live else "queued")
    scrapes = Scrapes()
    scrapes.scrape(0.0, [pod])
    return scrapes.answer("demand")


def test_the_charts_demand_is_the_number_that_the_simulator_gives(triton: LocalTriton, prometheus: Prometheus) -> None:
    demand = rendered("csm").queries[0]
    assert 'namespace="speech",release="csm"' in demand
    until(lambda: prometheus.ask(demand) == 0.0, why="a server without streams")
    assert simulated(0, 0) == 0.0
    heard: list[LoadResult] = []
    request = SpeechRequest(text="Good morning, how are you?", speaker=0, max_frames=100, max_wait_s=60.0)
    load = LoadPlan(pattern="burst", streams=STREAMS, rate=STREAMS, count=STREAMS)
    whole, found = 100 * STREAMS / SLOTS, None
    while found != whole:  # offered again where streams were over before a scrape had seen all five
        thread = threading.Thread(target=lambda: heard.append(asyncio.run(offer(load, [request], triton.url))))
        thread.start()
        while thread.is_alive() and found != whole:
            found, gauges = prometheus.ask(demand), scrape(triton.metrics_url)
            live = (gauges["csm_live_streams"], gauges["csm_queued_streams"])
            assert not isinstance(found, float) or 0.0 <= found <= whole
            if found == whole and live != (SLOTS, STREAMS - SLOTS):
                found = None
        thread.join()
    assert found == pytest.approx(simulated(SLOTS, STREAMS - SLOTS))
    told = Keda(rendered("csm").keda).readings([found, 0.0], current=2, ready=2)  # type: ignore[arg-type]
    assert told == [166_666, 0]
    assert all(stream.ended or not stream.code for stream in heard[0].streams)
    until(lambda: prometheus.ask(demand) == 0.0, why="all are over")


def test_a_release_that_is_not_there_gives_nothing_and_keda_takes_it_for_an_error(prometheus: Prometheus) -> None:
    absent = rendered("absent")
    answers = [prometheus.ask(query) for query in absent.queries]
    assert answers == [Missing.EMPTY, Missing.EMPTY]
    assert absent.keda is not None
    assert Keda(absent.keda).readings(answers, current=4, ready=4) == [None, None]


def test_the_first_sound_is_nothing_without_traffic_and_its_percentile_with_it(
    prometheus: Prometheus, others: tuple[str, Histogram]
) -> None:
    query = rendered("other").queries[1]
    bare = query.partition(" >= 0")[0]
    until(lambda: isinstance(prometheus.ask(bare), float), why="two scrapes")
    quiet = prometheus.ask(bare)
    assert quiet != quiet, "a quantile of nothing is NaN, which older KEDA takes for a huge negative number"
    assert prometheus.ask(query) == 0.0
    seconds = [0.08] * 40 + [0.35] * 60
    scrapes = Scrapes()
    pod = Pod(number=1, server=rendered("csm").server, born=0.0, state="ready")
    scrapes.scrape(0.0, [pod])
    for value in seconds:
        others[1].observe(value)
        scrapes.heard(value)
    scrapes.scrape(15.0, [pod])
    expected = scrapes.answer("first audio")
    assert expected == pytest.approx(1000 * (0.3 + 0.1 * (0.95 * 100 - 40) / 60))
    until(lambda: prometheus.ask(query) == pytest.approx(expected, rel=1e-6), why=f"first audio after {expected} ms")


def test_the_first_sounds_of_a_live_server_are_in_the_buckets_that_its_listeners_saw(
    triton: LocalTriton, prometheus: Prometheus
) -> None:
    # Five streams were asked for at once above: two waited for others to end, at the pace of their players.
    found = prometheus.ask(rendered("csm").queries[1])
    page = scrape(triton.metrics_url)
    assert page["csm_first_audio_seconds_count"] >= STREAMS
    assert isinstance(found, float)
    assert found > 1000, "two of five waited until others had ended"


def test_a_load_that_was_recorded_is_replayed(triton: LocalTriton, prometheus: Prometheus, tmp_path: Path) -> None:
    requests = [SpeechRequest(text="Good morning.", speaker=0, max_frames=frames) for frames in (20, 30)]
    start = time.time()
    heard = asyncio.run(offer(LoadPlan(pattern="constant", rate=2.0, duration_s=12.0), requests, triton.url))
    counted = 'csm_queue_wait_seconds_count{namespace="speech",release="csm"}'
    until(lambda: prometheus.ask(counted) == scrape(triton.metrics_url)["csm_queue_wait_seconds_count"], why="all read")
    rows = max(4, math.ceil((time.time() - start) / 4.0))
    let_pass(max(0.0, start + 4.0 * rows + 1.0 - time.time()))  # the last row must be whole, and read
    end = time.time()
    trace = record(prometheus, 'namespace="speech",release="csm"', start=start, end=end, step=4.0)
    asked = sum(rate * (after[0] - when) for (when, rate, _), after in zip(trace.rows, trace.rows[1:], strict=False))
    assert asked == pytest.approx(len(heard.streams)), "not one is missing"
    trace.write(tmp_path / "recorded.csv")
    one_pod = simulate(rendered("csm"), trace, Conditions())
    spread = len(heard.streams) ** 0.5  # the replay's arrivals are Poisson's
    assert one_pod.asked == pytest.approx(len(heard.streams), abs=4 * spread)


def test_what_cannot_be_recorded_is_said(prometheus: Prometheus) -> None:
    now = time.time()
    with pytest.raises(InputError, match="no stream ended"):
        record(prometheus, 'release="absent"', start=now - 10, end=now, step=4.0)
    with pytest.raises(InputError, match="rows of 20 s in 10 s"):
        record(prometheus, 'release="csm"', start=now - 10, end=now, step=20.0)
    with pytest.raises(InputError, match="parse error"):
        prometheus.ask("sum(")
    with pytest.raises(InputError, match="2 series"):
        prometheus.ask("up")
    with pytest.raises(InputError, match="must be http"):
        Prometheus("localhost:9090")
    with pytest.raises(UnavailableError, match="no Prometheus at"):
        Prometheus("http://127.0.0.1:1").ask("up")
