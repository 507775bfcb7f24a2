"""csm-serving: what a pod is told, what it may reach, who reaches it, and which values do not go together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import images
import pytest
from chart_rendering import CHARTS, ci_file, ci_files, notes, of_kind, only, read_yaml, refusal, render
from random_bundles import random_bundle

from csm_components.deploy.step import deploy
from csm_components.register.step import RESULT as REGISTERED
from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_model.files import write_json
from csm_model.manifest import read_manifest
from csm_model.verdict import VERDICT
from csm_serving.settings import SECRETS, ServingSettings, load_settings

CHART = "csm-serving"
DEFAULT = ci_file(CHART, "default")
CANARY = ci_file(CHART, "canary")
OF_THE_CHART = {
    "audit", "audit_required", "bundle", "connection_age_s", "exit_timeout_s", "grpc_port", "host", "http_port",
    "log", "metrics_port", "queue", "ready_timeout_s", "slots", "tls_cert", "tls_client_ca", "tls_key", "token_file",
    "triton", "voice_use", "voices",
}  # fmt: skip
"""Settings that have values of their own, are fixed by the pod, or belong to the image."""
OF_THE_CLIENT = {"ca", "chunk_timeout_s", "client_cert", "client_key", "connect_timeout_s", "tls"}


def deployment(*files: Path, track: str = "stable", **options: Any) -> dict[str, Any]:
    return only(render(CHART, *(files or (DEFAULT,)), **options), "Deployment", track=track)


def pod(*files: Path, **options: Any) -> dict[str, Any]:
    template: dict[str, Any] = deployment(*files, **options)["spec"]["template"]
    return template


def server(*files: Path, **options: Any) -> dict[str, Any]:
    container: dict[str, Any] = pod(*files, **options)["spec"]["containers"][0]
    return container


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """Name and value of each variable; where a secret holds it, its reference."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def test_the_init_container_fetches_the_bundle_by_its_digest_and_only_it_has_the_keys() -> None:
    values = read_yaml(DEFAULT)["bundle"]
    spec = pod()["spec"]
    (init,) = spec["initContainers"]
    assert init["command"] + init["args"] == [
        *("csm", "fetch-bundle", values["url"], "--digest", values["digest"], "--out", "/models/bundle")
    ]
    assert environment(init) == {
        "CSM_S3_ENDPOINT": "http://csm-platform-s3.csm-platform:8333",
        "CSM_S3_REGION": "us-east-1",
        "CSM_S3_ACCESS_KEY": {"secretKeyRef": {"name": "csm-storage", "key": "CSM_S3_ACCESS_KEY"}},
        "CSM_S3_SECRET_KEY": {"secretKeyRef": {"name": "csm-storage", "key": "CSM_S3_SECRET_KEY"}},
    }
    (container,) = spec["containers"]
    assert container["image"] == init["image"]
    assert container["command"] + container["args"] == ["csm", "serve", "/models/bundle", "--folder", "/run/csm"]
    assert not [name for name in environment(container) if name.startswith("CSM_S3")]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/models": True, "/run/csm": False, "/tmp": False, "/dev/shm": False}
    shm = next(volume for volume in spec["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}


def test_without_a_secret_the_pod_fetches_as_itself() -> None:
    """What the init container is told is enough for the storage; account and policy let it have the role's keys."""
    file = ci_file(CHART, "identity")
    (init,) = pod(file)["spec"]["initContainers"]
    told = {name.removeprefix("CSM_").lower(): value for name, value in environment(init).items()}
    assert told == {
        "s3_endpoint": "https://s3.eu-central-1.amazonaws.com",
        "s3_region": "eu-central-1",
        "s3_credentials": "identity",
    }
    open_storage("s3://csm/demo", Settings(**told))
    things = render(CHART, file)
    account = only(things, "ServiceAccount")["metadata"]
    assert list(account["annotations"]) == ["eks.amazonaws.com/role-arn"]
    ways_out = only(things, "NetworkPolicy")["spec"]["egress"]
    assert ways_out[-1]["to"] == [{"ipBlock": {"cidr": "169.254.170.23/32"}}]


@pytest.mark.parametrize("file", ci_files(CHART), ids=lambda file: file.stem)
def test_the_server_reads_every_setting_that_a_feature_gives(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment(server(file))
    names = {name.removeprefix("CSM_SERVING_").lower() for name in told if name.startswith("CSM_SERVING_")}
    assert names <= set(ServingSettings.model_fields)
    for name, value in told.items():
        monkeypatch.setenv(name, value if isinstance(value, str) else "00" * 32)
    settings = load_settings()
    assert settings.host == "0.0.0.0"
    assert settings.log == "stderr", "a pod's log, with the audit in it"
    values = read_yaml(file)
    for name, value in values.get("serving", {}).get("settings", {}).items():
        assert getattr(settings, name) == value
    assert settings.slots == values.get("serving", {}).get("slots", 8)
    assert settings.exit_timeout_s == values.get("serving", {}).get("exitTimeoutSeconds", 150)
    ports = {port["name"]: port["containerPort"] for port in server(file)["ports"]}
    assert ports == {"grpc": settings.grpc_port, "http": settings.http_port, "metrics": settings.metrics_port}


def test_serving_settings_takes_each_setting_of_the_server_and_no_other() -> None:
    schema = json.loads((CHARTS / CHART / "values.schema.json").read_text(encoding="utf-8"))
    allowed = schema["properties"]["serving"]["properties"]["settings"]["propertyNames"]["enum"]
    assert set(allowed) == set(ServingSettings.model_fields) - OF_THE_CHART - OF_THE_CLIENT - SECRETS
    assert "invalid propertyName 'wieghts'" in refusal(CHART, DEFAULT, set={"serving.settings": {"wieghts": "int8"}})


def test_settings_reach_the_server_as_they_were_written() -> None:
    given = {"lead_s": 1.5, "ungated_int4": True, "max_stream_characters": 2_000_000, "watermark": "perth:77"}
    told = environment(server(set={"serving.settings": given}))
    assert {name: told[f"CSM_SERVING_{name.upper()}"] for name in given} == {
        "lead_s": "1.5",
        "ungated_int4": "true",
        "max_stream_characters": "2000000",
        "watermark": "perth:77",
    }


def test_all_pods_share_one_key_of_tokens() -> None:
    key = {"secretKeyRef": {"name": "csm-serving-keys", "key": "turn_key"}}
    tracks = [environment(server(CANARY, track=track)) for track in ("stable", "canary")]
    assert [told["CSM_SERVING_TURN_KEY"] for told in tracks] == [key, key]
    assert "CSM_SERVING_WATERMARK_KEY" not in tracks[0]
    own = environment(server(ci_file(CHART, "secrets")))
    assert own["CSM_SERVING_TURN_KEY"] == {"secretKeyRef": {"name": "speech-keys", "key": "TURN"}}
    assert own["CSM_SERVING_WATERMARK_KEY"] == {"secretKeyRef": {"name": "speech-keys", "key": "WATERMARK"}}


def test_tokens_and_certificate_come_from_secrets_that_are_mounted_for_reading() -> None:
    guarded = pod(ci_file(CHART, "access"))
    told = environment(guarded["spec"]["containers"][0])
    mounts = {mount["name"]: mount for mount in guarded["spec"]["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in guarded["spec"]["volumes"]}
    for setting, path, volume in (
        ("TOKEN_FILE", "/etc/csm/tokens/tokens.json", "tokens"),
        ("TLS_CERT", "/etc/csm/tls/tls.crt", "tls"),
        ("TLS_KEY", "/etc/csm/tls/tls.key", "tls"),
        ("TLS_CLIENT_CA", "/etc/csm/tls/ca.crt", "tls"),
    ):
        assert told[f"CSM_SERVING_{setting}"] == path
        assert path.startswith(mounts[volume]["mountPath"] + "/")
        assert mounts[volume]["readOnly"]
        assert "subPath" not in mounts[volume], "a changed Secret would not come through"
    assert volumes["tokens"]["secret"] == {"secretName": "csm-tokens", "defaultMode": 0o440}
    assert volumes["tls"]["secret"] == {"secretName": "speech-tls", "defaultMode": 0o440}
    init = guarded["spec"]["initContainers"][0]
    assert not {"tokens", "tls"} & {mount["name"] for mount in init["volumeMounts"]}
    plain = environment(server())
    assert not any("TOKEN_FILE" in name or "TLS" in name for name in plain)


def test_a_service_says_whether_its_port_is_encrypted() -> None:
    for file, protocol in ((DEFAULT, "kubernetes.io/h2c"), (ci_file(CHART, "access"), "https")):
        services = of_kind(render(CHART, file), "Service")
        assert {port["appProtocol"] for service in services for port in service["spec"]["ports"]} == {protocol}


def test_pods_run_csm_serve_which_closes_tritons_controls() -> None:
    """It draws the secret in the pod and keeps it in a folder that no other pod has."""
    started = server()
    assert started["command"] == ["csm", "serve"]
    assert started["args"][-2:] == ["--folder", "/run/csm"]
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    assert set(volumes["run"]) == {"name", "emptyDir"}
    (clients, monitoring) = only(render(CHART, DEFAULT), "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in (clients, monitoring) for port in rule["ports"]] == ["grpc", "metrics"]


def test_audit_files_have_the_pods_name() -> None:
    told = environment(server(ci_file(CHART, "audit")))
    assert told["CSM_SERVING_AUDIT"] == "/audit/$(POD_NAME).jsonl"
    names = list(told)
    assert names.index("POD_NAME") < names.index("CSM_SERVING_AUDIT"), "a name is known to those after it"
    assert environment(server(set={"audit.to": "off"}))["CSM_SERVING_AUDIT"] == "off"


def test_the_grace_is_what_draining_takes() -> None:
    assert pod()["spec"]["terminationGracePeriodSeconds"] == 10 + 150 + 15
    given = {"terminationGracePeriodSeconds": 175}
    assert pod(set=given)["spec"]["terminationGracePeriodSeconds"] == 175
    assert server()["lifecycle"]["preStop"] == {"sleep": {"seconds": 10}}
    said = refusal(CHART, DEFAULT, set={"terminationGracePeriodSeconds": 174})
    assert "terminationGracePeriodSeconds is 174, but" in said
    assert "set it to 175 or more" in said


def test_a_pod_has_the_time_to_start() -> None:
    slow = {"probes.startupSeconds": 901}
    probe = server(set=slow)["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 901
    assert deployment(set=slow)["spec"]["progressDeadlineSeconds"] > 901
    assert environment(server(set=slow))["CSM_SERVING_READY_TIMEOUT_S"] == "901"
    ready, live = server()["readinessProbe"], server()["livenessProbe"]
    assert ready["httpGet"] == {"path": "/v2/models/csm/ready", "port": "http"}
    assert live["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    assert live["periodSeconds"] * live["failureThreshold"] >= 60, "csm serve starts a dead Triton again"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"image.digest": ""}, "image.digest is empty: set it to"),
    ({"bundle.digest": ""}, "bundle.digest is empty: set it to"),
    ({"bundle.url": "s3://csm/demo/bundles/latest"}, 'bundle.url is "s3://csm/demo/bundles/latest": set it to'),
    ({"bundle.url": ""}, "ends in the bundle's digest"),
    ({"serving.exitTimeoutSeconds": 60}, "less than serving.longestStreamSeconds, 120: set it to 120 or more"),
    ({"audit.to": "file"}, "audit.volume is empty: set it to"),
    ({"voices.enabled": True}, "voices.volume is empty: set it to"),
    ({"tls.clientCa": "ca.crt"}, "tls.secret is empty: set it to"),
    ({"tokens": {"secret": "csm-tokens", "key": ""}}, "/tokens/key"),
    ({"monitoring.serviceMonitor.enabled": True}, "counts every stream twice: set one to false"),
    ({"rollout.maxSurge": 0}, "no pod could be replaced: set one to 1 or more"),
    ({"grpcRoute.enabled": True}, "grpcRoute.parentRefs is empty: set it to"),
    ({"canary.enabled": True}, "canary.bundle.digest is empty: set it to"),
    ({"drain.marginSeconds": 5}, "/drain/marginSeconds"),
    ({"sharedMemory": "255Mi"}, "/sharedMemory"),
    ({"grpcRoute.methods": ["RepositoryModelLoad"]}, "/grpcRoute/methods"),
    ({"image.digest": "latest"}, "/image/digest"),
    ({"networkPolicy.clients": [{}]}, "/networkPolicy/clients"),
]


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_values_that_do_not_go_together_are_refused_with_the_cure(values: dict[str, Any], said: str) -> None:
    assert said in refusal(CHART, DEFAULT, set=values)


def test_a_canary_with_a_share_needs_a_route() -> None:
    said = refusal(CHART, CANARY, set={"grpcRoute.enabled": False})
    assert "canary.weight is 5, but only a GRPCRoute splits calls: set grpcRoute.enabled to true" in said


@pytest.mark.parametrize("size", ["256Mi", "299Mi", "512Mi", "1024Mi", "2Gi", "16Gi"])
def test_shared_memory_may_be_larger(size: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(set={"sharedMemory": size})["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"]["sizeLimit"] == size


def test_the_canary_is_a_track_of_its_own() -> None:
    things = render(CHART, CANARY)
    stable, canary = (only(things, "Deployment", track=track) for track in ("stable", "canary"))
    assert canary["spec"]["replicas"] == 2
    assert "replicas" not in stable["spec"]
    assert stable["spec"]["selector"] != canary["spec"]["selector"]
    images = [thing["spec"]["template"]["spec"]["containers"][0]["image"] for thing in (stable, canary)]
    assert images[0] != images[1]
    noted = [thing["spec"]["template"]["metadata"] for thing in (stable, canary)]
    assert [note["labels"]["csm.foundry/model-version"] for note in noted] == ["7", "8"]
    assert [note["annotations"]["csm.foundry/bundle-digest"][:4] for note in noted] == ["8f0c", "9abc"]
    services = {service["metadata"]["name"]: service["spec"]["selector"] for service in of_kind(things, "Service")}
    assert {name: selector["csm.foundry/track"] for name, selector in services.items()} == {
        "csm-serving": "stable",
        "csm-serving-headless": "stable",
        "csm-serving-canary": "canary",
    }
    assert len(of_kind(things, "PodDisruptionBudget")) == 2


def test_the_gateway_splits_calls_and_lets_no_others_through() -> None:
    (rule,) = only(render(CHART, CANARY), "GRPCRoute")["spec"]["rules"]
    assert [(backend["name"], backend["weight"]) for backend in rule["backendRefs"]] == [
        ("csm-serving", 95),
        ("csm-serving-canary", 5),
    ]
    methods = {match["method"]["method"] for match in rule["matches"]}
    assert {match["method"]["service"] for match in rule["matches"]} == {"inference.GRPCInferenceService"}
    assert methods == {"ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "ModelStreamInfer"}
    alone = only(render(CHART, ci_file(CHART, "grpcroute")), "GRPCRoute")["spec"]
    assert alone["hostnames"] == ["speech.example.com"]
    assert alone["rules"][0]["backendRefs"] == [{"name": "csm-serving", "port": 8001}]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://csm-platform-s3.csm-platform:8333", 8333),
        ("https://s3.eu-central-1.example.com", 443),
        ("http://store", 80),
        ("https://store.example.com:9000", 9000),
    ],
)
def test_a_pod_reaches_dns_and_the_store_and_nothing_else(endpoint: str, port: int) -> None:
    things = render(CHART, DEFAULT, set={"storage.endpoint": endpoint})
    (dns, store) = only(things, "NetworkPolicy")["spec"]["egress"]
    assert [(rule["port"], rule["protocol"]) for rule in dns["ports"]] == [(53, "UDP"), (53, "TCP")]
    assert store["ports"] == [{"port": port, "protocol": "TCP"}]


def test_clients_reach_the_streams_and_prometheus_the_metrics() -> None:
    clients, monitoring = only(render(CHART, ci_file(CHART, "network")), "NetworkPolicy")["spec"]["ingress"]
    assert clients["ports"] == [{"port": "grpc", "protocol": "TCP"}]
    assert monitoring["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    assert clients["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "dialogue"}


def test_pods_are_replaced_for_what_they_serve_and_not_for_what_is_around_them() -> None:
    before = pod()
    for values in (
        {"serving.slots": 9},
        {"serving.settings": {"weights": "int8"}},
        {"release.version": "8"},
        {"image.digest": f"sha256:{'2' * 64}"},
        {"drain.preStopSeconds": 11},
    ):
        assert pod(set=values) != before
    for values in (
        {"autoscaling.maxReplicas": 11},
        {"service.type": "NodePort"},
        {"networkPolicy.enabled": False},
        {"monitoring.intervalSeconds": 5},
    ):
        assert pod(set=values) == before
    chart = read_yaml(CHARTS / CHART / "Chart.yaml")
    assert not {chart["version"], f"csm-serving-{chart['version']}"} & set(before["metadata"]["labels"].values())


def test_what_is_served_is_written_on_the_pods_whatever_its_name() -> None:
    noted = pod(set={"release": {"model": "csm demo/größe", "version": 12}})["metadata"]
    assert noted["annotations"]["csm.foundry/model"] == "csm demo/größe"
    assert noted["labels"]["csm.foundry/model"] == "csm-demo-gr--e"
    assert noted["labels"]["csm.foundry/model-version"] == "12"


def test_one_gpu_a_pod() -> None:
    file = ci_file(CHART, "gpu")
    spec = pod(file)["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in spec["initContainers"][0]["resources"]["limits"]
    assert spec["runtimeClassName"] == "nvidia"
    assert deployment(file)["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize(
    ("release", "name"),
    [("csm", "csm-serving"), ("csm-serving", "csm-serving-serving"), ("r" * 53, f"{'r' * 27}-432e4992-serving")],
)
def test_objects_are_named_after_the_release(release: str, name: str) -> None:
    things = render(CHART, DEFAULT, release=release)
    assert only(things, "Deployment")["metadata"]["name"] == name
    assert len(f"keda-hpa-{name}") <= 63, "so KEDA names its HorizontalPodAutoscaler"


def test_only_one_monitor_scrapes_a_pod_and_names_its_release_and_track() -> None:
    for feature, kind in (("default", "PodMonitor"), ("servicemonitor", "ServiceMonitor")):
        things = render(CHART, ci_file(CHART, feature))
        monitors = of_kind(things, "PodMonitor") + of_kind(things, "ServiceMonitor")
        assert [monitor["kind"] for monitor in monitors] == [kind]
        (endpoint,) = monitors[0]["spec"].get("podMetricsEndpoints") or monitors[0]["spec"]["endpoints"]
        sources = {rule["targetLabel"]: rule["sourceLabels"] for rule in endpoint["relabelings"]}
        assert sources["release"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"]
        assert sources["track"] == ["__meta_kubernetes_pod_label_csm_foundry_track"]
        assert sources.keys() == {"release", "track", "pod", "namespace"}


def test_a_service_monitor_finds_one_service_that_has_every_pod() -> None:
    things = render(CHART, ci_file(CHART, "servicemonitor"))
    wanted = only(things, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    (service,) = (thing for thing in of_kind(things, "Service") if wanted <= thing["metadata"]["labels"].items())
    assert "csm.foundry/track" not in service["spec"]["selector"]
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_rules_speak_of_their_own_release_alone() -> None:
    things = render(CHART, DEFAULT, release="one", namespace="speech")
    groups = only(things, "PrometheusRule")["spec"]["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    selectors = [selector for text in expressions for selector in re.findall(r"\{([^{}]*)\}", text)]
    assert selectors
    for selector in selectors:
        assert 'namespace="speech",release="one"' in selector or "one-serving" in selector


def test_the_dashboard_is_what_lies_in_files() -> None:
    data = only(render(CHART, DEFAULT), "ConfigMap")["data"]
    (name,) = data
    assert name == "csm-csm.json"
    assert json.loads(data[name]) == json.loads((CHARTS / CHART / "files" / "dashboard.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("default", "port-forward service/csm-serving 8001:8001"),
        ("node-port", "jsonpath='{.spec.ports[0].nodePort}'"),
        ("load-balancer", '--url "$HOST:443"'),
        ("grpcroute", "speech.example.com"),
        ("canary", "gets 5 % of the gateway's calls"),
    ],
)
def test_notes_say_how_to_reach_it(feature: str, said: str) -> None:
    assert said in notes(CHART, ci_file(CHART, feature))


def test_the_values_that_make_images_writes_are_the_charts(tmp_path: Path) -> None:
    digest = f"sha256:{'3' * 64}"
    file = tmp_path / "csm-serving.yaml"
    file.write_text(images.fragments({"serve": digest}, "registry.example/csm")["csm-serving.yaml"])
    assert server(DEFAULT, file)["image"] == f"registry.example/csm/serve@{digest}"


def test_the_values_that_the_step_deploy_publishes_are_the_charts(tmp_path: Path) -> None:
    bundle, version = random_bundle(tmp_path / "bundle"), tmp_path / "version"
    digest = read_manifest(bundle)["digest"]
    write_json(version / VERDICT, {"bundle": digest})
    write_json(version / REGISTERED, {"model": "csm-demo", "version": 3, "promoted": True, "digest": digest})
    settings = Settings(storage=str(tmp_path / "storage"))
    deploy(bundle, version, tmp_path / "out", model="csm-demo", settings=settings, say=lambda line: None)
    values = tmp_path / "storage" / "releases" / "csm-demo" / "values.yaml"
    said = values.read_text(encoding="utf-8")
    assert "/bundle/url" in refusal(CHART, DEFAULT, values), "pods do not reach a folder of this machine"
    values.write_text(said.replace(str(tmp_path / "storage"), "s3://csm/demo"), encoding="utf-8")
    noted = pod(DEFAULT, values)
    assert noted["metadata"]["labels"]["csm.foundry/model-version"] == "3"
    assert noted["spec"]["initContainers"][0]["args"][:3] == [f"s3://csm/demo/bundles/{digest}", "--digest", digest]


def test_helm_renders_the_same_twice() -> None:
    """A value that is drawn anew, or is of the cluster's version, would make every sync of a GitOps tool a change."""
    assert render(CHART, CANARY, kube_version="1.31") == render(CHART, CANARY, kube_version="1.37")


def test_a_version_that_is_a_number_is_said_in_full(tmp_path: Path) -> None:
    """A file of values brings a whole number as a float; beyond 2^53 it would be another one, and is refused."""
    template = pod(set={"release": {"model": "csm-demo", "version": 20261129}})
    assert template["metadata"]["labels"]["csm.foundry/model-version"] == "20261129"
    assert template["metadata"]["annotations"]["csm.foundry/model-version"] == "20261129"
    said = refusal(CHART, DEFAULT, set={"release.version": 2**53 + 1})
    assert "at '/release/version': maximum" in said


def test_a_store_behind_a_service_on_another_port() -> None:
    """A policy sees the pods' port, not the Service's."""
    things = render(
        CHART, DEFAULT, set={"storage.endpoint": "http://s3.store", "networkPolicy.storagePorts": [8333, 8334]}
    )
    ports = only(things, "NetworkPolicy")["spec"]["egress"][1]["ports"]
    assert ports == [{"port": 8333, "protocol": "TCP"}, {"port": 8334, "protocol": "TCP"}]


def test_services_take_the_families_of_addresses_that_are_named() -> None:
    families = {"service.ipFamilyPolicy": "RequireDualStack", "service.ipFamilies": ["IPv6", "IPv4"]}
    things = render(CHART, CANARY, set={**families, "serving.host": "::"})
    services = of_kind(things, "Service")
    assert len(services) == 3
    for service in services:
        assert service["spec"]["ipFamilyPolicy"] == "RequireDualStack"
        assert service["spec"]["ipFamilies"] == ["IPv6", "IPv4"]
    assert environment(server(CANARY, set={"serving.host": "::"}))["CSM_SERVING_HOST"] == "::"
