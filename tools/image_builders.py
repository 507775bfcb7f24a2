"""The programs that build images, behind one face: docker, podman, buildah. `tools/images.py` uses it.

podman and buildah take the same options. docker mounts no folder of this machine into a build, and gives an image its
digest only when that is pushed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

NAMES = ("docker", "podman", "buildah")
EPOCH = 0
"""Seconds since 1970 that all files of a layer bear: with a commit's time, images of two commits would share none."""


class ImagesError(Exception):
    """Images cannot be built as asked; one line with the cure."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """One image to build."""

    context: Path
    """Folder that the build file copies from."""
    file: Path
    """The build file; what the context leaves out stands beside it, in `<file>.dockerignore`."""
    target: str
    """The stage that is the image."""
    image: str
    """Name and tag of the result."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Build arguments."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels beside those of the build file."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Files that the build may read and no image keeps, by name."""
    folders: Mapping[Path, bool] = field(default_factory=dict)
    """Folders of this machine that the build sees at the same place, and whether it may write to them."""
    isolation: str | None = None
    """How podman and buildah run a build's commands: `oci`, `chroot` or `rootless`; None: as they like."""


class Builder(Protocol):
    """What building needs of a program."""

    name: str

    def build(self, build: Build) -> None:
        """Builds one image; its output goes to the terminal."""

    def digest(self, image: str) -> str | None:
        """Digest of an image as it lies here; None where there is none."""

    def push(self, image: str) -> str:
        """Pushes; returns the digest by which the registry knows the image."""

    def read(self, image: str, path: str) -> bytes:
        """A file inside an image."""

    def size(self, image: str) -> int:
        """Bytes of an image as it lies here, unpacked."""


def output(*command: str | Path) -> bytes:
    """Standard output of a command; raises `ImagesError` with the last line of its complaint."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ImagesError(f"{_named(words)} ended with {done.returncode}: {said[-1] if said else '(no word)'}")
    return done.stdout


def ask(*command: str | Path) -> str:
    """What a command prints, in one piece."""
    return output(*command).decode().strip()


def show(*command: str | Path) -> None:
    """Runs a command whose output is for the terminal; raises `ImagesError`."""
    words = [str(word) for word in command]
    status = subprocess.run(words, check=False).returncode
    if status != 0:
        raise ImagesError(f"{_named(words)} ended with {status}; the lines above say why")


def _named(words: Sequence[str]) -> str:
    return f"`{' '.join(words[:3])} ...`"


def build_options(build: Build) -> list[str]:
    """Options that all three know."""
    return [
        *("--file", str(build.file), "--target", build.target, "--tag", build.image),
        *(word for name, value in build.arguments.items() for word in ("--build-arg", f"{name}={value}")),
        *(word for name, value in build.labels.items() for word in ("--label", f"{name}={value}")),
        *(word for name, path in build.secrets.items() for word in ("--secret", f"id={name},src={path}")),
    ]


class Docker:
    """docker with BuildKit."""

    name = "docker"

    def build(self, build: Build) -> None:
        """Builds one image; its output goes to the terminal."""
        if build.folders:
            raise ImagesError(
                f"docker mounts no folder into a build, and packages are to come from {next(iter(build.folders))}: set "
                "an index over http(s) in pip's configuration, or take --builder podman or buildah"
            )
        epoch = ("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}")
        show("docker", "buildx", "build", "--load", *epoch, *build_options(build), build.context)

    def digest(self, image: str) -> str | None:
        """What the registry knows it by, once it was pushed or pulled."""
        try:
            found = ask("docker", "image", "inspect", "--format", '{{join .RepoDigests " "}}', image).split()
        except ImagesError:
            return None
        return found[0].partition("@")[2] if found else None

    def push(self, image: str) -> str:
        """Pushes; returns the digest by which the registry knows the image."""
        show("docker", "push", image)
        digest = self.digest(image)
        if digest is None:
            raise ImagesError(f"docker knows no digest of {image} after it was pushed; push it again")
        return digest

    def read(self, image: str, path: str) -> bytes:
        """A file inside an image."""
        return _copied_out("docker", image, path)

    def size(self, image: str) -> int:
        """Bytes of an image as it lies here, unpacked."""
        return int(ask("docker", "image", "inspect", "--format", "{{.Size}}", image))


class Podman:
    """podman, whose builds are buildah's."""

    name = "podman"
    _build: Sequence[str] = ("podman", "build")

    def build(self, build: Build) -> None:
        """Builds one image; its output goes to the terminal."""
        command = [
            *(*self._build, "--layers", "--ignorefile", f"{build.file}.dockerignore"),
            *("--timestamp", str(EPOCH), *build_options(build)),
        ]
        if build.isolation:
            command += ["--isolation", build.isolation]
        for folder, writable in build.folders.items():
            command += ["--volume", f"{folder}:{folder}:{'rw' if writable else 'ro'}"]
        show(*command, build.context)

    def digest(self, image: str) -> str | None:
        """Digest of an image as it lies here; None where there is none."""
        try:
            return ask("podman", "image", "inspect", "--format", "{{.Digest}}", image)
        except ImagesError:
            return None

    def push(self, image: str) -> str:
        """Pushes; returns the digest by which the registry knows the image."""
        return _pushed(self.name, image)

    def read(self, image: str, path: str) -> bytes:
        """A file inside an image."""
        return _copied_out("podman", image, path)

    def size(self, image: str) -> int:
        """Bytes of an image as it lies here, unpacked."""
        return int(ask("podman", "image", "inspect", "--format", "{{.Size}}", image))


class Buildah(Podman):
    """buildah alone."""

    name = "buildah"
    _build = ("buildah", "build")

    def digest(self, image: str) -> str | None:
        """Digest of an image as it lies here; None where there is none."""
        try:
            return ask("buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", image)
        except ImagesError:
            return None

    @staticmethod
    def _inside(container: str) -> Sequence[str]:
        return ("buildah", "run", "--user", "0", "--isolation", "chroot", container)

    def read(self, image: str, path: str) -> bytes:
        """A file inside an image."""
        container = ask("buildah", "from", "--pull-never", image)
        try:
            return output(*self._inside(container), "cat", path)
        finally:
            ask("buildah", "rm", container)

    def size(self, image: str) -> int:
        """Bytes of an image as it lies here, unpacked; buildah says them only rounded, so the files are added up."""
        container = ask("buildah", "from", "--pull-never", image)
        try:
            return int(ask(*self._inside(container), "du", "-xsb", "/").split()[0])
        finally:
            ask("buildah", "rm", container)


def _pushed(program: str, image: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "digest"
        show(program, "push", "--digestfile", written, image)
        return written.read_text(encoding="utf-8").strip()


def _copied_out(program: str, image: str, path: str) -> bytes:
    container = ask(program, "create", image, "true")
    try:
        archive = subprocess.run([program, "cp", f"{container}:{path}", "-"], check=True, capture_output=True).stdout
    finally:
        ask(program, "rm", container)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        member = files.extractfile(files.getmembers()[0])
        assert member is not None, f"{path} is a file"
        return member.read()


def works(name: str) -> bool:
    """Whether a program is there and can build: docker needs its daemon."""
    if shutil.which(name) is None:
        return False
    question = [name, "info"] if name == "docker" else [name, "--version"]
    return subprocess.run(question, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def choose(name: str | None = None) -> Builder:
    """The named program, or the first that works. Raises `ImagesError`."""
    builders: dict[str, Builder] = {"docker": Docker(), "podman": Podman(), "buildah": Buildah()}
    if name is not None:
        if not works(name):
            raise ImagesError(f"{name} does not work here (`{name} info`): install or start it, or leave --builder out")
        return builders[name]
    for each in NAMES:
        if works(each):
            return builders[each]
    raise ImagesError("none of docker, podman and buildah works here: install one; on Debian: apt-get install buildah")
