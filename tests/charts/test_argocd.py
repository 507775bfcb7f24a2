"""Argo CD's objects: right by its schema, one Application an environment and chart, each rendering what it names."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import all_charts, of_kind, render
from chart_values import StrictLoader
from kubernetes_schemas import check

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "deploy" / "argocd"


def objects(name: str) -> list[dict[str, Any]]:
    return [thing for thing in yaml.load_all((FOLDER / name).read_text(encoding="utf-8"), StrictLoader) if thing]


APPLICATIONS = [(env, thing) for env in ("staging", "production") for thing in objects(f"{env}.yaml")]
(PROJECT,) = objects("project.yaml")
(ROOT_APPLICATION,) = objects("root.yaml")

every_application = pytest.mark.parametrize(
    ("environment", "application"), APPLICATIONS, ids=[thing["metadata"]["name"] for _, thing in APPLICATIONS]
)


def rendered(application: dict[str, Any]) -> list[dict[str, Any]]:
    """What Argo CD would render: value files by their paths from the chart, then the values in the object."""
    source = application["spec"]["source"]
    chart = ROOT / source["path"]
    files = [(chart / name).resolve() for name in source["helm"]["valueFiles"]]
    assert all(file.is_relative_to(ROOT) and file.is_file() for file in files), files
    return render(
        chart.name,
        *files,
        set=source["helm"].get("valuesObject", {}),
        release=source["helm"]["releaseName"],
        namespace=application["spec"]["destination"]["namespace"],
    )


def test_every_object_is_right_by_its_schema() -> None:
    for thing in (PROJECT, ROOT_APPLICATION, *(thing for _, thing in APPLICATIONS)):
        check(thing)


def test_the_schema_knows_a_wrong_field() -> None:
    wrong = {**ROOT_APPLICATION, "spec": {**ROOT_APPLICATION["spec"], "valueObject": {}}}
    with pytest.raises(AssertionError, match="valueObject"):
        check(wrong)


def test_there_is_one_application_an_environment_and_chart() -> None:
    names = [thing["metadata"]["name"] for _, thing in APPLICATIONS]
    assert sorted(names) == sorted(f"{chart}-{env}" for chart in all_charts() for env in ("staging", "production"))


@every_application
def test_an_application_renders_its_environment(environment: str, application: dict[str, Any]) -> None:
    chart = Path(application["spec"]["source"]["path"]).name
    assert application["metadata"]["name"] == f"{chart}-{environment}"
    assert (
        f"../../deploy/environments/{environment}/{chart}.yaml" in application["spec"]["source"]["helm"]["valueFiles"]
    )
    assert application["spec"]["destination"]["name"] == environment
    for thing in rendered(application):
        check(thing)


@every_application
def test_the_project_lets_an_application_bring_what_it_renders(environment: str, application: dict[str, Any]) -> None:
    spec = PROJECT["spec"]
    assert application["spec"]["project"] == PROJECT["metadata"]["name"]
    assert application["spec"]["source"]["repoURL"] in spec["sourceRepos"]
    cluster_wide = {(row["group"], row["kind"]) for row in spec["clusterResourceWhitelist"]}
    for thing in rendered(application):
        group, _, _ = thing["apiVersion"].rpartition("/")
        if thing["kind"] in ("Namespace", "PriorityClass", "Queue", "ClusterQueue", "ResourceFlavor", "ClusterRole"):
            assert (group, thing["kind"]) in cluster_wide, thing["kind"]
            continue
        namespace = thing["metadata"].get("namespace", application["spec"]["destination"]["namespace"])
        allowed = [row for row in spec["destinations"] if row.get("name") == environment]
        assert any(fnmatch(namespace, row["namespace"]) for row in allowed), namespace


@every_application
def test_what_is_kept_by_others_is_not_set_back(environment: str, application: dict[str, Any]) -> None:
    """The autoscaler has the replicas, the step deploy the bundle; every Application heals and prunes all the rest."""
    policy = application["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert "RespectIgnoreDifferences=true" in policy["syncOptions"]
    ignored = {pointer for row in application["spec"].get("ignoreDifferences", ()) for pointer in row["jsonPointers"]}
    scaled = bool(of_kind(rendered(application), "ScaledObject"))
    assert ignored == ({"/spec/replicas"} if scaled else set())


def test_the_root_brings_the_others_and_leaves_them_their_bundle() -> None:
    spec = ROOT_APPLICATION["spec"]
    assert spec["source"]["path"] == "deploy/argocd"
    assert spec["source"]["directory"]["include"] == "{project,staging,production}.yaml"
    (row,) = spec["ignoreDifferences"]
    assert row["kind"] == "Application"
    assert row["jsonPointers"] == ["/spec/source/helm/valuesObject"]
    assert "RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]
    serving = [thing for _, thing in APPLICATIONS if thing["spec"]["source"]["path"] == "charts/csm-serving"]
    assert [set(thing["spec"]["source"]["helm"]["valuesObject"]) for thing in serving] == [{"bundle"}, {"bundle"}]


def test_a_patched_bundle_is_what_the_pods_serve() -> None:
    """The merge patch of the step deploy, as an Application renders it then."""
    (serving,) = [thing for env, thing in APPLICATIONS if thing["metadata"]["name"] == "csm-serving-staging"]
    digest = "ab" * 32
    values = {"bundle": {"url": f"s3://csm/production/bundles/{digest}", "digest": digest}}
    helm = {**serving["spec"]["source"]["helm"], "valuesObject": values}
    patched = {**serving, "spec": {**serving["spec"], "source": {**serving["spec"]["source"], "helm": helm}}}
    check(patched)
    (deployment,) = of_kind(rendered(patched), "Deployment")
    assert digest in str(deployment["spec"]["template"]["spec"]["initContainers"][0])
