"""The policies find what they are for: a right release breaks none, and each change breaks the one that names it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from chart_policies import broken_policies, selects

LABELS = {
    "app.kubernetes.io/name": "demo",
    "app.kubernetes.io/instance": "one",
    "app.kubernetes.io/version": "1",
    "app.kubernetes.io/managed-by": "Helm",
    "app.kubernetes.io/part-of": "csm-foundry",
}
CHOSEN = {"app.kubernetes.io/instance": "one"}
PEER = [{"podSelector": {"matchLabels": {"client": "true"}}}]


def thing(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "demo", "labels": dict(LABELS)}, **fields}


def release() -> dict[str, dict[str, Any]]:
    """Objects that keep every policy, by kind."""
    container = {
        "name": "server",
        "image": f"ghcr.io/csm-foundry/demo@sha256:{'0' * 64}",
        "env": [{"name": "CSM_SERVING_EXIT_TIMEOUT_S", "value": "150"}],
        "ports": [{"name": "grpc", "containerPort": 8001}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
        "readinessProbe": {"tcpSocket": {"port": "grpc"}},
        "livenessProbe": {"tcpSocket": {"port": "grpc"}},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": "demo",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 175,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [{**copy.deepcopy(container), "name": "bundle", "lifecycle": {}, "env": []}],
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    template = {"metadata": {"labels": dict(LABELS)}, "spec": pod}
    return {
        "Deployment": thing("apps/v1", "Deployment", spec={"selector": {"matchLabels": CHOSEN}, "template": template}),
        "ServiceAccount": thing("v1", "ServiceAccount", automountServiceAccountToken=False),
        "Service": thing("v1", "Service", spec={"selector": CHOSEN}),
        "PodDisruptionBudget": thing(
            "policy/v1", "PodDisruptionBudget", spec={"maxUnavailable": 1, "selector": {"matchLabels": CHOSEN}}
        ),
        "HorizontalPodAutoscaler": thing(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            spec={"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "demo"}},
        ),
        "NetworkPolicy": thing(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            spec={
                "podSelector": {"matchLabels": CHOSEN},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": PEER}],
                "egress": [{"to": PEER}],
            },
        ),
    }


def at(place: str) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """Leads to the parent and the last key of a path such as `Deployment.spec.template.spec.containers.0.image`."""

    def lead(things: dict[str, Any]) -> tuple[Any, Any]:
        *above, last = (int(key) if key.isdecimal() else key for key in place.split("."))
        parent: Any = things
        for key in above:
            parent = parent[key]
        return parent, last

    return lead


POD = "Deployment.spec.template.spec"
SERVER = f"{POD}.containers.0"
CHANGES: list[tuple[str, Any, str]] = [
    (f"{SERVER}.image", "ghcr.io/csm-foundry/demo:latest", "is not named by its digest"),
    (f"{POD}.initContainers.0.image", "busybox", "container bundle: image busybox is not named by its digest"),
    (f"{POD}.securityContext.runAsNonRoot", None, "runAsNonRoot is not true"),
    (f"{SERVER}.securityContext.runAsUser", 0, "runs as user 0"),
    (f"{POD}.securityContext.seccompProfile", {"type": "Unconfined"}, "seccompProfile is not RuntimeDefault"),
    (f"{SERVER}.securityContext.allowPrivilegeEscalation", None, "allowPrivilegeEscalation is not false"),
    (f"{SERVER}.securityContext.privileged", True, "privileged"),
    (f"{SERVER}.securityContext.capabilities", {"drop": ["NET_RAW"]}, "capabilities are not all dropped"),
    (f"{SERVER}.securityContext.capabilities.add", ["SYS_ADMIN"], "capabilities are not all dropped"),
    (f"{SERVER}.securityContext.readOnlyRootFilesystem", False, "readOnlyRootFilesystem is not true"),
    (f"{SERVER}.ports.0.hostPort", 8001, "hostPort 8001"),
    (f"{POD}.hostNetwork", True, "hostNetwork"),
    (f"{POD}.volumes.0", {"name": "tmp", "hostPath": {"path": "/"}}, "volume tmp is a hostPath"),
    (f"{SERVER}.resources.limits", {"cpu": "1"}, "no limits of memory"),
    (f"{SERVER}.resources.requests", None, "no requests of cpu"),
    (f"{POD}.automountServiceAccountToken", None, "get a token of the Kubernetes API"),
    (f"{POD}.serviceAccountName", None, "default service account"),
    ("ServiceAccount.automountServiceAccountToken", None, "mounts its token by itself"),
    ("Deployment.spec.replicas", 2, "replicas beside an autoscaler"),
    ("HorizontalPodAutoscaler.spec.scaleTargetRef.name", "another", "which is not there"),
    (f"{SERVER}.readinessProbe", None, "no readinessProbe"),
    (f"{SERVER}.livenessProbe", None, "no livenessProbe"),
    ("PodDisruptionBudget.spec", {"minAvailable": 1, "selector": {"matchLabels": CHOSEN}}, "could never be drained"),
    ("PodDisruptionBudget.spec.maxUnavailable", 0, "could never be drained"),
    (f"{POD}.terminationGracePeriodSeconds", 165, "takes 165.0 s to stop, of a grace of 165 s"),
    ("Service.metadata.name", "n" * 64, "64 characters of 63"),
    ("Service.metadata.labels.app.kubernetes.io/name", "n" * 64, "the label app.kubernetes.io/name has 64 characters"),
    ("Service.spec.selector", {"app.kubernetes.io/instance": "two"}, "selects no pod of the release"),
    ("NetworkPolicy.spec.policyTypes", ["Ingress"], "no NetworkPolicy closes its egress"),
    ("NetworkPolicy.spec.podSelector", {"matchLabels": {"a": "b"}}, "no NetworkPolicy closes its ingress"),
    ("NetworkPolicy.spec.ingress", [{"ports": [{"port": 8001}]}], "a rule of ingress lets everybody through"),
    ("NetworkPolicy.spec.egress", [{}], "a rule of egress lets everybody through"),
]


def test_a_right_release_breaks_nothing() -> None:
    assert broken_policies(list(release().values())) == []


@pytest.mark.parametrize(("place", "value", "said"), CHANGES, ids=[f"{place}={value}" for place, value, _ in CHANGES])
def test_a_change_breaks_the_policy_that_names_it(place: str, value: Any, said: str) -> None:
    things = release()
    if ".labels." in place:
        above, _, label = place.partition(".labels.")
        parent, last = at(f"{above}.labels")(things)
        parent, last = parent[last], label
    else:
        parent, last = at(place)(things)
    if value is None:
        del parent[last]
    else:
        parent[last] = value
    found = broken_policies(list(things.values()))
    assert any(said in line for line in found), found


def test_a_missing_label_is_found() -> None:
    things = release()
    del things["Service"]["metadata"]["labels"]["app.kubernetes.io/part-of"]
    assert broken_policies(list(things.values())) == ["Service demo: no label app.kubernetes.io/part-of"]


def test_a_token_may_be_had_for_a_reason() -> None:
    things = release()
    pod = things["Deployment"]["spec"]["template"]
    pod["spec"]["automountServiceAccountToken"] = True
    pod["metadata"]["annotations"] = {"csm.foundry/api-access": "submits the training's job"}
    assert broken_policies(list(things.values())) == []


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ({"key": "a", "operator": "In", "values": ["1", "2"]}, True),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, False),
        ({"key": "b", "operator": "NotIn", "values": ["1"]}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "a", "operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_with_expressions_are_read_as_kubernetes_reads_them(rule: dict[str, Any], taken: bool) -> None:
    assert selects({"matchExpressions": [rule]}, {"a": "1"}) is taken
    assert selects({}, {"a": "1"})
