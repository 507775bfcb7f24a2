"""The program of the steps by the digest of its sources: what another program has made is not taken."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from csm_model.files import digest_of, digest_of_file

_PACKAGES = ("csm_model", "csm_serving", "csm_components")
"""`csm_pipelines` only says what steps are given, which is in their keys."""


@cache
def code_digest() -> str:
    """Digest of the installed packages' sources."""
    files = {}
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{package}/{path.relative_to(root).as_posix()}"] = digest_of_file(path)
    return digest_of(files)


def code_version() -> str:
    """Version of the program, with the digest of its sources."""
    return f"{version('csm-foundry')}+{code_digest()[:12]}"


def torch_version() -> str:
    """Version of torch, whose numbers are not those of another; empty where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
