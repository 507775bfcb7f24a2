"""csm fetch-bundle against a real S3 service: the bundle that was asked for, whole, or one line and exit status 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import let_pass

from csm_components.s3 import S3Storage
from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_model.files import digest_of, digest_of_file, read_json, write_json

BUCKET = "s3://releases/csm"


def make_bundle(folder: Path, weights: bytes) -> str:
    """A bundle as far as its manifest and files go, with a verdict beside it; returns its digest."""
    (folder / "codec").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "codec/codec.json").write_text("{}")
    files = {name: digest_of_file(folder / name) for name in ("model.safetensors", "codec/codec.json")}
    write_json(folder / "manifest.json", {"format": 1, "files": files, "digest": digest_of(files)})
    write_json(folder / "gate.json", {"passed": True})
    return digest_of(files)


@pytest.fixture(scope="module")
def storage(s3: Settings) -> S3Storage:
    found = open_storage(BUCKET, s3)
    assert isinstance(found, S3Storage)
    return found


@pytest.fixture(scope="module")
def digest(storage: S3Storage, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that has been published."""
    folder = tmp_path_factory.mktemp("published") / "bundle"
    digest = make_bundle(folder, b"weights" * 100_000)
    storage.put_tree(folder, f"bundles/{digest}")
    return digest


@pytest.fixture
def environment(s3: Settings) -> dict[str, str]:
    """What the init container is given."""
    assert s3.s3_secret_key is not None
    return {
        **os.environ,
        "CSM_S3_ENDPOINT": str(s3.s3_endpoint),
        "CSM_S3_ACCESS_KEY": str(s3.s3_access_key),
        "CSM_S3_SECRET_KEY": s3.s3_secret_key.get_secret_value(),
    }


def fetch(
    url: str, digest: str, out: Path, environment: dict[str, str], program: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, after `program`."""
    command = f"{program}\nfrom csm_cli.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "fetch-bundle", url, "--digest", digest, "--out", str(out)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_bundle_is_fetched_once(digest: str, storage: S3Storage, environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "models/bundle"
    done = fetch(f"{BUCKET}/bundles/{digest}", digest, out, environment)
    assert (done.returncode, done.stdout) == (0, f"{out}: bundle {digest[:12]} fetched\n"), done.stderr
    assert read_json(out / "manifest.json")["digest"] == digest
    assert (out / "model.safetensors").read_bytes() == b"weights" * 100_000
    assert (out / "gate.json").is_file()
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]

    nowhere = environment | {"CSM_S3_ENDPOINT": "127.0.0.1:9", "CSM_S3_PATIENCE_S": "0"}
    again = fetch(f"{BUCKET}/bundles/{digest}", digest, out, nowhere)
    assert (again.returncode, again.stdout) == (0, f"{out}: bundle {digest[:12]} was there\n")

    other_folder = tmp_path / "other"
    other = make_bundle(other_folder, b"others")
    storage.put_tree(other_folder, f"bundles/{other}")
    assert fetch(f"{BUCKET}/bundles/{other}", other, out, environment).returncode == 0
    assert read_json(out / "manifest.json")["digest"] == other
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("url", "digest_given", "message"),
    [
        ("{bucket}/bundles/{digest}", "0" * 64, "holds bundle {digest}, not 0000"),
        ("{bucket}/bundles/{digest}", "main", "digest 'main': must be the 64 hexadecimal digits"),
        ("{bucket}/bundles/nothing", "{digest}", "nothing: no such tree in the storage, or it is not whole"),
        ("{bucket}/plain", "{digest}", "plain: not a bundle (no manifest.json)"),
        ("ftp://x/y", "{digest}", "must be a folder, file:///folder or s3://bucket/prefix"),
    ],
)
def test_what_is_not_the_bundle_asked_for_is_refused_in_one_line(
    digest: str, storage: S3Storage, environment: dict[str, str], tmp_path: Path,
    url: str, digest_given: str, message: str,
) -> None:  # fmt: skip
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/readme").write_text("no bundle")
    storage.put_tree(tmp_path / "plain", "plain")
    done = fetch(
        url.format(bucket=BUCKET, digest=digest), digest_given.format(digest=digest), tmp_path / "out", environment
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message.format(digest=digest) in done.stderr
    assert not (tmp_path / "out").exists()


def test_damaged_and_exchanged_files_are_refused(
    storage: S3Storage, environment: dict[str, str], tmp_path: Path
) -> None:
    digest = make_bundle(tmp_path / "bundle", b"right")
    storage.put_tree(tmp_path / "bundle", "bundles/damaged")
    (tmp_path / "wrong").write_bytes(b"wrong")
    storage.put_file(tmp_path / "wrong", "bundles/damaged/model.safetensors")
    done = fetch(f"{BUCKET}/bundles/damaged", digest, tmp_path / "out", environment)
    assert done.returncode == 2
    assert "model.safetensors: its bytes are not those that the tree names" in done.stderr

    (tmp_path / "bundle/model.safetensors").write_bytes(b"another's")
    storage.put_tree(tmp_path / "bundle", "bundles/exchanged")  # the tree is whole, but not this bundle
    done = fetch(f"{BUCKET}/bundles/exchanged", digest, tmp_path / "out", environment)
    assert done.returncode == 2
    assert "model.safetensors: is not the file that the bundle's manifest names" in done.stderr
    assert not (tmp_path / "out").exists()

    manifest = read_json(tmp_path / "bundle/manifest.json")
    manifest["files"]["model.safetensors"] = digest_of_file(tmp_path / "bundle/model.safetensors")
    write_json(tmp_path / "bundle/manifest.json", manifest)
    storage.put_tree(tmp_path / "bundle", "bundles/forged")
    done = fetch(f"{BUCKET}/bundles/forged", digest, tmp_path / "out", environment)
    assert done.returncode == 2
    assert "does not have the digest that it names" in done.stderr


def test_a_killed_fetch_leaves_no_bundle_and_the_next_goes_on(
    digest: str, environment: dict[str, str], tmp_path: Path
) -> None:
    slow = (
        "import signal\nfrom csm_components.s3 import S3Storage\nget_file = S3Storage.get_file\n"
        "def slow(self, key, path):\n    get_file(self, key, path)\n"
        "    if key.endswith('model.safetensors'):\n        print('kept', flush=True)\n        signal.pause()\n"
        "S3Storage.get_file = slow"
    )
    url, out = f"{BUCKET}/bundles/{digest}", tmp_path / "bundle"
    command = f"{slow}\nfrom csm_cli.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "fetch-bundle", url, "--digest", digest, "--out", str(out)],
        env=environment, stdout=subprocess.PIPE,
    ) as pod:  # fmt: skip
        assert pod.stdout is not None
        assert pod.stdout.readline() == b"kept\n"
        os.kill(pod.pid, signal.SIGKILL)
    assert not out.exists()
    (kept,) = tmp_path.rglob("model.safetensors")
    before = kept.stat().st_mtime_ns
    let_pass(0.01)  # what is written from now on has another time
    assert fetch(url, digest, out, environment).returncode == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == before, "what was fetched is not fetched again"


def test_it_needs_neither_torch_nor_kubeflow(digest: str, environment: dict[str, str], tmp_path: Path) -> None:
    """The base install is enough."""
    without = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'kfp', 'mlflow', 'kubernetes', 'safetensors', 'lhotse'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())"
    )
    done = fetch(f"{BUCKET}/bundles/{digest}", digest, tmp_path / "bundle", environment, without)
    assert done.returncode == 0, done.stderr
