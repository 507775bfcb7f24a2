"""A promoted bundle is published whole under its digest, and rolled out by an Argo CD that a small API stands for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from kube_api import KubeApi, RefusedError

from csm_components.cluster import ClusterError
from csm_components.deploy.argocd import RolloutError
from csm_components.deploy.step import DeployResult, deploy
from csm_components.s3 import S3Storage
from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_components.targets import DeployTarget
from csm_components.tree_list import TREE
from csm_model.errors import ArtifactError, DigestError, InputError, MissingDependencyError
from csm_model.files import digest_of, digest_of_file, read_json, write_json
from csm_model.verdict import VERDICT, write_verdict

ROOT = Path(__file__).resolve().parents[2]
GROUP, PLURAL = "argoproj.io", "applications"


def make_bundle(folder: Path, weights: bytes = b"weights") -> str:
    """A bundle as far as its manifest and files go; returns its digest."""
    (folder / "codec").mkdir(parents=True)
    for name, data in {"model.safetensors": weights, "config.json": b"{}", "codec/codec.json": b"{}"}.items():
        (folder / name).write_bytes(data)
    files = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in folder.rglob("*") if path.is_file()}
    write_json(folder / "manifest.json", {"format": 1, "precision": "int8", "files": files, "digest": digest_of(files)})
    return digest_of(files)


def judge(folder: Path, digest: str, **changes: Any) -> Path:
    """What register leaves of a bundle that passed."""
    result = {"model": "csm-demo", "version": 3, "digest": digest, "promoted": True, "misses": []} | changes
    write_json(folder / "result.json", result)
    write_verdict(folder, bundle=digest, misses=result["misses"], figures={"wer": 0.1}, bounds={"wer": 0.15})
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def digest(bundle: Path) -> str:
    return str(read_json(bundle / "manifest.json")["digest"])


@pytest.fixture
def run(
    bundle: Path, digest: str, tmp_path: Path, s3: Settings, request: pytest.FixtureRequest
) -> Callable[..., DeployResult]:
    """Deploys the bundle to a prefix of its own."""

    def go(target: DeployTarget | None = None, **options: Any) -> DeployResult:
        storage = f"s3://foundry/{digest_of(request.node.name)[:8]}"
        settings = s3.model_copy(update={"storage": storage, "deploy_target": target or DeployTarget()})
        given = {"bundle": bundle, "version": judge(tmp_path / "version", digest), "model": "csm-demo"}
        given |= {"say": lambda _: None} | options
        return deploy(out=tmp_path / "out", settings=settings, **given)

    return go


def stored(result: DeployResult, s3: Settings) -> tuple[S3Storage, list[str]]:
    """The storage of a release, and all keys in it."""
    storage = open_storage(result.url.rpartition("/bundles/")[0], s3)
    assert isinstance(storage, S3Storage)
    return storage, storage.list()


def test_a_release_is_the_bundle_its_verdict_and_the_values_that_serve_it(
    run: Callable[..., DeployResult], s3: Settings, bundle: Path, digest: str, tmp_path: Path
) -> None:
    before = sorted(bundle.rglob("*"))
    result = run()
    storage, keys = stored(result, s3)
    tree = f"bundles/{digest}"
    own = [f"{tree}/{path.relative_to(bundle).as_posix()}" for path in before if path.is_file()]
    releases = [f"releases/csm-demo/{name}" for name in ("release.json", "values.yaml", "versions/3.yaml")]
    assert keys == sorted([*own, f"{tree}/{TREE}", f"{tree}/{VERDICT}", *releases])
    assert sorted(bundle.rglob("*")) == before, "the inputs are read, not written"
    storage.get_tree(tree, tmp_path / "back")
    assert read_json(tmp_path / "back" / VERDICT)["passed"] is True

    values = yaml.safe_load((tmp_path / "out/values.yaml").read_text())
    assert values == {
        "bundle": {"url": result.url, "digest": digest},
        "release": {"model": "csm-demo", "version": "3"},
    }
    schema = json.loads((ROOT / "charts/csm-serving/values.schema.json").read_text())
    assert not [error.message for error in Draft202012Validator(schema).iter_errors(values)]
    storage.get_file("releases/csm-demo/release.json", tmp_path / "release.json")
    assert read_json(tmp_path / "release.json") == {
        "format": 1,
        "model": "csm-demo",
        "version": 3,
        "values": "versions/3.yaml",
        "url": result.url,
        "digest": digest,
    }
    assert (result.rolled_out, result.reused) == (False, False)


def test_deploying_again_sends_nothing_of_the_bundle_and_a_killed_one_is_finished(
    run: Callable[..., DeployResult], s3: Settings, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    kills: list[str] = []
    put_file = S3Storage.put_file

    def noted(storage: S3Storage, path: Path, key: str) -> None:
        if key.endswith("/model.safetensors") and not kills:
            kills.append(key)
            raise KeyboardInterrupt
        sent.append(key)
        put_file(storage, path, key)

    monkeypatch.setattr(S3Storage, "put_file", noted)
    with pytest.raises(KeyboardInterrupt):
        run()
    before = set(sent)
    sent.clear()
    first = run()
    assert before
    assert not first.reused
    assert before.isdisjoint(sent), "what was sent before the kill is not sent again"
    sent.clear()
    assert run().reused
    assert not [key for key in sent if key.startswith("bundles/")]
    storage, _ = stored(first, s3)
    assert storage.trees("bundles/") == [f"bundles/{digest}"]


def test_only_what_the_gate_let_through_is_published(
    run: Callable[..., DeployResult], s3: Settings, bundle: Path, digest: str, tmp_path: Path
) -> None:
    missed = judge(tmp_path / "missed", digest, promoted=False, misses=["wer 0.230 misses at most 0.15 by 0.080"])
    with pytest.raises(InputError, match=r"version 3 of csm-demo is not released: wer 0\.230 misses"):
        run(version=missed)
    with pytest.raises(InputError, match="is a version of 'csm-demo', not of 'another'"):
        run(model="another")
    with pytest.raises(ArtifactError, match="registers bundle 000000000000, not"):
        run(version=judge(tmp_path / "other", "0" * 64))
    (bundle / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(DigestError, match=r"model\.safetensors: its digest is not the one"):
        run()
    make_bundle(tmp_path / "again")
    passed = judge(tmp_path / "passed", digest)
    with pytest.raises(InputError, match="CSM_STORAGE"):
        deploy(tmp_path / "again", passed, tmp_path / "out", model="csm-demo", settings=Settings())


class ArgoCd:
    """What Argo CD's controller does to an Application whose values change: compare, sync, wait for health."""

    def __init__(self, api: KubeApi, *, health: str = "Healthy", sync: str = "Succeeded", meddle: str = "") -> None:
        self._api, self._health, self._sync, self._meddle = api, health, sync, meddle
        self._seen: Any = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> ArgoCd:
        self._seen = self._source()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _source(self) -> Any:
        return self._api.get(GROUP, PLURAL, "argocd", "csm-serving")["spec"]["source"]

    def _report(self, **status: Any) -> None:
        self._api.patch(GROUP, PLURAL, "argocd", "csm-serving", {"status": status}, status=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            source = self._source()
            if source == self._seen:
                continue
            self._seen = source
            self._report(sync={"status": "OutOfSync", "comparedTo": {"source": source}})
            if self._meddle:
                values = {"bundle": {"digest": self._meddle}}
                patch = {"spec": {"source": {"helm": {"valuesObject": values}}}}
                self._api.patch(GROUP, PLURAL, "argocd", "csm-serving", patch)
                continue
            operation = {
                "phase": self._sync,
                "message": "one or more objects\nfailed",
                "syncResult": {"source": source},
            }
            self._report(operationState=operation)
            if self._sync == "Succeeded":
                self._report(sync={"status": "Synced"}, health={"status": "Progressing"})
                self._stop.wait(0.2)
                self._report(
                    health={"status": self._health, "message": "0 of 2 replicas" * (self._health != "Healthy")}
                )


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """A cluster where csm-serving is an Application that serves another bundle, and keeps values of its own."""
    with KubeApi() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path)))
        source = {
            "repoURL": "https://example.com/charts.git",
            "path": "charts/csm-serving",
            "targetRevision": "main",
            "helm": {"valuesObject": {"bundle": {"digest": "old", "sizeLimit": "40Gi"}, "serving": {"slots": 4}}},
        }
        application = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {"name": "csm-serving", "namespace": "argocd"},
            "spec": {
                "project": "default",
                "source": source,
                "destination": {"namespace": "csm", "server": "https://kubernetes.default.svc"},
            },
        }
        api.create(application, namespace="argocd")
        healthy = {
            "sync": {"status": "Synced", "comparedTo": {"source": source}},
            "health": {"status": "Healthy"},
            # of an earlier release, which must not be taken for this one's
            "operationState": {"phase": "Failed", "message": "long ago", "syncResult": {"source": source}},
        }
        api.patch(GROUP, PLURAL, "argocd", "csm-serving", {"status": healthy}, status=True)
        yield api


ARGO = DeployTarget(kind="argocd", application="csm-serving", timeout_s=60)


def test_a_rollout_ends_when_argo_cd_serves_the_new_bundle(
    run: Callable[..., DeployResult], api: KubeApi, digest: str
) -> None:
    with ArgoCd(api):
        result = run(ARGO)
        again = run(ARGO)
    assert result.rolled_out
    assert again.rolled_out
    application = api.get(GROUP, PLURAL, "argocd", "csm-serving")
    values = application["spec"]["source"]["helm"]["valuesObject"]
    assert values["bundle"] == {"digest": digest, "url": result.url, "sizeLimit": "40Gi"}, "what else is set stays"
    assert values["serving"] == {"slots": 4}
    assert application["status"]["health"]["status"] == "Healthy"
    asked = {tuple(line.partition("?")[0].split(" ", 1)) for line in api.requests if not line.endswith("/version")}
    place = f"/apis/{GROUP}/v1alpha1/namespaces/argocd/{PLURAL}/csm-serving"
    assert asked == {("GET", place), ("PATCH", place)}, "what the role csm-deploy-TENANT of csm-training allows"


@pytest.mark.parametrize(
    ("controller", "timeout", "message"),
    [
        ({"health": "Degraded"}, 1, r"is not served after 1 s \(Synced, Degraded: 0 of 2 replicas\); look at it"),
        ({"sync": "Failed"}, 60, "could not sync bundle [0-9a-f]{12}: one or more objects failed"),
        ({"meddle": "f" * 64}, 60, "its bundle was changed by others while"),
        (None, 1, r"is not served after 1 s \(Argo CD has not looked at the new values yet\)"),
    ],
)
def test_a_rollout_that_fails_says_so_in_one_line(
    run: Callable[..., DeployResult], api: KubeApi, controller: dict[str, str] | None, timeout: int, message: str
) -> None:
    target = ARGO.model_copy(update={"timeout_s": timeout})
    if controller is None:
        with pytest.raises(RolloutError, match=message) as error:
            run(target)
    else:
        with ArgoCd(api, **controller), pytest.raises(RolloutError, match=message) as error:
            run(target)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": None, "sources": [{"repoURL": "https://example.com/a.git"}]}, "has several sources"),
        ({"source": {"helm": {"valuesObject": None, "values": "bundle: {}"}}}, "keeps its values as text"),
        ({"source": {"helm": {"parameters": [{"name": "bundle.digest", "value": "x"}]}}}, "sets bundle.digest among"),
    ],
)
def test_an_application_that_would_not_heed_the_values_is_left_alone(
    run: Callable[..., DeployResult], api: KubeApi, spec: dict[str, Any], message: str
) -> None:
    before = api.patch(GROUP, PLURAL, "argocd", "csm-serving", {"spec": spec})
    with pytest.raises(InputError, match=message):
        run(ARGO)
    assert api.get(GROUP, PLURAL, "argocd", "csm-serving")["spec"] == before["spec"]


def test_a_cluster_that_is_not_there_or_has_no_such_application_is_said(
    run: Callable[..., DeployResult], api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="Application argocd/other: there is none"):
        run(ARGO.model_copy(update={"application": "other"}))
    with pytest.raises(InputError, match="needs the name of an application"):
        run(DeployTarget(kind="argocd"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(MissingDependencyError, match="no Kubernetes cluster is named"):
        run(ARGO)


def test_what_the_cluster_refuses_is_passed_on_and_a_restart_of_it_is_waited_for(
    run: Callable[..., DeployResult], api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch, get, calls = api.patch, api.get, [0]

    def forbidden(*arguments: Any, **options: Any) -> Any:
        if not options.get("status"):
            raise RefusedError(403, 'applications.argoproj.io "csm-serving" is forbidden: User "step" cannot patch it')
        return patch(*arguments, **options)

    def restarting(*arguments: Any) -> Any:
        asked = "process_request" in threading.current_thread().name  # not the controller's own look
        calls[0] += asked
        if asked and calls[0] in (4, 5):  # after the first look and the patch
            raise RefusedError(503, "the server is restarting", reason="ServiceUnavailable")
        return get(*arguments)

    with monkeypatch.context() as now:
        now.setattr(api, "patch", forbidden)
        with pytest.raises(ClusterError, match=r"csm-serving in namespace argocd: .* is forbidden: User"):
            run(ARGO)
    lines: list[str] = []
    with ArgoCd(api):
        monkeypatch.setattr(api, "get", restarting)
        assert run(ARGO, say=lines.append).rolled_out
    assert lines[-1] == "Application argocd/csm-serving: Synced, Healthy"
