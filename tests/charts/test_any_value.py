"""What holds for every value, text and name that a chart is given: generated from its values.yaml.

Null is the default, a text comes out as it went in, a release's name is its own, and no label of a user's replaces the
chart's. Many values go into one render: helm fills, quotes and checks each on its own.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from chart_policies import broken_policies
from chart_rendering import CHARTS, RenderError, all_charts, ci_files, of_kind, read_yaml, refusal, render, title
from chart_values import Value, read_values
from chart_values_anywhere import PLAIN, at, copy, put, strings_of, texts, values_at
from kubernetes_schemas import check

FEATURES = [(chart, file) for chart in all_charts() for file in ci_files(chart)]
PREVIOUS = Path(__file__).parent / "previous"
LONGEST = "a-release-whose-name-is-as-long-as-helm-will-take-it"
NAMES = (
    "csm", "csm-serving", "csm-serving-canary", "csm-mlflow", "csm-prepare", "serving", "1234", "0x10", "true", "on",
    "null", "1e3", "2026-11-29", "a.b-c", "a-b.c", "a-b-c", "a-very-long-team-name-for-a-preview-env-blue",
    "a-very-long-team-name-for-a-preview-env-green", LONGEST, f"{LONGEST[:-1]}x",
)  # fmt: skip
SERVICE = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
DIGEST = re.compile(r"[0-9a-f]{64}|-[0-9a-f]{8}$")
OF_A_RELEASE = ("csm.foundry/model", "csm.foundry/model-version")
"""Labels that are made of a value, in a label's alphabet; the annotations beside them have it as it is."""
TOGETHER = {"privateCa.secret", "serving.settings", "fullnameOverride"}
"""Not beside another value that is set here, of a few names, or a part of every name."""

every_chart = pytest.mark.parametrize("chart", all_charts())
every_feature = pytest.mark.parametrize(("chart", "file"), FEATURES, ids=lambda part: getattr(part, "stem", part))


def values_of(chart: str) -> Value:
    return read_values(CHARTS / chart / "values.yaml")


def fullest(chart: str) -> Path:
    """The feature of a chart with the most objects."""
    return max(ci_files(chart), key=lambda file: len(render(chart, file)))


def outcome(chart: str, file: Path, values: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """What helm says against it, or what it renders."""
    try:
        return "", render(chart, file, set=values)
    except RenderError as error:
        return str(error), []


def nulls(things: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Where a release has null."""
    return {(title(thing), *place) for thing in things for place, value in strings_of(thing) if value is None}


@every_feature
def test_null_is_the_default_wherever_a_feature_sets_nothing(chart: str, file: Path) -> None:
    given = read_yaml(file) or {}
    leaves = [value for value in values_at(values_of(chart)) if not value.children and not value.nullable]
    nulls = {leaf.name: None for leaf in leaves if at(given, leaf.path) is None}
    assert len(nulls) > len(leaves) / 2
    assert render(chart, file, set=nulls) == render(chart, file)


@every_feature
def test_a_policy_names_who_and_which_ports(chart: str, file: Path) -> None:
    """Where Kubernetes finds null or an empty list it lets all through."""
    for policy in of_kind(render(chart, file, tests=True), "NetworkPolicy"):
        for place, value in strings_of(policy["spec"]):
            assert value is not None, (title(policy), place)


@every_chart
def test_null_is_the_default_of_whole_sections(chart: str) -> None:
    """Those of each depth at once; what may be null itself has its default where its section is null."""
    file = fullest(chart)
    given = read_yaml(file) or {}
    sections = [value for value in values_at(values_of(chart)) if value.children and at(given, value.path) is None]
    depths = {len(section.path) for section in sections}
    assert 1 in depths
    for depth in depths:
        nulls = {section.name: None for section in sections if len(section.path) == depth}
        assert render(chart, file, set=nulls) == render(chart, file)


@every_chart
def test_null_over_what_every_feature_must_set_is_refused_by_its_name(chart: str) -> None:
    file = fullest(chart)
    given = [read_yaml(file) or {} for file in ci_files(chart)]
    leaves = [value for value in values_at(values_of(chart)) if not value.children]
    needed = [leaf for leaf in leaves if all(at(values, leaf.path) is not None for values in given)]
    assert needed
    for leaf in needed:
        assert f"{leaf.name} is " in refusal(chart, file, set={leaf.name: None})


@every_chart
def test_a_null_that_means_something_says_so(chart: str) -> None:
    """A value whose type has null, and a key of a free map, which null takes out."""
    file = fullest(chart)
    for leaf in values_at(values_of(chart)):
        if leaf.nullable:
            assert "null" in leaf.description, leaf.name
            assert render(chart, file, set={leaf.name: None})
        elif isinstance(leaf.default, dict) and leaf.default and not leaf.children:
            assert "null" in leaf.description, leaf.name
            said, things = outcome(chart, file, {leaf.name: dict.fromkeys(leaf.default)})
            assert things or f"/{'/'.join(leaf.path)}'" in said
            assert nulls(things) <= nulls(render(chart, file))


@every_chart
def test_values_of_the_version_before_render_what_this_one_does(chart: str, tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` puts all values of the release before in the place of this chart's own."""
    folder = tmp_path / chart
    shutil.copytree(CHARTS / chart, folder)
    before = (PREVIOUS / f"{chart}-0.1.0.json").read_text(encoding="utf-8")
    (folder / "values.yaml").write_text(before, encoding="utf-8")
    for file in ci_files(chart):
        assert render(f"{folder}/", file) == render(chart, file)


def with_texts(chart: str, file: Path, turn: int | None) -> dict[str, Any]:
    """A feature's values with a text in every place that takes one: plain ones, or odd ones from number `turn` on."""
    values = copy(read_yaml(file))
    for number, leaf in enumerate(values_at(values_of(chart))):
        known = texts(leaf, PLAIN.format(number=number)) if not leaf.children and leaf.name not in TOGETHER else []
        if known and not (at(values, leaf.path) and leaf.name.endswith(("digest", "bundle.url"))):
            put(
                values,
                leaf.path,
                known[0] if turn is None or len(known) == 1 else known[1 + (turn + number) % (len(known) - 1)],
            )
    return values


def text_of(value: Any) -> str:
    """The text in a value of `with_texts`."""
    inner = (
        next(iter(value.values() if isinstance(value, dict) else value)) if isinstance(value, (dict, list)) else value
    )
    return str(inner)


def places(things: list[dict[str, Any]]) -> dict[tuple[Any, ...], Any]:
    """Every scalar of a release by its place; digests, which change with what they are of, are one word."""
    found = {}
    for thing in things:
        name = DIGEST.sub("-digest", title(thing))
        for place, value in strings_of(thing):
            if place[-1] not in OF_A_RELEASE or "labels" not in place:
                found[name, *place] = DIGEST.sub("-digest", value) if isinstance(value, str) else value
    return found


def turns() -> Any:
    """Features, each with the turns that show odd texts in its places: as many in all for a chart with few features."""
    for chart in all_charts():
        files = ci_files(chart)
        for file, turn in zip(itertools.cycle(files), range(max(12, len(files))), strict=False):
            yield pytest.param(chart, file, 5 * turn, id=f"{chart}-{file.stem}-{turn}")


@pytest.mark.parametrize(("chart", "file", "turn"), turns())
def test_a_text_comes_out_as_it_went_in(chart: str, file: Path, turn: int) -> None:
    """Wherever a plain text comes out, so does an odd one, whole, alone or inside a longer text."""
    plain, odd = with_texts(chart, file, None), with_texts(chart, file, turn)
    pairs = {}
    for leaf in values_at(values_of(chart)):
        before, after = at(plain, leaf.path), at(odd, leaf.path)
        if not leaf.children and before != after:
            pairs[text_of(before)] = text_of(after)
            if text_of(before).startswith("http://"):
                pairs[urlsplit(text_of(before)).netloc] = urlsplit(text_of(after)).netloc
    assert len(pairs) > 10
    words = re.compile("|".join(re.escape(word) for word in sorted(pairs, key=len, reverse=True)))

    def changed(part: Any) -> Any:
        return words.sub(lambda word: pairs[word[0]], part) if isinstance(part, str) else part

    before = places(render(chart, set=plain))
    expected = {tuple(changed(part) for part in place): changed(value) for place, value in before.items()}
    found = places(render(chart, set=odd))
    assert {place: (found.get(place), text) for place, text in expected.items() if found.get(place) != text} == {}
    assert found.keys() == expected.keys()


@every_chart
def test_no_whole_number_comes_out_with_an_exponent(chart: str) -> None:
    """Helm reads 1000000 from a file as a float, which a template would write as 1e+06."""
    file = fullest(chart)
    together = {"serving.longestStreamSeconds"}  # it bounds others from below
    numbers = {
        leaf.name: 2000000
        for leaf in values_at(values_of(chart))
        if leaf.schema.get("type") == "integer" and "maximum" not in leaf.schema and leaf.name not in together
    }
    things = render(chart, file, set=numbers)
    assert numbers == {} or "2000000" in json.dumps(things)
    assert [value for _, value in strings_of(things) if isinstance(value, float) and value > 100] == []
    assert not re.search(r"\de\+0\d", json.dumps(things))


@every_chart
def test_any_release_has_names_of_its_own(chart: str) -> None:
    """Names that YAML reads otherwise, too long ones, and pairs that differ by what a chart puts behind a name."""
    file = fullest(chart)
    owners: dict[str, set[str]] = {}
    for name in NAMES:
        things = render(chart, file, release=name)
        for _, value in (
            (place, value) for place, value in strings_of(things) if place[-1] == "app.kubernetes.io/instance"
        ):
            assert value == name
        assert broken_policies(things, closed_network=False) == []
        services = {thing["metadata"]["name"] for thing in of_kind(things, "Service")}
        assert {service for service in services if not SERVICE.match(service)} == set()
        if name == "1234":
            for thing in things:
                check(thing)
        for thing in things:
            owners.setdefault(title(thing), set()).add(name)
    of_values = {name for name, releases in owners.items() if len(releases) == len(NAMES)}
    assert [name for name, releases in owners.items() if name not in of_values and len(releases) > 1] == []
    assert len(owners) - len(of_values) >= len(NAMES)


@every_chart
def test_no_label_of_a_user_replaces_one_of_the_chart(chart: str) -> None:
    """Each map of labels and annotations: every key that stands beside its own is refused by name."""
    file = fullest(chart)
    maps = [
        leaf
        for leaf in values_at(values_of(chart))
        if leaf.path[-1].lower().endswith(("labels", "annotations"))
        and leaf.path[-1] not in ("clientLabels", "nodeLabels")
    ]
    mine = {leaf.name: f"example.org/mine-{number}" for number, leaf in enumerate(maps)}
    # What hides a map of labels is on.
    flags = {
        leaf.name: True
        for leaf in values_at(values_of(chart))
        if leaf.path[0] == "monitoring" and leaf.path[-1] == "enabled"
    }
    flags.pop("monitoring.serviceMonitor.enabled", None)
    things = render(chart, file, set={**flags, **{name: {key: "mine"} for name, key in mine.items()}})
    beside: dict[str, set[str]] = {name: set() for name in mine}
    for found in (thing for release in things for thing in maps_of(release)):
        for name, key in mine.items():
            if key in found:
                beside[name] |= found.keys() - set(mine.values())
    assert len(beside["commonLabels"]) > 5
    for leaf in maps:
        name, keys = leaf.name, beside[leaf.name] - {*leaf.default, *(at(read_yaml(file), leaf.path) or ())}
        if keys:
            said = refusal(chart, file, set={**flags, name: dict.fromkeys(keys, "mine")})
            assert f"{name}: " in said
            refused = set(re.findall(r"[-\w./]+/[-\w.]+", said.partition(f"{name}: ")[2]))
            assert refused, said
            # One object shows its own keys; the others are refused when these are taken out.
            while keys - refused:
                more = refusal(chart, file, set={**flags, name: dict.fromkeys(keys - refused, "mine")})
                refused |= {key for key in keys - refused if key in more}


def maps_of(thing: Any) -> Any:
    """Every map in an object."""
    if isinstance(thing, dict):
        yield thing
        for value in thing.values():
            yield from maps_of(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from maps_of(value)


@every_chart
def test_dns_of_another_cluster_is_all_that_policies_name(chart: str) -> None:
    """OpenShift's on port 5353, and a cache on each node."""
    peers = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ]
    for file in ci_files(chart):
        policies = of_kind(
            render(chart, file, set={"networkPolicy.dns": peers, "networkPolicy.dnsPorts": [5353]}), "NetworkPolicy"
        )
        said = json.dumps(policies)
        assert not policies or json.dumps(peers) in said
        assert "kube-system" not in said
        assert '"port": 53,' not in said


@every_chart
def test_pods_are_dressed_for_any_cluster(chart: str) -> None:
    """Whatever a cluster may ask of a pod reaches each one and its containers; null leaves users to the cluster."""
    extra = {"name": "EXTRA", "value": "1"}
    things = render(
        chart,
        fullest(chart),
        set={
            "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "runtimeClassName": "gvisor",
            "imagePullSecrets": ["registry-2"],
            "extraEnv": [extra],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "privateCa.configMap": "authorities",
            "proxy.https": "http://proxy:3128",
            "podLabels": {"pod": "yes"},
            "podAnnotations": {"pod": "yes"},
            "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None, "supplementalGroups": [7]},
            **({"postgresql.runAsUser": None} if chart == "csm-platform" else {}),
            **(
                {"pushgateway.podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
                if chart == "csm-platform"
                else {}
            ),
        },
    )
    templates = [thing["spec"]["template"] for thing in things if "template" in thing.get("spec", {})]
    templates += [thing for thing in things if thing["kind"] == "Pod"]
    assert templates
    for template in templates:
        spec = template["spec"]
        assert template["metadata"]["labels"]["pod"] == template["metadata"]["annotations"]["pod"] == "yes"
        assert spec["nodeSelector"] == {"pool": "a"}
        assert spec["tolerations"] == [{"key": "k", "operator": "Exists"}]
        assert spec["affinity"] == {"nodeAffinity": {}}
        assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("high", "gvisor")
        assert {"name": "registry-2"} in spec["imagePullSecrets"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert {"more", "authorities"} <= {volume["name"] for volume in spec["volumes"]}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            env = {item["name"]: item.get("value") for item in container["env"]}
            assert env["EXTRA"] == "1"
            assert env["https_proxy"] == env["HTTPS_PROXY"] == "http://proxy:3128"
            assert ".svc" in (env["NO_PROXY"] or "")
            assert env["SSL_CERT_FILE"] == env["CSM_S3_CA"] == "/etc/csm/authorities/ca.crt"
            assert {"/more", "/etc/csm/authorities"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


@every_chart
def test_what_a_user_adds_takes_no_name_of_the_chart(chart: str) -> None:
    taken = {
        "extraEnv": [{"name": "HOME"}] if chart != "csm-serving" else [{"name": "CSM_S3_REGION"}],
        "extraVolumes": [{"name": "tmp"}],
    }
    taken["extraVolumeMounts"] = [{"name": "x", "mountPath": "/tmp"}]
    for name, value in taken.items():
        said = refusal(chart, fullest(chart), set={name: value})
        assert f"{name}: {value[0].get('mountPath', value[0]['name'])} is set already" in said


@every_feature
def test_helm_test_asks_every_service_and_is_let_through(chart: str, file: Path) -> None:
    """Only while it runs: its pod, and the policies for it, are hooks."""
    things = render(chart, file, tests=True)
    hooks = [thing for thing in things if thing["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    assert [thing for thing in things if thing not in hooks] == render(chart, file)
    (pod,) = of_kind(hooks, "Pod")
    _, _, program, *asked = pod["spec"]["containers"][0]["command"]
    compile(program, "test", "exec")
    called = {
        f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
        for service in of_kind(things, "Service")
        if service["spec"].get("clusterIP") != "None"
    }
    assert set(asked) == called if called else asked
    for policy in of_kind(hooks, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert render(chart, file, tests=True, set={"tests.enabled": False}) == render(chart, file)
