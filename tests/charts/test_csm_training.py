"""The chart csm-training: rights that are those that a launch uses, ways that agents need, queues, quotas, the job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_policies import selects
from chart_rendering import ci_file, of_kind, only, read_yaml, refusal, render
from kube_api import KubeApi

from csm_components import cluster as cluster_module
from csm_components.targets import TrainTarget
from csm_components.tenants import Tenant
from csm_components.train.app import LaunchSpec
from csm_components.train.job import ClusterJob

VOLCANO, KUEUE = ci_file("csm-training", "volcano"), ci_file("csm-training", "kueue")
GOLDEN = Path(__file__).resolve().parent.parent / "components" / "golden"
IMAGE = f"ghcr.io/csm-foundry/train@sha256:{'0' * 64}"
Right = tuple[str, str, str]


def named(things: list[dict[str, Any]], kind: str, name: str, namespace: str = "csm-research") -> dict[str, Any]:
    (found,) = [
        thing
        for thing in of_kind(things, kind)
        if thing["metadata"]["name"] == name and thing["metadata"].get("namespace", namespace) == namespace
    ]
    return found


def rights(role: dict[str, Any]) -> set[Right]:
    """Group, resource and verb of everything that a Role allows."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(request: str) -> Right:
    """Group, resource and verb of a request, as the API's authorisation reads it."""
    method, _, path = request.partition(" ")
    parts = path.partition("?")[0].strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    assert rest[0] == "namespaces", f"{request} is for the whole cluster"
    plural, *more = rest[2:]
    resource = "/".join([plural, *more[1:]])
    reading = "get" if more else "list"
    return group, resource, {"GET": reading, "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Right]]:
    """What starting, following and stopping a training asks of the API, with either backend."""
    with KubeApi() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path, namespace="csm-research")))
        for backend in ("volcano", "trainjob"):
            target = TrainTarget(namespace="csm-research", backend=backend, image=IMAGE)  # type: ignore[arg-type]
            spec = LaunchSpec(module="csm_components.train.worker", name=f"csm-train-{backend}", log_dir=tmp_path)
            job = ClusterJob(spec=spec, target=target, has_result=lambda: False, say=lambda line: None)
            job._begin()
            job.scheduled.message()
            job._check_start(job.cluster.pods({}))
            with pytest.raises(cluster_module.ClusterError):
                list(job.cluster.log("csm-train-0"))
            job.scheduled.cancel()
            job._remove()
        yield {asked(line) for line in api.requests if not line.endswith("/version")}


def test_a_launch_asks_for_nothing_that_its_role_lacks_and_its_role_for_nothing_more(launched: set[Right]) -> None:
    assert launched == rights(named(render("csm-training", VOLCANO), "Role", "csm-launcher"))


def test_a_launch_uses_no_other_call_of_the_cluster_than_was_tried() -> None:
    """The fixture tries these; a call that is new in the code must be tried there too."""
    folder = Path(cluster_module.__file__).parent / "train"
    source = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    used = set(re.findall(r"\b_?cluster\.(\w+)\(", source))
    assert used <= {"create", "get", "patch", "patch_status", "delete", "pods", "warning", "log"}, used


def test_the_launchers_are_bound_in_their_tenant_alone() -> None:
    binding = named(render("csm-training", VOLCANO), "RoleBinding", "csm-launcher")
    assert [(subject["namespace"], subject["name"]) for subject in binding["subjects"]] == [
        ("csm-research", "csm-pipeline"),
        ("kubeflow", "pipeline-runner"),
    ]
    assert of_kind(render("csm-training", VOLCANO), "ClusterRole") == []
    assert of_kind(render("csm-training", VOLCANO), "ClusterRoleBinding") == []


def test_releases_are_written_into_the_applications_that_a_tenant_names_and_no_other() -> None:
    things = render("csm-training", VOLCANO)
    role = named(things, "Role", "csm-deploy-research", namespace="argocd")
    assert rights(role) == {("argoproj.io", "applications", verb) for verb in ("get", "patch")}  # tests of deploy
    assert [rule["resourceNames"] for rule in role["rules"]] == [["csm-serving-production"]]
    binding = named(things, "RoleBinding", "csm-deploy-research", namespace="argocd")
    assert ("csm-research", "csm-pipeline") in {(who["namespace"], who["name"]) for who in binding["subjects"]}
    assert not [thing for thing in things if "deploy-product" in thing["metadata"]["name"]]


def test_no_role_reads_all_secrets_and_no_agent_has_any_role() -> None:
    things = render("csm-training", VOLCANO)
    for role in of_kind(things, "Role"):
        for rule in role["rules"]:
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == ["csm-storage", "kfp-mlflow-credentials"]
                assert rule["verbs"] == ["get"]
    bound = {subject.get("name") for binding in of_kind(things, "RoleBinding") for subject in binding["subjects"]}
    assert "csm-trainer" not in bound
    assert named(things, "ServiceAccount", "csm-trainer")["automountServiceAccountToken"] is False


def test_people_look_and_stop_and_nothing_more() -> None:
    member = named(render("csm-training", VOLCANO), "Role", "csm-member")
    assert {verb for _, _, verb in rights(member)} == {"get", "list", "watch", "delete"}
    assert {resource for _, resource, verb in rights(member) if verb == "delete"} == {"jobs", "trainjobs"}
    names = [thing["metadata"]["namespace"] for thing in of_kind(render("csm-training", VOLCANO), "Role")]
    assert names.count("speech-product") == 2, "a tenant without people needs no role for them"


def agents(backend: str) -> list[dict[str, str]]:
    """Labels of the agents' pods, as the launcher asks for them."""
    made = yaml.safe_load((GOLDEN / f"{backend}.yaml").read_text(encoding="utf-8"))
    if backend == "volcano":
        return [{**task["template"]["metadata"]["labels"]} for task in made["spec"]["tasks"]]
    jobs = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return [job["template"]["spec"]["template"]["metadata"]["labels"] for job in jobs]


@pytest.mark.parametrize("backend", ["volcano", "trainjob"])
def test_agents_reach_each_other_on_every_port_and_no_kubernetes_api(backend: str) -> None:
    things = render("csm-training", VOLCANO)
    policy = named(things, "NetworkPolicy", "csm-agents")["spec"]
    steps = named(things, "NetworkPolicy", "csm-steps")["spec"]
    for labels in agents(backend):
        assert selects(policy["podSelector"], labels)
        assert not selects(steps["podSelector"], labels)
    (rule,) = policy["ingress"]
    assert "ports" not in rule
    assert rule["from"] == [{"podSelector": policy["podSelector"]}]
    (rule,) = policy["egress"]
    assert rule["to"] == [{"podSelector": policy["podSelector"]}]


def test_every_pod_of_a_tenant_reaches_names_and_the_platform_and_is_reached_by_nobody() -> None:
    policy = named(render("csm-training", VOLCANO), "NetworkPolicy", "csm-default")["spec"]
    assert policy["podSelector"] == {}
    assert "ingress" not in policy
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = [tuple(port["port"] for port in rule.get("ports", ())) for rule in policy["egress"]]
    assert ports == [(53, 53), (5000, 8333, 9091), ()]


@pytest.mark.parametrize(("file", "kinds"), [(VOLCANO, {"Queue"}), (KUEUE, {"ClusterQueue", "LocalQueue"})])
def test_a_queue_has_the_tenants_quota(file: Path, kinds: set[str]) -> None:
    things = render("csm-training", file)
    tenant = read_yaml(file)["tenants"][0]
    quota = named(things, "ResourceQuota", "csm-quota")["spec"]["hard"]
    wanted = {
        "cpu": str(tenant["quota"]["cpu"]),
        "memory": tenant["quota"]["memory"],
        "nvidia.com/gpu": str(tenant["quota"]["gpus"]),
    }
    assert {name: quota[f"requests.{name}"] for name in wanted} == wanted
    queue = next(thing for thing in of_kind(things, sorted(kinds)[0]) if thing["metadata"]["name"] == "csm-research")
    if "Queue" in kinds:
        assert queue["spec"] == {"weight": 3, "reclaimable": False, "capability": wanted}
        assert of_kind(things, "ClusterQueue") == []
        return
    assert queue["spec"]["fairSharing"] == {"weight": 2}
    (group,) = queue["spec"]["resourceGroups"]
    assert {row["name"]: row["nominalQuota"] for row in group["flavors"][0]["resources"]} == wanted
    assert group["flavors"][0]["name"] == only(things, "ResourceFlavor")["metadata"]["name"]
    local = named(things, "LocalQueue", "csm-research")
    assert local["spec"]["clusterQueue"] == "csm-research"
    priorities = {thing["metadata"]["name"] for thing in of_kind(things, "WorkloadPriorityClass")}
    assert priorities == {thing["metadata"]["name"] for thing in of_kind(things, "PriorityClass")}
    assert of_kind(things, "Queue") == []


def test_without_a_scheduler_there_are_no_queues_and_the_quota_stays() -> None:
    things = render("csm-training", VOLCANO, set={"scheduler": "none"})
    assert of_kind(things, "Queue") == []
    assert len(of_kind(things, "ResourceQuota")) == 2


def test_a_namespace_is_restricted_and_outlives_its_entry() -> None:
    for thing in of_kind(render("csm-training", VOLCANO), "Namespace"):
        labels, annotations = thing["metadata"]["labels"], thing["metadata"]["annotations"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        assert labels["csm.foundry/client"] == "true"
        assert annotations["helm.sh/resource-policy"] == "keep"
        assert "Prune=false" in annotations["argocd.argoproj.io/sync-options"]


def test_the_job_is_given_tenants_that_the_command_reads() -> None:
    things = render("csm-training", VOLCANO)
    prepared = next(thing for thing in of_kind(things, "ConfigMap") if "tenants.json" in thing["data"])
    rows = json.loads(prepared["data"]["tenants.json"])
    assert [Tenant.model_validate(row).name for row in rows] == ["research", "product"]
    assert (rows[0]["checkpointDays"], rows[0]["shardDays"]) == (30, 90)


def test_a_changed_tenant_is_another_job() -> None:
    def job(**changes: Any) -> str:
        tenants = read_yaml(VOLCANO)["tenants"]
        tenants[0] |= changes
        name: str = only(render("csm-training", VOLCANO, set={"tenants": tenants}), "Job")["metadata"]["name"]
        return name

    assert job(checkpointDays=31) != job(checkpointDays=30)
    assert job(queue={"weight": 9}) == job(queue={"weight": 3}), "the job makes no queue"


def test_pipelines_store_under_the_tenants_place_as_its_user() -> None:
    data = named(render("csm-training", VOLCANO), "ConfigMap", "kfp-launcher")["data"]
    assert data["defaultPipelineRoot"] == "s3://csm/research/pipelines"
    provider = yaml.safe_load(data["providers"])["s3"]["default"]
    assert provider["endpoint"] == "csm-platform-s3.csm-platform.svc:8333"
    assert provider["disableSSL"] is True
    assert provider["credentials"]["secretRef"]["secretName"] == "csm-storage"
    settings = json.loads(data["plugins.mlflow"])["settings"]
    assert settings["defaultExperimentName"] == "research"
    secure = named(render("csm-training", KUEUE), "ConfigMap", "kfp-launcher")["data"]
    assert yaml.safe_load(secure["providers"])["s3"]["default"]["disableSSL"] is False


@pytest.mark.parametrize("name", ["rules.yaml", "dashboard.json"])
def test_rules_and_dashboard_are_those_of_the_chart(name: str) -> None:
    text = (Path(__file__).resolve().parent.parent.parent / "charts" / "csm-training" / "files" / name).read_text()
    things = render("csm-training", ci_file("csm-training", "monitoring"))
    if name == "rules.yaml":
        assert only(things, "PrometheusRule")["spec"] == yaml.safe_load(text)
        return
    (dashboard,) = [thing for thing in of_kind(things, "ConfigMap") if "csm-training.json" in thing["data"]]
    assert json.loads(dashboard["data"]["csm-training.json"]) == json.loads(text)


def test_a_chart_without_tenants_says_where_they_are() -> None:
    assert "tenants is empty: set it, with --values deploy/tenants/tenants.yaml" in refusal("csm-training")
