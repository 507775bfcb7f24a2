"""An image is pushed into a real registry, and the digest that is told is the one that the registry knows."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import containers
import pytest
from image_builders import Buildah, Builder, Podman
from ports import free_port
from waiting import eventually


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry on loopback, without TLS; yields its name."""
    if reason := containers.missing("docker-registry"):
        pytest.skip(reason)
    port = free_port()
    config = tmp_path / "registry.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {tmp_path}/store}}}}"
    config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n")
    name = f"127.0.0.1:{port}"
    trusted = tmp_path / "registries.conf"
    trusted.write_text(f'[[registry]]\nlocation = "{name}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(trusted))
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        eventually(lambda: server.poll() is not None or answers(f"http://{name}/v2/"))
        assert server.poll() is None, (tmp_path / "log").read_text()
        yield name
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except OSError:
        return False
    return True


@pytest.fixture
def small_image(registry: str, tmp_path: Path) -> Iterator[str]:
    """An image that holds one file."""
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY file /file\n")
    (tmp_path / "file").write_text("x" * 100_000)
    name = f"{registry}/csm/small:1"
    containers.output("buildah", "build", "--isolation", "chroot", "--tag", name, tmp_path)
    yield name
    containers.output("buildah", "rmi", "--force", name)


@pytest.mark.parametrize("builder", [Podman(), Buildah()], ids=lambda builder: builder.name)
def test_the_digest_is_the_registrys(builder: Builder, small_image: str) -> None:
    digest = builder.push(small_image)
    here = builder.digest(small_image)
    assert here is not None
    assert here.startswith("sha256:")
    address, _, _ = small_image.rpartition(":")
    host, _, path = address.partition("/")
    asked = urllib.request.Request(
        f"http://{host}/v2/{path}/manifests/{digest}", headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.headers["Docker-Content-Digest"] == digest
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{host}/v2/{path}/manifests/sha256:{'0' * 64}", timeout=10)
