"""The tenant file: one entry gives everything, and what two tenants may not share is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chart_rendering import ci_file, of_kind, read_yaml, refusal, render

FILE = Path(__file__).resolve().parent.parent.parent / "deploy" / "tenants" / "tenants.yaml"
PREPARED = {"prepare.image.digest": f"sha256:{'0' * 64}"}
ONE = {"name": "voices", "storage": "s3://csm/voices", "experiment": "voices", "quota": {"cpu": 8, "memory": "64Gi"}}


def training(*tenants: dict[str, Any], file: Path | None = None) -> list[dict[str, Any]]:
    changes = {**PREPARED, **({"tenants": list(tenants)} if tenants else {})}
    return render(
        "csm-training", *([file] if file else []), set=changes, release="csm-training", namespace="csm-tenants"
    )


def test_the_file_gives_every_tenant_everything() -> None:
    things = training(file=FILE)
    platform = render("csm-platform", ci_file("csm-platform", "everything-here"), FILE)
    programs = next(thing for thing in of_kind(platform, "ConfigMap") if "identities.json" in thing["data"])
    rights = {row["name"]: row["actions"] for row in json.loads(programs["data"]["identities.json"])}
    prepared = next(thing for thing in of_kind(things, "ConfigMap") if "tenants.json" in thing["data"])
    made = {row["name"]: row for row in json.loads(prepared["data"]["tenants.json"])}
    for tenant in read_yaml(FILE)["tenants"]:
        name, place = tenant["name"], tenant["storage"].removeprefix("s3://")
        inside = {thing["kind"] for thing in things if thing["metadata"].get("namespace") == f"csm-{name}"}
        assert {"ResourceQuota", "LimitRange", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount"} <= inside
        assert f"csm-{name}" in {thing["metadata"]["name"] for thing in of_kind(things, "Namespace")}
        assert f"csm-{name}" in {thing["metadata"]["name"] for thing in of_kind(things, "Queue")}
        assert made[name]["experiment"] == tenant["experiment"]
        assert rights[name] == [f"{verb}:{place}/*" for verb in ("Read", "Write", "List", "Tagging")]


def test_a_new_entry_adds_and_changes_nothing_of_the_others() -> None:
    before, after = training(file=FILE), training(*read_yaml(FILE)["tenants"], ONE)

    def own(things: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            json.dumps([thing["kind"], thing["metadata"]["name"], thing["metadata"].get("namespace")]): thing
            for thing in things
            if thing["metadata"].get("labels", {}).get("csm.foundry/tenant")
        }

    was, now = own(before), own(after)
    assert all(now[key] == thing for key, thing in was.items())
    assert {thing["metadata"]["labels"]["csm.foundry/tenant"] for key, thing in now.items() if key not in was} == {
        "voices"
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "voices"}, "have the same name, voices"),
        ({"namespace": "csm-voices"}, "have the same namespace, csm-voices"),
        ({"storage": "s3://csm/voices"}, "have the same storage"),
        ({"experiment": "voices"}, "have the same experiment"),
        ({"storage": "s3://csm/voices/inner"}, "stores under s3://csm/voices/inner, which is tenant voices's"),
    ],
)
def test_tenants_do_not_share_what_is_ones_own(change: dict[str, str], words: str) -> None:
    other = {**ONE, "name": "other", "storage": "s3://csm/other", "experiment": "other", **change}
    assert words in refusal("csm-training", set={**PREPARED, "tenants": [ONE, other]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"storage": "s3://csm"}, "/tenants/0/storage"),
        ({"storage": "/data"}, "/tenants/0/storage"),
        ({"name": "Voices"}, "/tenants/0/name"),
        ({"quota": {"cpu": 8}}, "missing property 'memory'"),
        ({"quota": {"cpu": 8, "memory": "64Gi", "gpu": 1}}, "additional properties 'gpu' not allowed"),
        ({"weight": 3}, "additional properties 'weight' not allowed"),
    ],
)
def test_the_schema_refuses_a_wrong_entry(change: dict[str, Any], words: str) -> None:
    assert words in refusal("csm-training", set={**PREPARED, "tenants": [{**ONE, **change}]})


def test_a_tenant_may_not_take_the_name_of_an_identity_of_the_store() -> None:
    said = refusal(
        "csm-platform", ci_file("csm-platform", "everything-here"), set={"tenants": [{**ONE, "name": "admin"}]}
    )
    assert "two identities of the S3 store are named admin: rename the tenant" in said
