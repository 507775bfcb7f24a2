"""deploy/monitoring: a Prometheus without an operator finds the charts' pods and labels them as the PodMonitors do; the
example of a route for alerts is one that Alertmanager takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import ci_file, render
from monitoring import MONITORING, RULES, alerts, promtool

PROMETHEUS = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
ROUTES = yaml.safe_load((MONITORING / "alertmanager.yaml").read_text(encoding="utf-8"))
JOBS = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pods of rendered Deployments and StatefulSets, one of each."""
    for thing in objects:
        if thing["kind"] in ("Deployment", "StatefulSet"):
            yield {**thing["spec"]["template"], "name": f"{thing['metadata']['name']}-1"}


def discovered(pod: dict[str, Any], namespace: str = "csm", phase: str = "Running") -> Iterator[dict[str, Any]]:
    """What Prometheus's discovery of pods says of one: a target for each port, and for a container that has none.

    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod
    """
    labels = {
        f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}": str(value)
        for name, value in pod["metadata"]["labels"].items()
    }
    labels |= {"__meta_kubernetes_namespace": namespace, "__meta_kubernetes_pod_name": pod["name"]}
    labels |= {"__meta_kubernetes_pod_phase": phase}
    for init, containers in (("true", pod["spec"].get("initContainers", [])), ("false", pod["spec"]["containers"])):
        for container in containers:
            more = labels | {"__meta_kubernetes_pod_container_init": init}
            for port in container.get("ports", [{"name": "", "containerPort": 0}]):
                name = {"__meta_kubernetes_pod_container_port_name": port["name"]}
                yield {"targets": [f"10.0.0.1:{port['containerPort']}"], "labels": more | name}


def targets(job: str, objects: list[dict[str, Any]], folder: Path, *, phase: str = "Running") -> list[dict[str, str]]:
    """The targets that a job makes of rendered pods, with their labels, as Prometheus itself relabels them."""
    config = {key: value for key, value in JOBS[job].items() if key != "kubernetes_sd_configs"}
    (selector,) = JOBS[job]["kubernetes_sd_configs"][0]["selectors"]
    name, _, value = selector["label"].partition("=")
    chosen = [pod for pod in pods(objects) if pod["metadata"]["labels"].get(name) == value]
    assert chosen, f"no pod has the label {selector['label']}"
    (folder / "pods.json").write_text(json.dumps([one for pod in chosen for one in discovered(pod, phase=phase)]))
    config["file_sd_configs"] = [{"files": ["pods.json"]}]
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump({"scrape_configs": [config]}))
    done = promtool("check", "service-discovery", "--timeout=3s", file, job)
    assert done.returncode == 0, done.stderr
    return [found["labels"] for found in json.loads(done.stdout) if found.get("labels")]


def test_servers_get_the_labels_of_their_release_and_track(tmp_path: Path) -> None:
    found = targets("csm-serving", render("csm-serving", ci_file("csm-serving", "canary")), tmp_path)
    assert {(one["__address__"], one["namespace"], one["release"], one["track"], one["pod"]) for one in found} == {
        ("10.0.0.1:8002", "csm", "csm", "stable", "csm-serving-1"),
        ("10.0.0.1:8002", "csm", "csm", "canary", "csm-serving-canary-1"),
    }


def test_pods_that_have_ended_are_no_servers(tmp_path: Path) -> None:
    objects = render("csm-serving", ci_file("csm-serving", "default"))
    assert targets("csm-serving", objects, tmp_path, phase="Succeeded") == []


def test_the_operators_monitor_gives_the_same_labels() -> None:
    objects = render("csm-serving", ci_file("csm-serving", "default"), set={"monitoring.podMonitor.enabled": True})
    (monitor,) = (thing for thing in objects if thing["kind"] == "PodMonitor")
    theirs = {
        rule["targetLabel"]: rule["sourceLabels"] for rule in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    }
    rules = JOBS["csm-serving"]["relabel_configs"]
    assert {rule["target_label"]: rule["source_labels"] for rule in rules if "target_label" in rule} == theirs


def test_the_gateway_is_found_and_what_was_pushed_keeps_its_labels(tmp_path: Path) -> None:
    found = targets("csm-pushgateway", render("csm-platform", ci_file("csm-platform", "everything-here")), tmp_path)
    assert [one["__address__"] for one in found] == ["10.0.0.1:9091"]
    assert JOBS["csm-pushgateway"]["honor_labels"] is True


def test_prometheus_takes_the_rest(tmp_path: Path) -> None:
    """Debian's build has no discovery of Kubernetes; the rest is checked, with the rules where it expects them."""
    config = {**PROMETHEUS, "scrape_configs": []}
    for job in PROMETHEUS["scrape_configs"]:
        discovery = job.get("kubernetes_sd_configs", [])
        assert all(found["role"] == "pod" and found.keys() == {"role", "selectors"} for found in discovery)
        config["scrape_configs"].append({key: job[key] for key in job if key != "kubernetes_sd_configs"})
    for path, name in zip(RULES, config["rule_files"], strict=True):
        assert path.parent.parent.name == f"csm-{Path(name).stem}"
        (tmp_path / name).write_text(path.read_text())
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    done = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def amtool(*arguments: str) -> str:
    program = shutil.which("amtool")
    if program is None:
        pytest.skip("amtool is not here; it is in Debian's package prometheus-alertmanager")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_alertmanager_takes_the_route_and_wakes_somebody_for_critical_alerts_only() -> None:
    file = str(MONITORING / "alertmanager.yaml")
    assert "SUCCESS" in amtool("check-config", file)
    for alert in alerts():
        severity = alert.written["labels"]["severity"]
        route = amtool(
            "config", "routes", "test", f"--config.file={file}", f"alertname={alert.name}", f"severity={severity}"
        )
        assert route == {"critical": "on-call", "warning": "channel"}[severity], alert.name


def test_what_keeps_alerts_back_names_alerts_that_are_there() -> None:
    names = {alert.name for alert in alerts()}
    for rule in ROUTES["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            assert set(re.findall(r"Csm\w+", matcher)) <= names, matcher
