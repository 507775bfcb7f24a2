"""Real trainings through a cluster's API: agents as pods that share nothing but S3; a launcher killed, and stopped."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from job_controllers import Trainer, Volcano
from kube_api import KubeApi, RefusedError
from kubelet import Kubelet
from ports import free_port
from waiting import HANG_S, eventually

from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_components.train.knobs import TrainSettings
from csm_components.train.progress import read_rows
from csm_components.train.step import train

IMAGE = f"ghcr.io/csm-foundry/train@sha256:{'0' * 64}"
RECIPE = {
    "model": "debug", "steps": 6, "row_length": 256, "batch_packs": 2, "warmup_steps": 1, "log_every": 1,
    "validate_every": 6, "checkpoint_every": 2,
}  # fmt: skip
STEP = """
import json, sys
from pathlib import Path
from csm_components.settings import load_settings
from csm_components.train.knobs import TrainSettings
from csm_components.train.step import train
from csm_model.errors import CsmError
tokens, out, run, recipe = sys.argv[1:]
try:
    result = train(
        tokens, Path(out), replay=tokens, pipeline=run, say=lambda line: print(line, flush=True),
        settings=TrainSettings(recipe=json.loads(recipe), nodes="2x1"), target=load_settings().train_target,
    )
except CsmError as error:
    sys.exit(f"error: {error}")
print("digest", result.digest, flush=True)
"""


@dataclass
class Place:
    """A cluster, the storage that its pods reach, and what a launcher's environment says of both."""

    api: KubeApi
    env: dict[str, str]
    s3: Settings
    tokens: Path

    def start(self, out: Path, run: str, **changes: Any) -> subprocess.Popen[str]:
        """A launcher, in a process of its own."""
        recipe = json.dumps(RECIPE | changes.pop("recipe", {}))
        env = self.env
        if changes:
            env = env | {"CSM_TRAIN_TARGET": json.dumps(json.loads(env["CSM_TRAIN_TARGET"]) | changes)}
        return subprocess.Popen(
            [sys.executable, "-c", STEP, str(self.tokens), str(out), run, recipe],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def jobs_made(self) -> int:
        return sum(line.startswith("POST ") and line.endswith(("/jobs", "/trainjobs")) for line in self.api.requests)


@pytest.fixture(scope="module")
def place(s3: Settings, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("cluster")
    assert s3.s3_access_key
    assert s3.s3_secret_key
    keys = {"CSM_S3_ACCESS_KEY": s3.s3_access_key, "CSM_S3_SECRET_KEY": s3.s3_secret_key.get_secret_value()}
    target = {
        "backend": "volcano", "image": IMAGE, "env_from_secrets": ["csm-storage"], "rendezvous_port": free_port(),
        "memory_mb": 1024, "cpu": 1, "grace_s": 60,
        "env": {"GLOO_SOCKET_IFNAME": "lo", "PET_LOCAL_ADDR": "localhost"},
    }  # fmt: skip
    with (
        KubeApi() as api,
        Kubelet(api, home / "node", env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}),
        Volcano(api),
        Trainer(api, port=free_port()),
    ):
        data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
        api.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "csm-storage"}, "data": data})
        env = {
            **os.environ,
            **keys,
            "KUBECONFIG": str(api.write_kubeconfig(home)),
            "CSM_S3_ENDPOINT": str(s3.s3_endpoint),
            "CSM_STORAGE": "s3://training/tests",
            "CSM_TRAIN_TARGET": json.dumps(target),
        }
        yield Place(api=api, env=env, s3=s3, tokens=tokens)


@pytest.fixture(scope="module")
def here(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of what this machine's own processes learn."""
    out = tmp_path_factory.mktemp("here") / "train"
    return train(tokens, out, replay=tokens, settings=TrainSettings(recipe=RECIPE), say=lambda line: None).digest


def output(launcher: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = launcher.communicate(timeout=HANG_S)
    assert launcher.returncode == code, text
    return text


def wait_for_line(launcher: subprocess.Popen[str], words: str) -> str:
    assert launcher.stdout
    seen = ""
    for line in launcher.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} never came: {seen}")


@pytest.mark.parametrize("backend", ["volcano", "trainjob"])
def test_agents_that_share_nothing_but_the_storage_learn_the_same(
    backend: str, place: Place, here: str, tmp_path: Path
) -> None:
    said = output(place.start(tmp_path / "train", f"run-{backend}", backend=backend))
    assert f"digest {here}" in said
    assert "step 6/6" in said
    assert [row["step"] for row in read_rows(tmp_path / "train" / "metrics.jsonl") if "loss" in row] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert not (tmp_path / "train" / "final").exists(), "the bundle stays in the storage"
    assert len(list((tmp_path / "train" / "logs").glob("csm-train-*.log"))) == 2
    storage = open_storage("s3://training/tests", place.s3)
    assert storage.get_json(f"trained/{here}/manifest.json")["digest"] == here
    assert len(storage.trees("tokens/")) == 1, "what is replayed is the same tokens"
    made = place.jobs_made()
    again = output(place.start(tmp_path / "again", f"run-{backend}", backend=backend))
    assert (f"digest {here}" in again, place.jobs_made()) == (True, made), "a result that is there is taken"


def test_a_launcher_that_is_killed_leaves_its_job_to_the_next(place: Place, here: str, tmp_path: Path) -> None:
    made = place.jobs_made()
    first = place.start(tmp_path / "first", "run-killed")
    wait_for_line(first, "was made")
    first.kill()
    first.wait()
    assert first.stdout
    first.stdout.close()
    said = output(place.start(tmp_path / "second", "run-killed"))
    assert "is there already: running" in said or "has trained already" in said
    assert (f"digest {here}" in said, place.jobs_made()) == (True, made + 1)


def test_a_launcher_that_is_stopped_stops_its_job_which_then_goes_on(place: Place, tmp_path: Path) -> None:
    longer = {"steps": 100_000, "checkpoint_every": 100_000, "validate_every": 100_000}
    first = place.start(tmp_path / "first", "run-stopped", recipe=longer)
    name = name_in(wait_for_line(first, "step "))
    first.send_signal(signal.SIGTERM)
    output(first, code=143)
    assert place.api.get("batch.volcano.sh", "jobs", "default", name)["status"]["state"]["phase"] == "Aborted"
    assert not place.api.find("", "pods", labels=f"csm.foundry/training={name}")
    storage = open_storage("s3://training/tests", place.s3)
    saved = int(storage.trees(f"checkpoints/{name}/step-")[-1].rpartition("-")[2])
    assert 0 < saved < 100_000
    second = place.start(tmp_path / "second", "run-stopped", recipe=longer)
    wait_for_line(second, "begins again from its last checkpoint")

    def further() -> list[dict[str, Any]]:
        rows = rows_of(storage, name, tmp_path / "rows")
        return rows if rows and rows[-1]["step"] > saved else []

    rows = eventually(further, every_s=0.5)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "no step is missing, and none is twice"
    second.send_signal(signal.SIGTERM)
    output(second, code=143)


def rows_of(storage: Any, name: str, path: Path) -> list[dict[str, Any]]:
    storage.get_file(f"checkpoints/{name}/metrics.jsonl", path)
    return read_rows(path)


def name_in(said: str) -> str:
    """The name of the job that a launcher says it made."""
    return said.partition(" was made")[0].split()[-1]


def test_a_pod_that_fails_restarts_the_job_from_its_checkpoint(place: Place, here: str, tmp_path: Path) -> None:
    launcher = place.start(tmp_path / "train", "run-failing")
    name = name_in(wait_for_line(launcher, "was made"))

    def both() -> list[dict[str, Any]]:
        pods = place.api.find("", "pods", labels=f"csm.foundry/training={name}")
        running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        return running if len(running) == 2 else []

    running = eventually(both)
    os.killpg(place.api.logs.pid(running[1]["metadata"]["name"]), signal.SIGKILL)
    assert f"digest {here}" in output(launcher)
    assert place.api.get("batch.volcano.sh", "jobs", "default", name)["status"]["retryCount"] == 1


def test_what_the_trainer_says_is_the_error(place: Place, tmp_path: Path) -> None:
    said = output(place.start(tmp_path / "train", "run-wrong", recipe={"row_length": 4096}, max_retries=0), code=1)
    assert "row_length 4096: the model holds 2048 rows" in said.splitlines()[-1]


def test_a_job_that_is_refused_or_cannot_start_is_one_line(place: Place, tmp_path: Path) -> None:
    def quota(thing: dict[str, Any]) -> None:
        if thing["kind"] == "Job":
            raise RefusedError(403, "exceeded quota: training, requested: count/jobs=1, used: 1, limited: 1")

    place.api.admit = quota
    try:
        said = output(place.start(tmp_path / "refused", "run-refused"), code=1)
    finally:
        place.api.admit = None
    assert "was refused: " in said.splitlines()[-1]
    assert "exceeded quota: training" in said.splitlines()[-1]
    lost = {"env_from_secrets": ["nobody-made-it"], "start_timeout_s": 2}
    said = output(place.start(tmp_path / "stuck", "run-stuck", **lost), code=1)
    assert 'CreateContainerConfigError: secrets "nobody-made-it" not found' in said.splitlines()[-1]
    assert "has waited for" in said.splitlines()[-1]
