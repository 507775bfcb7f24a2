"""The cluster on this machine: scripts that shellcheck takes, and commands that the real helm and kubectl take."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rendering import all_charts
from helm import find_helm
from images import fragments
from kubectl import find_kubectl
from kubernetes_schemas import check

ROOT = Path(__file__).resolve().parent.parent.parent
KIND = ROOT / "deploy" / "kind"
SCRIPTS = sorted(KIND.glob("*.sh"))
DIGEST = "8f0c1b2a3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"

KUBECTL = """#!{python}
# A kubectl over a folder: what it makes is what the real one makes without a cluster; reading comes from the folder.
import base64, json, os, pathlib, re, subprocess, sys
words, store = sys.argv[1:], pathlib.Path(os.environ["STORE"])
with (store / "log").open("a") as log:
    log.write(" ".join(["kubectl", *words]) + "\\n")
namespace = words[1] if words[0] == "--namespace" else ""
if words[0] == "--namespace":
    words = words[2:]
if words[:2] == ["get", "namespace"]:
    sys.exit(not (store / f"namespace-{{words[2]}}").exists())
if words[:2] == ["get", "secret"]:
    file = store / f"{{namespace}}-{{words[2]}}.json"
    if not file.exists():
        sys.exit(1)
    if len(words) > 3:
        key = re.fullmatch(r"jsonpath=\\{{\\.data\\.(\\w+)\\}}", words[4])[1]
        sys.stdout.write(json.loads(file.read_text())["data"][key])
    sys.exit(0)
if words[0] == "create":
    where = ["--namespace", namespace] if namespace else []
    real = [os.environ["REAL_KUBECTL"], *where, *words, "--dry-run=client", "--output=json"]
    made = subprocess.run(real, capture_output=True, text=True)
    if made.returncode:
        sys.exit(made.stderr)
    thing = json.loads(made.stdout)
    name = thing["metadata"]["name"]
    file = store / (f"namespace-{{name}}" if thing["kind"] == "Namespace" else f"{{namespace}}-{{name}}.json")
    if file.exists():
        sys.exit(f"{{name}}: exists already")
    if namespace and not (store / f"namespace-{{namespace}}").exists():
        sys.exit(f"namespace {{namespace}} not found")
    file.write_text(made.stdout)
"""
HELM = """#!{python}
# A helm without a cluster: what upgrade --install would install is rendered by the real one.
import os, pathlib, subprocess, sys
words, store = sys.argv[1:], pathlib.Path(os.environ["STORE"])
with (store / "log").open("a") as log:
    log.write(" ".join(["helm", *words]) + "\\n")
assert words[:2] == ["upgrade", "--install"], words
known = subprocess.run([os.environ["REAL_HELM"], "upgrade", "--help"], capture_output=True, text=True).stdout
for word in words[2:]:
    assert not word.startswith("--") or f"{{word}} " in known or f"{{word}}[" in known or word in known.split(), word
release, chart, *rest = words[2:]
kept = [word for word in rest if word not in ("--wait", "--take-ownership")]
at = kept.index("--timeout")
del kept[at : at + 2]
made = subprocess.run([os.environ["REAL_HELM"], "template", release, chart, *kept], capture_output=True, text=True)
(store / f"{{release}}.yaml").write_text(made.stdout)
sys.exit(made.stderr if made.returncode else 0)
"""
OTHER = """#!{python}
# A kind with two nodes, and a docker with every image, none of which can be looked into here.
import hashlib, os, pathlib, sys
program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (pathlib.Path(os.environ["STORE"]) / "log").open("a") as log:
    log.write(" ".join([program, *words]) + "\\n")
if words[:2] == ["get", "nodes"]:
    print("csm-control-plane csm-worker")
elif words[:2] == ["image", "inspect"]:
    print(f"{{words[-1].rpartition(':')[0]}}@sha256:{{hashlib.sha256(words[-1].encode()).hexdigest()}}")
elif words[:2] == ["container", "inspect"]:
    sys.exit(1)
"""


class Bench:
    """Stand-ins for the four programs, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.store, self.tree = folder / "store", folder / "tree"
        self.store.mkdir()
        for part in ("charts", "deploy/kind", "deploy/kfp", "deploy/environments", "deploy/tenants"):
            shutil.copytree(ROOT / part, self.tree / part)
        (folder / "bin").mkdir()
        for name, text in (("kubectl", KUBECTL), ("helm", HELM), ("kind", OTHER), ("docker", OTHER)):
            path = folder / "bin" / name
            path.write_text(text.format(python=sys.executable), encoding="utf-8")
            path.chmod(0o755)
        self.env = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "STORE": str(self.store),
            "REAL_KUBECTL": find_kubectl(),
            "REAL_HELM": str(find_helm()),
        }

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        done = self.try_to(script, *words)
        assert done.returncode == 0, done.stderr
        return done

    def try_to(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.tree / "deploy" / "kind" / script, *words], env=self.env, capture_output=True, text=True, check=False
        )

    def lay_images(self) -> None:
        """What make images leaves: the images of a registry by their digests."""
        digests = {
            name: f"sha256:{number * 32}"
            for name, number in zip(("data", "train", "serve", "tracking"), ("a1", "b2", "c3", "d4"), strict=True)
        }
        (self.tree / "dist" / "images").mkdir(parents=True)
        for name, text in fragments(digests, "localhost:5001/csm-foundry").items():
            (self.tree / "dist" / "images" / name).write_text(text, encoding="utf-8")

    @property
    def asked(self) -> list[str]:
        return (self.store / "log").read_text(encoding="utf-8").splitlines()

    def secrets(self) -> dict[str, dict[str, str]]:
        found = {}
        for path in self.store.glob("*.json"):
            thing = yaml.safe_load(path.read_text(encoding="utf-8"))
            check(thing)
            found[path.stem] = {key: base64.b64decode(value).decode() for key, value in thing["data"].items()}
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A cluster that came up, served a release and was removed."""
    bench = Bench(tmp_path_factory.mktemp("kind"))
    bench.lay_images()
    bench.run("up.sh")
    release = bench.store / "values.yaml"
    release.write_text(
        f"bundle: {{url: 's3://csm/production/bundles/{DIGEST}', digest: '{DIGEST}'}}\n", encoding="utf-8"
    )
    bench.run("serve.sh", str(release))
    bench.run("down.sh")
    return bench


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_takes_a_script(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def containers_of(thing: dict[str, Any]) -> list[dict[str, Any]]:
    pod = thing.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def secret_names(things: list[dict[str, Any]], default: str) -> set[tuple[str, str]]:
    """Namespace and name of every secret that objects read."""
    found = set()

    def look(value: Any, namespace: str) -> None:
        if isinstance(value, list):
            for item in value:
                look(item, namespace)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key == "secretKeyRef" or (key == "secret" and "name" in inner):
                    found.add((namespace, inner["name"]))
                elif key == "secret" and "secretName" in inner:
                    found.add((namespace, inner["secretName"]))
                look(inner, namespace)

    for thing in things:
        look(thing, thing["metadata"].get("namespace", default))
    return found


def test_everything_comes_up_in_order_and_every_secret_that_a_chart_reads_is_there(bench: Bench) -> None:
    order = [
        "docker run --detach --restart=always --name csm-registry",
        "kind create cluster --config deploy/kind/cluster.yaml",
        "docker network connect kind csm-registry",
        "docker pull --quiet localhost:5001/csm-foundry/data@sha256:",
        "kind load docker-image --name csm localhost/csm-foundry/data:dev",
        "kubectl apply --server-side --kustomize deploy/kfp",
        "kubectl --namespace csm-platform create secret generic csm-postgresql",
        "helm upgrade --install csm-platform charts/csm-platform --namespace csm-platform",
        "helm upgrade --install csm-training charts/csm-training --namespace csm-tenants",
        "helm upgrade --install csm-serving charts/csm-serving --namespace csm-serving",
        "kind delete cluster --name csm",
    ]
    places = [next(number for number, line in enumerate(bench.asked) if line.startswith(step)) for step in order]
    assert places == sorted(places)
    made = bench.secrets()
    namespaces = {"csm-platform": "csm-platform", "csm-training": "csm-tenants", "csm-serving": "csm-serving"}
    assert set(namespaces) == set(all_charts())
    for chart, namespace in namespaces.items():
        text = (bench.store / f"{chart}.yaml").read_text(encoding="utf-8")
        things = [thing for thing in yaml.safe_load_all(text) if thing]
        for thing in things:
            check(thing)
        images = [container["image"] for thing in things for container in containers_of(thing)]
        assert images
        assert [image for image in images if "sha256:0000" in image] == [], "placeholders are filled"
        wanted = secret_names(things, namespace)
        assert wanted
        missing = [f"{where}-{name}" for where, name in wanted if f"{where}-{name}" not in made]
        assert missing == [], chart


def test_secrets_have_the_keys_that_are_read_and_halves_of_one_identity_are_the_same(bench: Bench) -> None:
    made = bench.secrets()
    assert set(made["csm-platform-csm-mlflow-admin"]) == {"username", "password", "secretKey"}
    assert len(made["csm-platform-csm-mlflow-admin"]["password"]) >= 12
    assert made["csm-training-csm-storage"] == made["csm-platform-csm-s3-training"]
    assert made["csm-training-csm-tracking"] == made["csm-tenants-csm-mlflow-training"]
    assert made["csm-training-kfp-mlflow-credentials"] == made["csm-training-csm-tracking"]
    assert made["kubeflow-csm-storage"] == made["csm-training-csm-storage"]
    assert made["csm-serving-csm-s3-serving"] == made["csm-platform-csm-s3-serving"]
    keys = [secret["CSM_S3_ACCESS_KEY"] for name, secret in made.items() if name.startswith("csm-platform-csm-s3-")]
    assert len(set(keys)) == len(keys) == 5


def test_a_second_run_changes_nothing(bench: Bench) -> None:
    before = bench.secrets()
    bench.run("secrets.sh", "training", "research")
    assert bench.secrets() == before


def test_serving_needs_the_values_of_a_release(bench: Bench) -> None:
    done = bench.try_to("serve.sh")
    assert (done.returncode, done.stderr) == (2, "usage: deploy/kind/serve.sh VALUES\n")


def test_without_images_the_registry_is_there_and_the_next_command_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    done = bench.try_to("up.sh")
    assert done.returncode == 2
    assert "make images ARGS='--registry localhost:5001/csm-foundry --push --python-digest sha256:...'" in done.stderr
    assert [line.split()[:2] for line in bench.asked] == [["docker", "container"], ["docker", "run"]]


def test_the_cluster_is_one_that_kind_makes() -> None:
    cluster = yaml.safe_load((KIND / "cluster.yaml").read_text(encoding="utf-8"))
    assert (cluster["kind"], cluster["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert {node["role"] for node in cluster["nodes"]} == {"control-plane", "worker"}
    assert set(cluster) <= {"kind", "apiVersion", "name", "nodes", "networking", "containerdConfigPatches"}
