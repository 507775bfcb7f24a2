"""Images built and containers run for tests: a Debian base, `tools/images.py`, and podman as a node would run a pod."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/csm-debian:bookworm"
"""A Debian with Python 3.11 and its library, which stands for the public base."""
REGISTRY = "localhost/csm-foundry"
PACKAGES = "python3.11,python3.11-venv,python3-distutils,libpython3.11,ca-certificates"
MIRROR = "http://deb.debian.org/debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNUSED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt/archives", "var/lib/apt/lists")
USER = 10001
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""podman's own limits are above those that some machines let root set."""


PROGRAMS = ("buildah", "podman", "runc", "debootstrap")
"""What building images and running containers takes here."""


def missing(*more: str) -> str | None:
    """Why no image can be built and run here, with `more` programs than that takes; None where it can."""
    if os.geteuid() != 0:
        return "building images here takes root"
    for program in (*PROGRAMS, *more):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"{program} is not installed"
    return None


def output(*command: str | Path, **options: Any) -> str:
    """Standard output of a command that must end well."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def has_image(image: str) -> bool:
    """Whether podman has an image here."""
    return subprocess.run(["podman", "image", "exists", image], check=False).returncode == 0


def make_base() -> str | None:
    """Makes `BASE` where it is not there yet; returns why that did not work, or None."""
    if has_image(BASE):
        return None
    with tempfile.TemporaryDirectory(prefix="csm-base-") as folder:
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder, MIRROR]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
        except subprocess.TimeoutExpired:
            return "debootstrap could not make a base within 400 s"
        if done.returncode != 0:
            return f"debootstrap could not make a base: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
        for path in UNUSED:
            shutil.rmtree(Path(folder) / path, ignore_errors=True)
        take = ["podman", "import", "--quiet", "--change", f"ENV PATH={PATH}", "-", BASE]
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(take, stdin=packed.stdout, check=True, capture_output=True)
        assert packed.returncode == 0
    return None


def uv_cache() -> Path | None:
    """uv's cache on this machine, where there is one."""
    uv = Path(sys.executable).with_name("uv")
    found = Path(output(uv, "cache", "dir").strip()) if uv.exists() else Path.home() / ".cache" / "uv"
    return found if found.is_dir() else None


def build_image(target: str, out: Path) -> str:
    """Builds a target as `make images` does; returns the image's name by digest. Bill and values are in `out`."""
    cache = uv_cache()
    command = [
        *(sys.executable, ROOT / "tools" / "images.py", target, "--builder", "buildah", "--isolation", "chroot"),
        *("--local-base", "--python-image", BASE, "--registry", REGISTRY, "--out", out),
        *(("--cache", cache) if cache else ()),
    ]
    output(*command, timeout=1500)
    digest = output("podman", "image", "inspect", "--format", "{{.Digest}}", f"{REGISTRY}/{target}:{version()}").strip()
    return f"{REGISTRY}/{target}@{digest}"


def version() -> str:
    """The project's version."""
    import tomllib

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def as_pod(
    image: str,
    *command: str,
    folders: Mapping[Path, str] | None = None,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """A `podman run` with what a restricted pod may do: no root, no capabilities, nothing writable but what is mounted.

    `folders` are mounted at the places given, read-only where those end in `:ro`.
    """
    return [
        *("podman", "--runtime", "runc", "run", "--network", "host", *LIMITS, "--read-only", "--tmpfs", "/tmp"),
        *("--user", f"{USER}:{USER}", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
        *(word for place, inside in (folders or {}).items() for word in ("--volume", f"{place}:{inside}")),
        *(word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")),
        *options,
        *(image, *command),
    ]


def run_as_pod(image: str, *command: str, **given: Any) -> str:
    """Runs a command in an image to its end; returns what it printed."""
    options = ("--rm", *given.pop("options", ()))
    return output(*as_pod(image, *command, options=options, **given), timeout=900)


def writable(folder: Path) -> Path:
    """A folder that the images' user owns, as a volume of a pod is."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, USER, USER)
    return folder


@dataclass(frozen=True, kw_only=True)
class Running:
    """A container that runs."""

    name: str

    def logs(self) -> str:
        """What it printed, both ways."""
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """What podman knows of it."""
        return dict(json.loads(output("podman", "inspect", self.name))[0]["State"])

    def until_answers(self, url: str) -> str:
        """Waits until it answers under an address; returns what it says."""

        def answer() -> str | None:
            try:
                with urllib.request.urlopen(url, timeout=60) as page:
                    return str(page.read().decode() or " ")
            except OSError:
                assert self.state()["Running"], self.logs()
                return None

        try:
            return eventually(answer, every_s=0.5).strip()
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.logs()}") from None

    def stop(self, grace_s: int) -> None:
        """SIGTERM, and SIGKILL after `grace_s`."""
        output("podman", "stop", "--time", str(grace_s), self.name)


@contextmanager
def running(image: str, *command: str, **given: Any) -> Iterator[Running]:
    """Starts a container as a pod would, which is gone at the end."""
    name = f"csm-test-{uuid.uuid4().hex[:8]}"
    options = ("--detach", "--name", name, *given.pop("options", ()))
    output(*as_pod(image, *command, options=options, **given))
    try:
        yield Running(name=name)
    finally:
        # One that ends by itself while podman kills it makes podman fail, and is gone at the next call.
        remove = ["podman", "rm", "--force", "--ignore", "--time", "0", name]
        eventually(lambda: subprocess.run(remove, capture_output=True, check=False).returncode == 0, f"{name} stays")
