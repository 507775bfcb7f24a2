"""Rolls a release out by Argo CD: its Application gets the values, and is watched until it serves them.

Only `spec.source.helm.valuesObject` is touched, by a merge: what else is set there stays. Argo CD names the values that
it has compared the cluster with (`status.sync.comparedTo`), so that a state of before the change is not taken for one
of after it.
(https://argo-cd.readthedocs.io/en/stable/user-guide/helm/)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from csm_components.cluster import APPLICATION, Cluster, ClusterError
from csm_components.targets import DeployTarget
from csm_model.errors import CsmError, InputError, MissingDependencyError

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0


class RolloutError(CsmError):
    """A release was not rolled out."""


def roll_out(
    cluster: Cluster,
    target: DeployTarget,
    values: Mapping[str, Any],
    *,
    say: Callable[[str], None] = print,
) -> None:
    """Gives an Application the values of a release, and returns when it is Synced and Healthy with them.

    Safe to repeat: the same values again change nothing, and the wait goes on.

    Args:
        cluster: the namespace of the Application.
        target: the Application, and how long it may take.
        values: values of the chart csm-serving, with `bundle.digest`.
        say: called with a line whenever the state changes.

    Raises:
        InputError: there is no such Application, or it keeps its values in another way.
        ClusterError: it may not be read or changed.
        RolloutError: Argo CD could not sync it, others changed it meanwhile, or the time is up.
    """
    where = f"Application {target.namespace}/{target.application}"
    if not target.application:
        raise InputError("CSM_DEPLOY_TARGET: kind argocd needs the name of an application")
    _refuse_other_sources(_look(cluster, target), where)
    patch = {"spec": {"source": {"helm": {"valuesObject": dict(values)}}}}
    cluster.patch(APPLICATION, target.application, patch)
    digest = values["bundle"]["digest"]
    deadline = time.monotonic() + target.timeout_s
    state, pause = "", _FIRST_PAUSE_SECONDS
    while True:
        try:
            application = _look(cluster, target)
            now = _state(application, digest)
        except (MissingDependencyError, ClusterError) as error:  # an API server that restarts
            if isinstance(error, ClusterError) and error.code < 500:
                raise
            application, now = None, str(error)
        if now != state:
            say(f"{where}: {now}")
            state = now
        if application is not None:
            if _digest(application["spec"]["source"]) != digest:
                raise RolloutError(f"{where}: its bundle was changed by others while {digest[:12]} was rolled out")
            if (fault := _sync_fault(application, digest)) is not None:
                raise RolloutError(f"{where}: Argo CD could not sync bundle {digest[:12]}: {fault}")
            if _serves(application, digest):
                return
        if time.monotonic() >= deadline:
            raise RolloutError(
                f"{where}: bundle {digest[:12]} is not served after {target.timeout_s} s ({state}); "
                "look at it in Argo CD, then run the step again, or deploy the version before"
            )
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(1.5 * pause, _LONGEST_PAUSE_SECONDS)


def _look(cluster: Cluster, target: DeployTarget) -> dict[str, Any]:
    found = cluster.get(APPLICATION, target.application)
    if found is None:
        raise InputError(
            f"Application {target.namespace}/{target.application}: there is none; create it, or correct the target's "
            "application and namespace"
        )
    return found


def _refuse_other_sources(application: Mapping[str, Any], where: str) -> None:
    source = application["spec"].get("source")
    if not source:
        raise InputError(f"{where}: has several sources (spec.sources); give it the one of csm-serving (spec.source)")
    helm = source.get("helm", {})
    if helm.get("values") and not helm.get("valuesObject"):
        raise InputError(
            f"{where}: keeps its values as text (spec.source.helm.values), which an object would replace; "
            "write them as spec.source.helm.valuesObject"
        )
    for parameter in helm.get("parameters", []):
        if str(parameter.get("name", "")).startswith("bundle."):
            raise InputError(
                f"{where}: sets {parameter['name']} among spec.source.helm.parameters, which outweighs the values; "
                "take it out there"
            )


def _digest(source: Mapping[str, Any] | None) -> str:
    values = ((source or {}).get("helm") or {}).get("valuesObject") or {}
    return str((values.get("bundle") or {}).get("digest", ""))


def _compared(application: Mapping[str, Any]) -> str:
    sync = application.get("status", {}).get("sync", {})
    return _digest(sync.get("comparedTo", {}).get("source"))


def _serves(application: Mapping[str, Any], digest: str) -> bool:
    status = application.get("status", {})
    return (
        _compared(application) == digest
        and status["sync"].get("status") == "Synced"
        and status.get("health", {}).get("status") == "Healthy"
    )


def _sync_fault(application: Mapping[str, Any], digest: str) -> str | None:
    """Why Argo CD gave up; None while it has not, or where that was with other values."""
    operation = application.get("status", {}).get("operationState", {})
    if operation.get("phase") not in ("Failed", "Error"):
        return None
    if _digest(operation.get("syncResult", {}).get("source")) != digest:
        return None
    return " ".join(str(operation.get("message", "no reason given")).split())


def _state(application: Mapping[str, Any], digest: str) -> str:
    """A few words on where the rollout is."""
    if _compared(application) != digest:
        return "Argo CD has not looked at the new values yet"
    status = application["status"]
    health = status.get("health", {})
    words = f"{status['sync'].get('status', 'Unknown')}, {health.get('status', 'Unknown')}"
    return f"{words}: {health['message']}" if health.get("message") else words
