"""The chart csm-platform, as it is rendered: names, secrets, what is here and what is elsewhere, network policies."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chart_policies import selects
from chart_rendering import CHARTS, ci_file, ci_files, of_kind, only, refusal, render

HERE = ci_file("csm-platform", "everything-here")
ELSEWHERE = ci_file("csm-platform", "everything-elsewhere")


def container(things: list[dict[str, Any]], component: str, kind: str = "Deployment", name: str = "") -> dict[str, Any]:
    """A container of a component's pod, the first or the named one."""
    pod = only(things, kind, component=component)["spec"]["template"]["spec"]
    found = [one for one in (*pod["containers"], *pod.get("initContainers", ())) if name in ("", one["name"])]
    first: dict[str, Any] = found[0]
    return first


def plain_env(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def option(container: dict[str, Any], name: str) -> str:
    (found,) = [word.partition("=")[2] for word in container["command"] if word.startswith(f"{name}=")]
    return found


def test_no_secret_is_made_and_none_stands_in_any_object() -> None:
    for file in ci_files("csm-platform"):
        things = render("csm-platform", file)
        assert of_kind(things, "Secret") == []
        for one in (entry for thing in things for entry in json_values(thing)):
            assert ":secret@" not in one


def json_values(thing: Any) -> list[str]:
    if isinstance(thing, dict):
        return [text for value in thing.values() for text in json_values(value)]
    if isinstance(thing, list):
        return [text for value in thing for text in json_values(value)]
    return [str(thing)]


def test_the_address_of_the_database_holds_no_password() -> None:
    """libpq reads it from PGPASSWORD, so that any character may stand in it."""
    for file in (HERE, ELSEWHERE):
        server = container(render("csm-platform", file), "mlflow")
        assert option(server, "--backend-store-uri").startswith("postgresql+psycopg2://mlflow@")
        (password,) = [entry for entry in server["env"] if entry["name"] == "PGPASSWORD"]
        assert password["valueFrom"]["secretKeyRef"] == {"name": "csm-postgresql", "key": "password"}


def test_users_have_no_rights_that_nobody_gave_them() -> None:
    things = render("csm-platform", HERE)
    (text,) = [
        thing["data"]["basic_auth.ini"] for thing in of_kind(things, "ConfigMap") if "basic_auth.ini" in thing["data"]
    ]
    ini = configparser.ConfigParser()
    ini.read_string(text)
    assert ini["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert ini["mlflow"]["database_uri"] == option(container(things, "mlflow"), "--backend-store-uri")
    assert "admin_password" not in ini["mlflow"]
    assert "--app-name=basic-auth" in container(things, "mlflow")["command"]
    said = refusal("csm-platform", HERE, set={"mlflow.auth.defaultPermission": "ALL"})
    assert "value must be one of 'NO_PERMISSIONS', 'READ'" in said


def test_without_users_nothing_of_them_is_there() -> None:
    things = render("csm-platform", ci_file("csm-platform", "open"))
    server = container(things, "mlflow")
    assert "--app-name=basic-auth" not in server["command"]
    assert not any(entry["name"].startswith("MLFLOW_AUTH") for entry in server["env"])
    assert "--users" not in container(things, "mlflow", name="migrate")["command"]


def test_clients_send_files_through_the_server_to_the_store_of_this_release() -> None:
    server = container(render("csm-platform", HERE, release="p", namespace="n"), "mlflow")
    assert option(server, "--artifacts-destination") == "s3://mlflow/artifacts"
    assert "--serve-artifacts" in server["command"]
    env = plain_env(server)
    assert env["MLFLOW_S3_ENDPOINT_URL"] == "http://p-s3.n.svc:8333"
    assert env["AWS_REQUEST_CHECKSUM_CALCULATION"] == env["AWS_RESPONSE_CHECKSUM_VALIDATION"] == "when_required"


def test_what_is_elsewhere_is_called_there_and_nothing_of_it_is_here() -> None:
    things = render("csm-platform", ELSEWHERE)
    assert of_kind(things, "StatefulSet") == []
    server = container(things, "mlflow")
    assert option(server, "--backend-store-uri").endswith("@postgresql.example.com:6432/mlflow")
    env = plain_env(server)
    assert env["MLFLOW_S3_ENDPOINT_URL"] == "https://s3.eu-central-1.example.com"
    assert (env["PGSSLMODE"], env["PGSSLROOTCERT"]) == ("verify-full", "/run/secrets/database/ca.crt")
    rules = only(things, "NetworkPolicy", component="mlflow")["spec"]["egress"]
    assert [(rule["to"], rule["ports"][0]["port"]) for rule in rules] == [
        ([{"ipBlock": {"cidr": "10.20.0.0/16"}}], 6432),
        ([{"ipBlock": {"cidr": "10.20.0.0/16"}}], 443),
    ]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://s3.example.com", 80), ("https://s3.example.com", 443), ("http://s3.example.com:9000", 9000)],
)
def test_the_stores_port_is_read_off_its_address(endpoint: str, port: int) -> None:
    things = render("csm-platform", ELSEWHERE, set={"s3.endpoint": endpoint})
    (rule,) = only(things, "NetworkPolicy", component="buckets")["spec"]["egress"]
    assert rule["ports"] == [{"port": port, "protocol": "TCP"}]


@pytest.mark.parametrize(("mode", "authority"), [("verify-full", "system"), ("verify-ca", "system"), ("require", None)])
def test_a_database_elsewhere_is_checked_by_the_systems_authorities_without_another(
    mode: str, authority: str | None
) -> None:
    changes = {"database.caSecret": "", "database.sslMode": mode}
    env = plain_env(container(render("csm-platform", ELSEWHERE, set=changes), "mlflow"))
    assert env["PGSSLMODE"] == mode
    assert env.get("PGSSLROOTCERT") == authority


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"postgresql.enabled": False, "database.host": ""}, "set database.host to the host of a PostgreSQL"),
        ({"seaweedfs.enabled": False, "s3.endpoint": ""}, "set s3.endpoint to the address of an S3 store"),
        ({"mlflow.ingress.enabled": True}, "mlflow.ingress.host is empty: set it"),
        ({"mlflow.ingress": {"enabled": True, "host": "m.example.com"}}, "passwords would travel in clear"),
        ({"seaweedfs.image.digest": ""}, "seaweedfs.image.digest is empty: set it"),
    ],
)
def test_what_is_missing_is_said_with_the_value_to_set(changes: dict[str, Any], words: str) -> None:
    assert words in refusal("csm-platform", HERE, set=changes)


def test_the_ingress_host_is_answered_and_may_call_from_a_browser() -> None:
    things = render("csm-platform", ci_file("csm-platform", "ingress"))
    server = container(things, "mlflow")
    assert "mlflow.example.com" in option(server, "--allowed-hosts").split(",")
    assert option(server, "--cors-allowed-origins") == "https://mlflow.example.com"
    (rule,) = only(things, "Ingress")["spec"]["rules"]
    assert rule["host"] == "mlflow.example.com"


def test_only_those_who_need_it_reach_a_part() -> None:
    """From each to each: who is let in by the callee's policy and let out by the caller's."""
    things = render("csm-platform", HERE)
    parts = ("mlflow", "postgresql", "s3", "pushgateway", "buckets")
    labels = {part: selector_labels(things, part) for part in parts}
    policies = [policy["spec"] for policy in of_kind(things, "NetworkPolicy")]

    def let(direction: str, pod: str, peer: str) -> bool:
        key = "from" if direction == "ingress" else "to"
        return any(
            selects(entry["podSelector"], labels[peer])
            for policy in policies
            if selects(policy["podSelector"], labels[pod])
            for rule in policy.get(direction, ())
            for entry in rule[key]
            if "podSelector" in entry and "namespaceSelector" not in entry
        )

    ways = {(a, b) for a in parts for b in parts if let("egress", a, b) and let("ingress", b, a)}
    assert ways == {("mlflow", "postgresql"), ("mlflow", "s3"), ("buckets", "s3")}


def selector_labels(things: list[dict[str, Any]], part: str) -> dict[str, str]:
    for thing in things:
        if thing["kind"] in ("Deployment", "StatefulSet", "Job"):
            labels: dict[str, str] = thing["spec"]["template"]["metadata"]["labels"]
            if labels["app.kubernetes.io/component"] == part:
                return labels
    raise AssertionError(f"no pods of {part}")


def test_the_database_is_reached_from_no_other_namespace() -> None:
    things = render("csm-platform", HERE, set={"networkPolicy.clientNamespaces": ["kubeflow"]})
    for part, open_to_clients in (("postgresql", False), ("mlflow", True), ("s3", True), ("pushgateway", True)):
        rules = only(things, "NetworkPolicy", component=part)["spec"]["ingress"]
        peers = [entry for rule in rules for entry in rule["from"] if "namespaceSelector" in entry]
        assert bool(peers) == open_to_clients, part


def test_a_changed_list_of_buckets_is_another_job() -> None:
    def name(buckets: list[str]) -> str:
        found: str = only(render("csm-platform", HERE, set={"s3.buckets": buckets}), "Job")["metadata"]["name"]
        return found

    assert name(["csm"]) != name(["csm", "mlflow"])
    assert name(["csm"]) == name(["csm"])
    assert of_kind(render("csm-platform", HERE, set={"s3.buckets": []}), "Job") == []


def test_a_pushgateway_is_never_two() -> None:
    assert (
        only(render("csm-platform", HERE), "Deployment", component="pushgateway")["spec"]["strategy"]["type"]
        == "Recreate"
    )


IDENTITIES = CHARTS / "csm-platform" / "files" / "identities.py"


def write_identities(folder: Path, keys: dict[str, dict[str, str]]) -> subprocess.CompletedProcess[str]:
    """Runs the init container's program over secrets in folders."""
    listed = [{"name": name, "actions": ["Admin"]} for name in keys]
    (folder / "identities.json").write_text(json.dumps(listed), encoding="utf-8")
    for name, secret in keys.items():
        for key, value in secret.items():
            (folder / "keys" / name).mkdir(parents=True, exist_ok=True)
            (folder / "keys" / name / key).write_text(value, encoding="utf-8")
    words = [folder / "identities.json", folder / "keys", folder / "s3.json"]
    return subprocess.run([sys.executable, IDENTITIES, *words], capture_output=True, text=True, check=False)


def test_a_secret_without_a_key_is_named(tmp_path: Path) -> None:
    done = write_identities(tmp_path, {"admin": {"CSM_S3_ACCESS_KEY": "a"}})
    assert done.returncode == 1
    assert done.stderr == "error: admin: its secret has no CSM_S3_SECRET_KEY; put it there and start the pod again\n"
    assert not (tmp_path / "s3.json").exists()


def test_two_identities_with_one_key_are_refused(tmp_path: Path) -> None:
    """The store would take whichever stands first, and one tenant would have another's rights."""
    same = {"CSM_S3_ACCESS_KEY": "same", "CSM_S3_SECRET_KEY": "x"}
    done = write_identities(tmp_path, {"one": same, "two": same})
    assert done.returncode == 1
    assert "access key same stands in two secrets" in done.stderr


@pytest.mark.parametrize(
    ("value", "spec"), [("", {}), ("-", {"storageClassName": ""}), ("fast", {"storageClassName": "fast"})]
)
def test_a_volume_has_the_default_class_none_or_a_named_one(value: str, spec: dict[str, str]) -> None:
    things = render(
        "csm-platform", HERE, set={"postgresql.storage.className": value, "seaweedfs.storage.className": value}
    )
    for store in of_kind(things, "StatefulSet"):
        (claim,) = store["spec"]["volumeClaimTemplates"]
        assert {key: claim["spec"][key] for key in claim["spec"].keys() & {"storageClassName"}} == spec


def test_mlflow_behind_a_service_on_another_port() -> None:
    """Clients call the Service's port, which is in their Host header; the policy sees the pods'."""
    things = render("csm-platform", HERE, set={"mlflow.servicePort": 80})
    assert only(things, "Service", component="mlflow")["spec"]["ports"] == [
        {"name": "http", "port": 80, "targetPort": "http"}
    ]
    server = container(things, "mlflow")
    assert {"csm-mlflow", "csm-mlflow:80"} <= set(option(server, "--allowed-hosts").split(","))
    assert option(server, "--port") == "5000"
    assert only(things, "NetworkPolicy", component="mlflow")["spec"]["ingress"][0]["ports"][0]["port"] == 5000


def test_everything_listens_on_ipv6_where_it_is_told_to() -> None:
    things = render(
        "csm-platform", HERE, set={"mlflow.host": "::", "seaweedfs.host": "::", "service.ipFamilies": ["IPv6"]}
    )
    assert option(container(things, "mlflow"), "--host") == "::"
    store = container(things, "s3", "StatefulSet")
    assert (option(store, "-s3.ip.bind"), option(store, "-metricsIp")) == ("::", "::")
    assert [service["spec"]["ipFamilies"] for service in of_kind(things, "Service")] == [["IPv6"]] * 4
