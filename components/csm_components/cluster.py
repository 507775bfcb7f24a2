"""A Kubernetes cluster: objects of any kind, pods and their logs. The only module that imports its client.

Inside a cluster the pod's own service account is used, outside of one the kubeconfig (`KUBECONFIG`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from csm_components.settings import load_settings
from csm_model.errors import CsmError, MissingDependencyError

Thing = dict[str, Any]


class ObjectKind(NamedTuple):
    """Where the objects of a custom kind are."""

    group: str
    version: str
    plural: str


VOLCANO_JOB = ObjectKind("batch.volcano.sh", "v1alpha1", "jobs")
TRAIN_JOB = ObjectKind("trainer.kubeflow.org", "v1alpha1", "trainjobs")
APPLICATION = ObjectKind("argoproj.io", "v1alpha1", "applications")


class ClusterError(CsmError):
    """The API refused a request; `code` is its HTTP status."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Cluster:
    """The objects of one namespace."""

    namespace: str = "default"

    @cached_property
    def connection(self) -> client.ApiClient:
        """The client's connection; raises `MissingDependencyError` where no cluster is named."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            try:
                config.load_kube_config(load_settings().kubeconfig, client_configuration=settings)
            except ConfigException as error:
                raise MissingDependencyError(
                    f"no Kubernetes cluster is named ({error}); run in a pod, or set KUBECONFIG"
                ) from None
        return client.ApiClient(settings)

    @property
    def _custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.connection)

    @property
    def _core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.connection)

    def create(self, kind: ObjectKind, thing: Thing) -> Thing:
        """Makes an object; raises `ClusterError` (409) where it is there."""
        with plain_errors(f"{kind.plural}.{kind.group}", self.namespace):
            made: Thing = self._custom.create_namespaced_custom_object(
                kind.group, kind.version, self.namespace, kind.plural, thing
            )
        return made

    def get(self, kind: ObjectKind, name: str) -> Thing | None:
        """An object; None where there is none."""
        with plain_errors(f"{kind.plural}.{kind.group} {name}", self.namespace):
            try:
                found: Thing = self._custom.get_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, name
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        return found

    def patch_status(self, kind: ObjectKind, name: str, status: Thing) -> Thing:
        """Merges `status` into that of an object."""
        return self.patch(kind, f"{name}/status", {"status": status})

    def patch(self, kind: ObjectKind, name: str, patch: Thing) -> Thing:
        """Merges `patch` into an object (RFC 7386)."""
        with plain_errors(f"{kind.plural}.{kind.group} {name}", self.namespace):
            patched: Thing = self.connection.call_api(
                f"/apis/{kind.group}/{kind.version}/namespaces/{self.namespace}/{kind.plural}/{name}",
                "PATCH",
                header_params={"Content-Type": "application/merge-patch+json", "Accept": "application/json"},
                body=patch,
                auth_settings=["BearerToken"],
                response_type="object",
                _return_http_data_only=True,
            )
        return patched

    def delete(self, kind: ObjectKind, name: str) -> None:
        """Removes an object and what it owns; nothing happens where there is none."""
        with plain_errors(f"{kind.plural}.{kind.group} {name}", self.namespace):
            try:
                self._custom.delete_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, name, propagation_policy="Background"
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def pods(self, labels: Mapping[str, str]) -> list[Thing]:
        """Pods that carry all these labels, in order of their names."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        with plain_errors("pods", self.namespace):
            found = self._core.list_namespaced_pod(self.namespace, label_selector=selector).items
        pods: list[Thing] = [self.connection.sanitize_for_serialization(pod) for pod in found]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def warning(self, name: str) -> str:
        """The latest warning among the events of an object; empty where there is none."""
        with plain_errors("events", self.namespace):
            found = self._core.list_namespaced_event(
                self.namespace, field_selector=f"involvedObject.name={name},type=Warning"
            ).items
        latest = max(found, key=lambda event: str(event.last_timestamp or event.event_time or ""), default=None)
        return f"{latest.reason}: {latest.message}" if latest else ""

    def log(self, pod: str, *, since: str = "") -> Iterator[tuple[str, str]]:
        """Time and text of each line that a pod prints, until its container ends or the connection does.

        Args:
            pod: its name.
            since: leave out what is older than this time.
        """
        # The client knows no sinceTime. Lines of the same second come again; who follows drops them.
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        query = [("follow", "true"), ("timestamps", "true"), *([("sinceTime", since)] if since else [])]
        with plain_errors(f"log of {pod}", self.namespace):
            answer = self.connection.call_api(
                path, "GET", query_params=query, auth_settings=["BearerToken"], _preload_content=False,
                _return_http_data_only=True,
            )  # fmt: skip
            rest = b""
            try:
                for piece in answer.stream():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        stamp, _, text = line.decode(errors="replace").partition(" ")
                        yield stamp, text
            finally:
                answer.close()


@contextmanager
def plain_errors(what: str, namespace: str) -> Iterator[None]:
    """Turns what the client raises into one line: the API's own message, or that it does not answer."""
    try:
        yield
    except ApiException as error:
        try:
            message = str(json.loads(error.body)["message"])
        except (TypeError, ValueError, KeyError):
            message = str(error.reason)
        if error.status == 429 or int(error.status or 0) >= 500:
            raise MissingDependencyError(f"the Kubernetes API cannot answer now ({message})") from None
        raise ClusterError(f"{what} in namespace {namespace}: {message}", code=int(error.status or 0)) from None
    except HTTPError as error:
        why = str(getattr(error, "reason", None) or error)
        raise MissingDependencyError(f"the Kubernetes API does not answer ({why.rpartition(': ')[2]})") from None
