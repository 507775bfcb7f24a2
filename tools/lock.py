"""Writes `requirements.lock` from `pyproject.toml`; `make lock` calls it. Needs uv and the package index.

Versions that stand in the lock already are kept where they still fit; `make lock ARGS=--upgrade` takes the newest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"

NOT_LOCKED = frozenset({"voices"})
"""Extras outside the one environment: `voices` is needed only to make the demo corpora again."""

DIGEST_LINE = "# dependencies of pyproject.toml: sha256:"

HEADER = f"""\
# Exact versions and hashes of every extra but {" and ".join(sorted(NOT_LOCKED))}, written by `make lock`; do not edit.
# For Python 3.11 on Linux x86-64 (glibc 2.35 or later). No index addresses: pip and uv take the one you have set.
#   pip install --no-deps --require-hashes -r requirements.lock
"""


def read_project() -> dict[str, Any]:
    """`pyproject.toml` as a dictionary."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def digest_of_dependencies(project: dict[str, Any]) -> str:
    """SHA-256 of all that decides what the lock holds; the same for the same requirements in another order."""
    extras = project["project"]["optional-dependencies"]
    deciding = {
        "python": project["project"]["requires-python"],
        "base": sorted(project["project"]["dependencies"]),
        "extras": {name: sorted(extras[name]) for name in sorted(extras) if name not in NOT_LOCKED},
        "overrides": sorted(project["tool"]["uv"]["override-dependencies"]),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def digest_in_lock(lock: str) -> str | None:
    """The digest that the lock was made for."""
    found = (line.removeprefix(DIGEST_LINE) for line in lock.splitlines() if line.startswith(DIGEST_LINE))
    return next(found, None)


def main(arguments: list[str]) -> int:
    """Resolves and writes the lock in one step; returns uv's exit code."""
    uv = Path(sys.executable).with_name("uv")
    project = read_project()
    extras = [name for name in project["project"]["optional-dependencies"] if name not in NOT_LOCKED]
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "requirements.lock"
        if LOCK.exists():
            shutil.copyfile(LOCK, draft)
        command = [
            *(str(uv) if uv.exists() else "uv", "pip", "compile", "pyproject.toml"),
            *(word for extra in extras for word in ("--extra", extra)),
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_35"),
            *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header", "--quiet"),
            *("--output-file", str(draft), *arguments),
        ]
        code = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode
        if code == 0:
            text = f"{HEADER}{DIGEST_LINE}{digest_of_dependencies(project)}\n{draft.read_text(encoding='utf-8')}"
            partial = LOCK.with_name(".requirements.lock.partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(LOCK)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
