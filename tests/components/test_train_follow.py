"""What pods print is followed line by line, through broken streams and restarts; why one does not start is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import KubeApi
from kubelet import Kubelet
from waiting import eventually

from csm_components.cluster import APPLICATION, Cluster, ClusterError
from csm_components.train.follow import Follower
from csm_components.train.job import waits_for
from csm_model.errors import MissingDependencyError

LABELS = {"csm.foundry/training": "t"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    with KubeApi() as api, Kubelet(api, tmp_path / "node"):
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path)))
        yield api


def run_pod(api: KubeApi, name: str, script: str) -> None:
    container = {"name": "main", "image": "image@sha256:0", "command": ["bash", "-c", script]}
    spec = {"restartPolicy": "Never", "containers": [container]}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": LABELS}, "spec": spec})


def follow(cluster: Cluster, follower: Follower, *, ends: int) -> list[str]:
    """Lines of rank 0 until so many pods have ended."""
    lines: list[str] = []

    def over() -> bool:
        pods = cluster.pods(LABELS)
        follower.look(pods)
        lines.extend(follower.new_lines())
        return sum(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods) == ends

    eventually(over, every_s=0.1)
    follower.finish()
    return lines + follower.new_lines()


def test_each_line_comes_once_though_streams_break(api: KubeApi, tmp_path: Path) -> None:
    api.cut_streams_after = 25  # more than come in a second, for a stream begins again with a whole second
    many = 'for i in {1..60}; do echo "[0]:line $i"; sleep 0.08; done'
    run_pod(api, "agent-0", many)
    run_pod(api, "agent-1", "echo '[1]:not heard'; echo an agent speaks; echo '[1]:error: it broke'; exit 1")
    cluster = Cluster()
    follower = Follower(cluster, tmp_path / "logs")
    lines = follow(cluster, follower, ends=2)
    follower.close()
    assert lines == [f"line {number}" for number in range(1, 61)]
    workers, agents = follower.last_lines()
    assert workers[-2:] == ["not heard", "error: it broke"]
    assert agents == ["an agent speaks"]
    (log,) = (tmp_path / "logs").glob("agent-0-*.log")
    assert log.read_text().splitlines()[-1] == "[0]:line 60"


def test_a_pod_that_takes_the_place_of_another_is_followed_anew(api: KubeApi, tmp_path: Path) -> None:
    cluster = Cluster()
    follower = Follower(cluster, tmp_path / "logs")
    run_pod(api, "agent-0", "echo '[0]:first'; exit 1")
    assert follow(cluster, follower, ends=1) == ["first"]
    api.delete("", "pods", "default", "agent-0")
    run_pod(api, "agent-0", "echo '[0]:second'")
    assert follow(cluster, follower, ends=1) == ["second"]
    follower.close()
    assert len(list((tmp_path / "logs").iterdir())) == 2


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"phase": "Running"}, ""),
        ({"phase": "Pending"}, ""),
        ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        (
            {
                "phase": "Pending",
                "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}],
            },
            "ImagePullBackOff: not found",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                    }
                ],
            },
            "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        ),
    ],
)
def test_why_a_pod_waits_is_read_off_its_status(status: dict[str, Any], reason: str) -> None:
    assert waits_for({"metadata": {"name": "agent-0"}, "status": status}) == reason


def test_what_the_api_refuses_is_its_own_line(api: KubeApi) -> None:
    cluster = Cluster("models")
    assert cluster.get(APPLICATION, "csm") is None
    with pytest.raises(ClusterError, match=r"applications.argoproj.io csm in namespace models: .*not found") as caught:
        cluster.patch(APPLICATION, "csm", {"spec": {}})
    assert caught.value.code == 404
    cluster.delete(APPLICATION, "csm")


def test_the_latest_warning_of_a_job_is_found(api: KubeApi) -> None:
    cluster = Cluster()
    assert cluster.warning("csm-train-1") == ""
    events = [("a", "Warning", "no room yet", 1), ("b", "Warning", "exceeded quota", 2), ("c", "Normal", "made", 3)]
    for name, kind, said, minute in events:
        job = {"kind": "Job", "name": "csm-train-1", "namespace": "default"}
        api.create(
            {
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": job, "type": kind,
                "reason": "FailedCreate", "message": said, "lastTimestamp": f"2026-11-28T14:0{minute}:00Z",
            }
        )  # fmt: skip
    assert cluster.warning("csm-train-1") == "FailedCreate: exceeded quota"
    assert cluster.warning("csm-train-2") == ""


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(MissingDependencyError, match=r"no Kubernetes cluster is named .* set KUBECONFIG"):
        Cluster().pods({})
    with KubeApi() as gone:
        monkeypatch.setenv("KUBECONFIG", str(gone.write_kubeconfig(tmp_path)))
    with pytest.raises(MissingDependencyError, match="the Kubernetes API does not answer"):
        Cluster().pods({})
