"""What every object of every chart must keep: the restricted Pod Security profile and this platform's own rules.

`broken_policies(things)` takes all objects of one release and gives one line for each rule that one of them breaks.
`test_chart_policies.py` shows for each rule an object that breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from chart_rendering import of_kind, title

Thing = dict[str, Any]
BY_DIGEST = re.compile(r"^[\w.:-]+(/[\w.-]+)+@sha256:[0-9a-f]{64}$")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
SERVERS = ("Deployment", "StatefulSet", "DaemonSet")
TOKEN_REASON = "csm.foundry/api-access"
"""Annotation of a pod, or of a service account, that is given a token: what it needs the Kubernetes API for."""
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SET_AFTER_NAME = 11
"""Characters that a controller adds to a pod's name: a hyphen, ten of a hash, as StatefulSets and CronJobs do."""


SERVER_MARGIN_S = 5
"""Seconds after its exit timeout at which `csm serve` kills Triton itself."""


def pod_template(thing: Thing) -> Thing | None:
    """The pod template of a workload, with `metadata` and `spec`; a Pod is its own; None for other kinds."""
    if thing["kind"] == "Pod":
        return thing
    if thing["kind"] not in WORKLOADS:
        return None
    spec = thing["spec"]["jobTemplate"]["spec"] if thing["kind"] == "CronJob" else thing["spec"]
    template: Thing = spec["template"]
    return template


def _pods(things: list[Thing]) -> Iterator[tuple[Thing, Thing]]:
    for thing in things:
        template = pod_template(thing)
        if template is not None:
            yield thing, template


def _containers(things: list[Thing]) -> Iterator[tuple[str, Thing, Thing]]:
    """Where it is, its pod's spec, and the container itself; init containers too."""
    for thing, template in _pods(things):
        spec = template["spec"]
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield f"{title(thing)}, container {container['name']}", spec, container


def images_are_named_by_digest(things: list[Thing]) -> Iterator[str]:
    for where, _, container in _containers(things):
        if not BY_DIGEST.match(container["image"]):
            yield f"{where}: image {container['image']} is not named by its digest"


def pods_are_restricted(things: list[Thing]) -> Iterator[str]:
    """The profile `restricted` of the Pod Security Standards, and a root file system for reading only."""
    for thing, template in _pods(things):
        spec = template["spec"]
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(name):
                yield f"{title(thing)}: {name}"
        for volume in spec.get("volumes", ()):
            kinds = volume.keys() - {"name"}
            if not kinds <= VOLUMES:
                yield f"{title(thing)}: volume {volume['name']} is a {', '.join(kinds)}"
    for where, spec, container in _containers(things):
        pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
        merged = {**pod, **own}
        if merged.get("runAsNonRoot") is not True:
            yield f"{where}: runAsNonRoot is not true"
        if merged.get("runAsUser") == 0:
            yield f"{where}: runs as user 0"
        if merged.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{where}: seccompProfile is not RuntimeDefault"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: allowPrivilegeEscalation is not false"
        if own.get("privileged"):
            yield f"{where}: privileged"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{where}: capabilities are not all dropped"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: readOnlyRootFilesystem is not true"
        for port in container.get("ports", ()):
            if port.get("hostPort"):
                yield f"{where}: hostPort {port['hostPort']}"


def containers_have_bounds(things: list[Thing]) -> Iterator[str]:
    """Requests and limits of CPU and memory: a pod without one of them is refused where a quota counts it."""
    for where, _, container in _containers(things):
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            for name in ("cpu", "memory"):
                if name not in resources.get(kind, {}):
                    yield f"{where}: no {kind} of {name}"


def pods_carry_no_token(things: list[Thing]) -> Iterator[str]:
    for thing, template in _pods(things):
        reason = template["metadata"].get("annotations", {}).get(TOKEN_REASON)
        if template["spec"].get("automountServiceAccountToken") is not False and not reason:
            yield f"{title(thing)}: its pods get a token of the Kubernetes API without the annotation {TOKEN_REASON}"
        if not template["spec"].get("serviceAccountName"):
            yield f"{title(thing)}: its pods run under the namespace's default service account"
    for account in of_kind(things, "ServiceAccount"):
        reason = account["metadata"].get("annotations", {}).get(TOKEN_REASON)
        if account.get("automountServiceAccountToken") is not False and not reason:
            yield f"{title(account)}: mounts its token by itself, without the annotation {TOKEN_REASON}"


def autoscalers_own_the_replicas(things: list[Thing]) -> Iterator[str]:
    targets = [
        (scaler["spec"]["scaleTargetRef"].get("kind", "Deployment"), scaler["spec"]["scaleTargetRef"]["name"])
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for scaler in of_kind(things, kind)
    ]
    scalable = {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}
    for target in targets:
        if target not in scalable:
            yield f"an autoscaler names {' '.join(target)}, which is not there"
        elif "replicas" in scalable[target]["spec"]:
            yield f"{' '.join(target)}: replicas beside an autoscaler; every upgrade would set them back"


def servers_are_asked_how_they_are(things: list[Thing]) -> Iterator[str]:
    for thing, template in _pods(things):
        if thing["kind"] not in SERVERS:
            continue
        for container in template["spec"]["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if container.get("ports") and probe not in container:
                    yield f"{title(thing)}, container {container['name']}: no {probe}"


def disruption_budgets_let_drains_go_on(things: list[Thing]) -> Iterator[str]:
    for budget in of_kind(things, "PodDisruptionBudget"):
        if "minAvailable" in budget["spec"] or budget["spec"].get("maxUnavailable") in (None, 0, "0%"):
            yield f"{title(budget)}: with one replica a node could never be drained; use maxUnavailable of 1 or more"


def sleeps_and_exits_fit_the_grace(things: list[Thing]) -> Iterator[str]:
    """preStop, the server's exit timeout and its own margin together are less than what Kubernetes waits."""
    for where, spec, container in _containers(things):
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        exits = [
            float(variable["value"])
            for variable in container.get("env", ())
            if variable["name"] == "CSM_SERVING_EXIT_TIMEOUT_S"
        ]
        grace = spec.get("terminationGracePeriodSeconds", 30)
        needed = sleep + (exits[0] + SERVER_MARGIN_S if exits else 0)
        if (sleep or exits) and needed >= grace:
            yield f"{where}: takes {needed} s to stop, of a grace of {grace} s"


def names_are_short_enough(things: list[Thing]) -> Iterator[str]:
    for thing in things:
        name = thing["metadata"]["name"]
        longest = 63 - (SET_AFTER_NAME if thing["kind"] in ("StatefulSet", "CronJob") else 0)
        if len(name) > longest and thing["kind"] != "CustomResourceDefinition":
            yield f"{title(thing)}: {len(name)} characters of {longest}"
        for labels in (
            thing["metadata"].get("labels", {}),
            (pod_template(thing) or thing)["metadata"].get("labels", {}),
        ):
            for key, value in labels.items():
                if len(str(value)) > 63:
                    yield f"{title(thing)}: the label {key} has {len(value)} characters of 63"


def objects_carry_the_common_labels(things: list[Thing]) -> Iterator[str]:
    for thing in things:
        labels = thing["metadata"].get("labels", {})
        for name in ("name", "instance", "version", "managed-by", "part-of"):
            if f"app.kubernetes.io/{name}" not in labels:
                yield f"{title(thing)}: no label app.kubernetes.io/{name}"


def selects(selector: Thing, labels: dict[str, str]) -> bool:
    """Whether a label selector (`matchLabels`, `matchExpressions`) takes these labels."""
    for name, value in selector.get("matchLabels", {}).items():
        if labels.get(name) != value:
            return False
    for rule in selector.get("matchExpressions", ()):
        has, within = rule["key"] in labels, labels.get(rule["key"]) in rule.get("values", ())
        if not {"In": within, "NotIn": not within, "Exists": has, "DoesNotExist": not has}[rule["operator"]]:
            return False
    return True


def pods_are_closed_both_ways(things: list[Thing]) -> Iterator[str]:
    """Every pod is under a NetworkPolicy for both directions, so that only what is allowed comes and goes."""
    policies = [policy["spec"] for policy in of_kind(things, "NetworkPolicy")]
    for thing, template in _pods(things):
        labels = template["metadata"].get("labels", {})
        closed = {
            direction
            for policy in policies
            if selects(policy["podSelector"], labels)
            for direction in policy.get("policyTypes", ())
        }
        for direction in ("Ingress", "Egress"):
            if direction not in closed:
                yield f"{title(thing)}: no NetworkPolicy closes its {direction.lower()}"
    for policy in of_kind(things, "NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction) or ():
                if not rule.get("from" if direction == "ingress" else "to"):
                    yield f"{title(policy)}: a rule of {direction} lets everybody through"


def services_find_pods(things: list[Thing]) -> Iterator[str]:
    """A selector that no pod of the release has is a Service, budget or monitor of nothing."""
    labels = [template["metadata"].get("labels", {}) for _, template in _pods(things)]
    for kind in ("Service", "PodDisruptionBudget", "PodMonitor"):
        for thing in of_kind(things, kind):
            chosen = thing["spec"].get("selector")
            selector = {"matchLabels": chosen} if kind == "Service" and chosen else chosen
            if selector and not any(selects(selector, pod) for pod in labels):
                yield f"{title(thing)}: selects no pod of the release"


POLICIES: tuple[Callable[[list[Thing]], Iterator[str]], ...] = (
    images_are_named_by_digest,
    pods_are_restricted,
    containers_have_bounds,
    pods_carry_no_token,
    autoscalers_own_the_replicas,
    servers_are_asked_how_they_are,
    disruption_budgets_let_drains_go_on,
    sleeps_and_exits_fit_the_grace,
    names_are_short_enough,
    objects_carry_the_common_labels,
    services_find_pods,
)


def broken_policies(things: list[Thing], *, closed_network: bool = True) -> list[str]:
    """One line for each broken rule; `closed_network`: whether the release has its network policies on."""
    lines = [line for policy in POLICIES for line in policy(things)]
    return lines + (list(pods_are_closed_both_ways(things)) if closed_network else [])
