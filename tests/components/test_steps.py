"""What every step does around its work: the ledger of a cluster, and figures in a real pushgateway."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families
from waiting import eventually

from csm_components.job import StepJob
from csm_components.made import Record, entered, ledger_key
from csm_components.metrics import push_metrics
from csm_components.settings import Settings
from csm_components.spec import StepSpec
from csm_components.steps import perform
from csm_components.storage import open_storage
from csm_model.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a step made."""

    out: str = "there"
    digest: str = "d" * 64
    wer_generated: float = 0.125
    mos: float | None = None
    promoted: bool = True
    reused: bool = False


def fail(job: StepJob) -> Made:
    raise InputError("no such corpus")


def run_step(
    step: str,
    scratch: Path,
    work: Callable[[StepJob], Any] = lambda job: Made(),
    *,
    folder: Path | None = None,
    cacheable: bool = False,
) -> Record:
    """Does a step in the folder of a run, or as a pod does."""
    spec = StepSpec(name=step, description="", work=work, records=False, cacheable=cacheable)
    return perform(StepJob(spec=spec, scratch=scratch, work=folder))


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """Address of a pushgateway."""
    program = shutil.which("prometheus-pushgateway")
    if program is None:
        pytest.skip("prometheus-pushgateway is not installed: apt-get install prometheus-pushgateway")
    port = free_port()
    process = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: ready(f"http://127.0.0.1:{port}"), "the pushgateway did not come up")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def ready(gateway: str) -> bool:
    try:
        return bool(read(gateway, "-/ready"))
    except urllib.error.URLError:
        return False


def read(gateway: str, path: str = "metrics") -> str:
    with urllib.request.urlopen(f"{gateway}/{path}", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def figures(gateway: str, **wanted: str) -> dict[tuple[str, str], float]:
    """Values by name and by the label `figure`, of the groups with these labels."""
    return {
        (sample.name, sample.labels.get("figure", "")): sample.value
        for family in text_string_to_metric_families(read(gateway))
        for sample in family.samples
        if sample.name.startswith("csm_") and wanted.items() <= sample.labels.items()
    }


def test_a_step_pushes_what_it_took_when_it_ended_and_the_numbers_of_its_result(
    gateway: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"PUSHGATEWAY": gateway, "PIPELINE": "csm-release", "MODEL": "csm/demo"}.items():
        monkeypatch.setenv(f"CSM_{name}", value)
    began = time.time()
    run_step("evaluate", tmp_path)
    labels = {"job": "csm_step", "step": "evaluate", "pipeline": "csm-release", "model": "csm/demo"}
    found = figures(gateway, **labels)
    numbers = {figure: value for (name, figure), value in found.items() if name == "csm_step_result"}
    assert numbers == {"wer_generated": 0.125, "promoted": 1.0, "reused": 0.0}
    ended = time.time()
    assert 0 <= found["csm_step_duration_seconds", ""] <= ended - began
    succeeded = found["csm_step_last_success_timestamp_seconds", ""]
    assert began <= succeeded <= ended

    with pytest.raises(InputError):
        run_step("evaluate", tmp_path, fail)
    after = figures(gateway, **labels)
    assert after["csm_step_last_success_timestamp_seconds", ""] == succeeded, "what went well before stays known"
    assert after["csm_step_last_failure_timestamp_seconds", ""] >= succeeded

    with pytest.raises(InputError):
        run_step("ingest", tmp_path, fail, folder=tmp_path / "run")
    assert set(figures(gateway, step="ingest")) == {("csm_step_last_failure_timestamp_seconds", "")}

    if promtool := shutil.which("promtool"):
        lines = [line for line in read(gateway).splitlines() if re.match(r"(# (HELP|TYPE) )?csm_", line)]
        checked = subprocess.run(
            [promtool, "check", "metrics"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_metrics_of_others_are_pushed_under_a_job_of_their_own(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_PUSHGATEWAY", gateway.removeprefix("http://"))
    registry = CollectorRegistry()
    Gauge("csm_training_step", "Steps.", registry=registry).set(7)
    push_metrics(registry, "csm_training", {"step": "train"})
    assert figures(gateway, job="csm_training") == {("csm_training_step", ""): 7.0}


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:9/x y", "nothing://"])
def test_a_gateway_that_is_not_there_costs_a_line_and_not_the_step(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CSM_PUSHGATEWAY", address)
    assert run_step("export", tmp_path).result == asdict(Made())
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {address}: figures of csm_step were not pushed (")
    assert said.count("\n") == 1


def test_a_step_under_a_cache_key_is_noted_in_the_ledger(
    s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.s3_secret_key is not None
    monkeypatch.setenv("CSM_S3_ENDPOINT", str(s3.s3_endpoint))
    monkeypatch.setenv("CSM_S3_ACCESS_KEY", str(s3.s3_access_key))
    monkeypatch.setenv("CSM_S3_SECRET_KEY", s3.s3_secret_key.get_secret_value())
    monkeypatch.setenv("CSM_STORAGE", "s3://ledgers/csm")
    run_step("export", tmp_path)
    storage = open_storage()
    assert storage.list() == [], "without a key nothing is noted"
    monkeypatch.setenv("CSM_CACHE_KEY", "k" * 64)
    with pytest.raises(InputError):
        run_step("export", tmp_path, fail)
    assert storage.list() == [], "what failed is not reused"
    run_step("export", tmp_path)
    assert storage.list() == [ledger_key("export", "k" * 64)]
    known = entered(storage, "export", "k" * 64)
    assert known is not None
    assert (known.step, known.result["digest"]) == ("export", "d" * 64)
    assert known.finished >= known.seconds >= 0


def test_what_was_made_of_the_same_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    first = run_step("export", tmp_path, cacheable=True)
    again = run_step("export", tmp_path, fail, cacheable=True)
    assert again.result == {**first.result, "reused": True}
    assert again.key == first.key
    with pytest.raises(InputError):
        run_step("evaluate", tmp_path, fail, cacheable=True)
    monkeypatch.setattr("csm_components.steps.code_digest", lambda: "of another program")
    with pytest.raises(InputError):
        run_step("export", tmp_path, fail, cacheable=True)
