"""The API, the node and the controllers that tests of the cluster side run against keep to Kubernetes' own rules."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import KubeApi, RefusedError
from kubelet import Kubelet
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from waiting import eventually


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubeApi]:
    with KubeApi() as api:
        yield api


@pytest.fixture
def core(api: KubeApi, tmp_path: Path) -> client.CoreV1Api:
    settings = client.Configuration()
    config.load_kube_config(str(api.write_kubeconfig(tmp_path)), client_configuration=settings)
    return client.CoreV1Api(client.ApiClient(settings))


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "image@sha256:0",
        "command": ["bash", "-c", script],
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name.partition("-")[0]}},
        "spec": {"restartPolicy": "Never", "containers": [container], **spec},
    }


def refused(call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(ApiException) as caught:
        call()
    return caught.value.status, caught.value.body


def test_objects_are_made_once_checked_and_found(core: client.CoreV1Api) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "labels": {"a": "1"}}}
    made = core.create_namespaced_secret("default", secret)
    assert made.metadata.uid
    assert refused(lambda: core.create_namespaced_secret("default", secret))[0] == 409
    assert refused(lambda: core.read_namespaced_secret("s3", "other"))[0] == 404
    code, text = refused(
        lambda: core.create_namespaced_secret("default", secret | {"metadata": {"name": "x"}, "dat": {}})
    )
    assert (code, "'dat' was unexpected" in text) == (422, True)
    assert [item.metadata.name for item in core.list_namespaced_secret("default", label_selector="a=1").items] == ["s3"]
    assert core.list_namespaced_secret("default", label_selector="a=2").items == []
    assert core.list_secret_for_all_namespaces().items
    core.patch_namespaced_secret("s3", "default", {"metadata": {"labels": {"a": None, "b": "2"}}})
    stale = core.read_namespaced_secret("s3", "default")
    assert stale.metadata.labels == {"b": "2"}
    core.patch_namespaced_secret("s3", "default", {"data": {"k": "dg=="}})
    assert refused(lambda: core.replace_namespaced_secret("s3", "default", stale))[0] == 409
    core.delete_namespaced_secret("s3", "default")
    assert refused(lambda: core.delete_namespaced_secret("s3", "default"))[0] == 404


def test_a_kind_that_is_not_installed_is_not_found(core: client.CoreV1Api) -> None:
    thing = {"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w"}}
    custom = client.CustomObjectsApi(core.api_client)
    code, text = refused(
        lambda: custom.create_namespaced_custom_object("example.org", "v1", "default", "widgets", thing)
    )
    assert (code, "could not find the requested resource" in text) == (404, True)


def test_a_pod_runs_with_its_environment_and_its_log_is_followed(
    api: KubeApi, core: client.CoreV1Api, tmp_path: Path
) -> None:
    api.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys"},
            "data": {"KEY": base64.b64encode(b"value").decode()},
        }
    )
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "BOTH", "value": "$(KEY)-$(NAME)-$$(NAME)"},
    ]
    script = 'echo $BOTH; sleep 0.5; echo of $HOME; test -z "$PYTEST_CURRENT_TEST"; exit 3'
    with Kubelet(api, tmp_path / "node"):
        core.create_namespaced_pod(
            "default", pod("talker", script, container={"env": env, "envFrom": [{"secretRef": {"name": "keys"}}]})
        )
        eventually(lambda: core.read_namespaced_pod("talker", "default").status.phase == "Running")
        lines = list(watch.Watch().stream(core.read_namespaced_pod_log, name="talker", namespace="default"))
        assert lines[0] == "value-talker-$(NAME)"
        assert lines[1].startswith(f"of {tmp_path}/node/")
        ended = eventually(
            lambda: (now := core.read_namespaced_pod("talker", "default")).status.phase == "Failed" and now
        )
        assert ended.status.container_statuses[0].state.terminated.exit_code == 3
        stamped = core.read_namespaced_pod_log("talker", "default", timestamps=True, tail_lines=1)
        assert stamped.partition("Z ")[2].startswith("of ")


def test_a_pod_that_is_deleted_may_finish(api: KubeApi, core: client.CoreV1Api, tmp_path: Path) -> None:
    script = f"trap 'echo bye > {tmp_path}/bye; exit 0' TERM; echo up; while true; do sleep 0.1; done"
    with Kubelet(api, tmp_path / "node"):
        core.create_namespaced_pod("default", pod("polite-1", script))
        core.create_namespaced_pod("default", pod("deaf-1", "trap '' TERM; echo up; while true; do sleep 0.1; done"))
        for name in ("polite-1", "deaf-1"):
            eventually(lambda name=name: core.read_namespaced_pod(name, "default").status.phase == "Running")
            eventually(lambda name=name: core.read_namespaced_pod_log(name, "default") == "up\n")
        core.delete_namespaced_pod("polite-1", "default")
        core.delete_namespaced_pod("deaf-1", "default", body=client.V1DeleteOptions(grace_period_seconds=1))
        assert core.read_namespaced_pod("deaf-1", "default").metadata.deletion_timestamp
        eventually(lambda: not core.list_namespaced_pod("default").items)
        assert (tmp_path / "bye").exists()


def test_a_pod_without_its_secret_waits_and_says_why(api: KubeApi, core: client.CoreV1Api, tmp_path: Path) -> None:
    with Kubelet(api, tmp_path / "node"):
        api.create(pod("poor", "true", container={"envFrom": [{"secretRef": {"name": "none"}}]}))

        def waiting() -> Any:
            (status,) = core.read_namespaced_pod("poor", "default").status.container_statuses or [None]
            return status and status.state.waiting

        assert eventually(waiting).reason == "CreateContainerConfigError"


def test_what_an_object_owns_goes_with_it(api: KubeApi) -> None:
    owner = api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [reference]}})
    api.delete("", "configmaps", "default", "owner")
    with pytest.raises(RefusedError, match="not found"):
        api.get("", "configmaps", "default", "owned")
