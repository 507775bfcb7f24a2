"""What is counted: named by Prometheus's rules, explained on its page, and there on a live server."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from csm_serving.client import SpeechClient
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server import metrics
from csm_serving.server.metrics import MetricSpec

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def exposed(triton: LocalTriton) -> str:
    """The server's page, without Triton's own metrics, whose names are not by the rules."""
    address = urlsplit(triton.metrics_url)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    connection.request("GET", address.path)
    rows = connection.getresponse().read().decode().splitlines()
    connection.close()
    return "".join(f"{row}\n" for row in rows if re.match(r"(# (HELP|TYPE) )?csm_", row))


@pytest.mark.parametrize("spec", metrics.ALL, ids=lambda spec: spec.name)
def test_names_follow_prometheus_rules(spec: MetricSpec) -> None:
    """https://prometheus.io/docs/practices/naming: a prefix, base units, `_total` on counters and nowhere else."""
    assert re.fullmatch(r"csm(_[a-z]+)+", spec.name)
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert not re.search(r"_(count|sum|bucket|ms|us|milliseconds|percent)(_|$)", spec.name)
    assert (spec.kind == "histogram") == bool(spec.buckets)
    assert list(spec.buckets) == sorted(set(spec.buckets))
    assert bool(spec.label) == bool(spec.values)
    assert spec.label not in ("version", "le", "job", "instance"), "taken"


def test_the_page_lists_every_metric_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(csm_\w+)(?:\{\w+\})?` \| (\w+) \|", page, re.M))
    assert rows == {spec.name: spec.kind for spec in metrics.ALL}
    for spec in metrics.ALL:
        row = next(row for row in page.splitlines() if row.startswith(f"| `{spec.name}"))
        assert not spec.label or f"{{{spec.label}}}" in row
        for value in spec.values:
            assert f"`{value}`" in row, f"{spec.name}: {value}"


def test_the_pages_queries_ask_for_what_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = {spec.name for spec in metrics.ALL}
    known |= {f"{spec.name}_{part}" for spec in metrics.ALL if spec.buckets for part in ("bucket", "sum", "count")}
    asked = set(re.findall(r"\bcsm_[a-z_]+[a-z]", page))
    assert asked - known - {"csm_serving"} == set()


def test_a_live_server_shows_every_metric(client: SpeechClient, triton: LocalTriton) -> None:
    client.say("Good morning.", max_frames=3)
    page = exposed(triton)
    for spec in metrics.ALL:
        assert f"# TYPE {spec.name} {spec.kind}\n" in page
        assert re.search(rf'^{spec.name}(_count)?\{{.*version="1".*\}} ', page, re.M), spec.name
        for value in spec.values:
            assert f'{spec.label}="{value}"' in page


def test_prometheus_own_tool_finds_nothing(client: SpeechClient, triton: LocalTriton) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here; it is in Debian's package prometheus")
    client.say("Good morning.", max_frames=3)
    page = exposed(triton)
    found = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip(), found.stderr.strip()) == (0, "", "")
