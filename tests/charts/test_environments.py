"""Every environment with every chart: rendered with its tenants and a release, right, and within the policies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chart_policies import broken_policies
from chart_rendering import all_charts, of_kind, only, read_yaml, render
from kubernetes_schemas import check

from csm_pipelines.profile import load_profile

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
ENVIRONMENTS = ("kind", "staging", "production")
TENANTS = DEPLOY / "tenants" / "tenants.yaml"
NAMESPACES = {"csm-platform": "csm-platform", "csm-training": "csm-tenants", "csm-serving": "csm-serving"}
DIGEST = "8f0c1b2a3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"
RELEASE = {
    "bundle": {"url": f"s3://csm/production/bundles/{DIGEST}", "digest": DIGEST},
    "release": {"model": "csm", "version": "7"},
}
"""What the step deploy writes for csm-serving."""

every_environment = pytest.mark.parametrize("environment", ENVIRONMENTS)


def rendered(environment: str, chart: str, **changes: Any) -> list[dict[str, Any]]:
    """A chart as an environment installs it."""
    files = [DEPLOY / "environments" / environment / f"{chart}.yaml"]
    if chart == "csm-serving":
        changes = {**RELEASE, **changes}
    else:
        files.append(TENANTS)
    return render(chart, *files, set=changes, release=chart, namespace=NAMESPACES[chart])


def containers(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pods = [thing["spec"]["template"]["spec"] for thing in things if "template" in thing.get("spec", {})]
    return [container for pod in pods for container in (*pod.get("initContainers", ()), *pod["containers"])]


def test_there_is_a_file_for_each_environment_and_chart() -> None:
    found = {path.relative_to(DEPLOY / "environments").as_posix() for path in DEPLOY.glob("environments/*/*")}
    assert found == {f"{environment}/{chart}.yaml" for environment in ENVIRONMENTS for chart in all_charts()}
    assert set(NAMESPACES) == set(all_charts())


@every_environment
@pytest.mark.parametrize("chart", sorted(NAMESPACES))
def test_an_environment_is_right_for_kubernetes_and_keeps_the_policies(environment: str, chart: str) -> None:
    things = rendered(environment, chart)
    for thing in things:
        check(thing)
    assert broken_policies(things) == []


@every_environment
def test_digests_are_named_once_for_the_release_process_to_fill(environment: str) -> None:
    """Every image of every environment is a placeholder of the right shape until a release writes the real one."""
    for chart in NAMESPACES:
        text = (DEPLOY / "environments" / environment / f"{chart}.yaml").read_text(encoding="utf-8")
        digests = re.findall(r'digest: "?(\S+?)"?}?$', text, re.MULTILINE)
        assert digests
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)


@every_environment
def test_what_one_chart_calls_is_what_another_makes(environment: str) -> None:
    platform = rendered(environment, "csm-platform")
    made = {
        f"{thing['metadata']['name']}.csm-platform": {port["port"] for port in thing["spec"]["ports"]}
        for thing in of_kind(platform, "Service")
    }
    called = [
        variable["value"]
        for chart in ("csm-serving", "csm-training")
        for container in containers(rendered(environment, chart))
        for variable in container.get("env", ())
        if variable["name"] in ("CSM_S3_ENDPOINT", "MLFLOW_TRACKING_URI")
    ]
    assert called
    for address in called:
        host, _, port = address.partition("://")[2].partition(":")
        if "example.com" in host:
            assert not any(name.startswith("csm-platform-s3") for name in made), f"{address} beside a store of our own"
            continue
        assert int(port) in made[host.removesuffix(".svc")], address


@every_environment
def test_serving_may_read_bundles_where_the_store_is_ours(environment: str) -> None:
    platform = rendered(environment, "csm-platform")
    if not of_kind(platform, "StatefulSet"):
        return
    programs = next(thing for thing in of_kind(platform, "ConfigMap") if "identities.json" in thing["data"])
    rights = {row["name"]: row["actions"] for row in json.loads(programs["data"]["identities.json"])}
    place = RELEASE["bundle"]["url"].removeprefix("s3://").rpartition("/")[0]
    assert rights["serving"] == [f"Read:{place}/*", f"List:{place}/*"]
    init = containers(rendered(environment, "csm-serving"))[0]
    secrets = {entry["valueFrom"]["secretKeyRef"]["name"] for entry in init["env"] if "valueFrom" in entry}
    assert secrets == {"csm-s3-serving"}


@pytest.mark.parametrize("profile", sorted(path.stem for path in DEPLOY.glob("profiles/*.yaml")))
def test_profiles_name_what_the_tenants_have(profile: str) -> None:
    """A run that a profile sends finds its namespace, queue, priority class, accounts, and where it may write."""
    images = {role: f"ghcr.io/csm-foundry/{role}@sha256:{DIGEST}" for role in ("data", "train")}
    chosen = load_profile(profile, images)
    training = rendered("staging", "csm-training")
    platform = rendered("staging", "csm-platform")
    assert chosen.namespace in {thing["metadata"]["name"] for thing in of_kind(training, "Namespace")}
    (tenant,) = [tenant for tenant in read_yaml(TENANTS)["tenants"] if f"csm-{tenant['name']}" == chosen.namespace]
    assert f"{chosen.storage.url}/".startswith(f"{tenant['storage']}/")
    if chosen.train.backend == "volcano":
        assert chosen.train.queue in {thing["metadata"]["name"] for thing in of_kind(training, "Queue")}
    accounts = {
        thing["metadata"]["name"]
        for thing in of_kind(training, "ServiceAccount")
        if thing["metadata"].get("namespace") == chosen.namespace
    }
    if chosen.train.backend != "local":
        assert chosen.train.service_account in accounts
        assert chosen.train.priority_class in {
            "",
            *(thing["metadata"]["name"] for thing in of_kind(training, "PriorityClass")),
        }
    services = {f"{thing['metadata']['name']}.csm-platform" for thing in of_kind(platform, "Service")}
    for address in (chosen.storage.endpoint, chosen.tracking.url, chosen.pushgateway):
        assert address.partition("://")[2].partition(":")[0].removesuffix(".svc") in services, address


@every_environment
def test_mlflow_is_reached_by_the_names_that_others_use(environment: str) -> None:
    command = only(rendered(environment, "csm-platform"), "Deployment", component="mlflow")
    (hosts,) = [
        word.partition("=")[2].split(",")
        for word in command["spec"]["template"]["spec"]["containers"][0]["command"]
        if word.startswith("--allowed-hosts=")
    ]
    used = {"csm-platform-mlflow.csm-platform:5000", "csm-platform-mlflow.csm-platform.svc:5000"}
    assert used <= set(hosts)
