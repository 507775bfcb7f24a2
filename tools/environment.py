"""Makes `.venv` as `requirements.lock` says, once: `make` calls this before every target that needs it.

Standard library only. What was installed is written down last (`.venv/installed.json`), so a kill at any instant means
no more than that the next call goes on. uv (of the lock's version) installs where it can, pip where it cannot.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "installed.json"
GLIBC = (2, 35)
PYPI = "https://pypi.org/simple"  # what pip and uv take where no index is set


class SetupError(Exception):
    """The environment cannot be made; the message is one line that says why and what to do."""


def check_python(version: tuple[int, ...], path: str) -> None:
    """The lock is for Python 3.11."""
    if version[:2] != (3, 11):
        raise SetupError(
            f"{path} is Python {'.'.join(map(str, version[:3]))}; the lock is for Python 3.11; "
            "install python3.11, or name one: make PYTHON=/path/to/python3.11"
        )


def check_platform(system: str, machine: str, libc: tuple[str, str]) -> None:
    """The lock is for Linux on x86-64 with glibc 2.35 or later (Triton's wheel asks for it)."""
    if (system, machine) != ("Linux", "x86_64"):
        raise SetupError(
            f"this machine is {system} on {machine}; the lock is for Linux on x86_64; "
            "the client alone installs anywhere: pip install ."
        )
    name, version = libc
    found = re.match(r"(\d+)\.(\d+)", version)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    if name != "glibc" or numbers < GLIBC:
        raise SetupError(
            f"this machine's C library is {name or 'not glibc'} {version}".rstrip()
            + "; the lock is for glibc 2.35 or later (Debian 12, Ubuntu 22.04); use such a system"
        )


def state_wanted() -> dict[str, str]:
    """What `.venv` is made from; it is made again where one of these differs."""
    return {
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "place": str(VENV),
    }


def state_found() -> dict[str, str]:
    """What `.venv` was made from; empty where there is none, one that was not finished, or one whose Python is gone."""
    if not (VENV / "bin" / "python").exists():
        return {}
    try:
        found = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def requirement(name: str) -> str:
    """The lines of one package in the lock, with its hashes."""
    lines: list[str] = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}=="):
            lines = [line]
        elif lines and line.startswith("    --hash"):
            lines.append(line)
        elif lines:
            break
    if not lines:
        raise SetupError(f"requirements.lock has no {name}; write it again with `make lock`")
    return "\n".join(lines) + "\n"


def index_settings(pip_config: str) -> dict[str, str]:
    """pip's configuration (as `pip config list` prints it) in uv's own variables, since uv does not read it.

    Like pip, uv then takes a version from whichever index has it; the lock's hashes say which files are the right ones.
    Where several have it, uv, unlike pip, looks at the files of the first alone, and a mirror of a few files may hold
    the poorer wheel (soundfile's without its library): the main index, which holds them all, comes first.
    """
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for line in pip_config.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in {"global", "install", ":env:"} and option in names:
            words = str(ast.literal_eval(value)).split()
            settings[names[option]] = ("," if option == "find-links" else " ").join(words)
    if "UV_INDEX" in settings:
        settings["UV_INDEX"] = f"{settings.get('UV_DEFAULT_INDEX', PYPI)} {settings['UV_INDEX']}"
    return settings


def run(*command: str | Path, env: dict[str, str] | None = None) -> bool:
    """Runs a command in the repository; True where it ended well."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, env=env, check=False).returncode == 0


def make_venv() -> None:
    """An empty `.venv` of this Python; keeps one that is there, works and was not moved."""
    python = VENV / "bin" / "python"
    moved = state_found().get("place", str(VENV)) != str(VENV)
    probe = "import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))"
    if not moved and python.exists() and run(python, "-c", probe):
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    if not run(sys.executable, "-m", "venv", VENV):
        raise SetupError(
            f"{sys.executable} cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3.11-venv"
        )


def install_packages() -> None:
    """Everything in the lock, by uv where it works, else by pip. Both check every hash."""
    pip = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    hashed = ["--no-deps", "--require-hashes"]
    quiet = [] if sys.stdout.isatty() else ["--quiet"]  # a log has no use for a line a package
    config = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    env = {"UV_HTTP_TIMEOUT": "180", **index_settings(config), **os.environ, "VIRTUAL_ENV": str(VENV)}
    with tempfile.TemporaryDirectory() as folder:
        uv_alone = Path(folder) / "uv.txt"
        uv_alone.write_text(requirement("uv"), encoding="utf-8")
        by_uv = run(*pip, "install", "-q", *hashed, "-r", uv_alone) and run(
            VENV / "bin" / "uv", "pip", "sync", *quiet, "--require-hashes", LOCK, env=env
        )
    if not by_uv:
        print("uv could not install the packages; pip goes on, more slowly", flush=True)
        if not run(*pip, "install", *quiet, *hashed, "-r", LOCK):
            raise SetupError(
                "the packages could not be installed (the lines above say why); run the same command again"
            )


def install_project() -> None:
    """csm-foundry itself, editable, built by the lock's own hatchling: nothing is fetched."""
    python = VENV / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    if not run(python, "-m", "pip", "install", *options, "--editable", ROOT):
        raise SetupError("csm-foundry itself could not be installed; the lines above say why")


def main() -> None:
    """Brings `.venv` to what the lock and pyproject.toml say; says nothing where it is there already."""
    wanted, found = state_wanted(), state_found()
    if found == wanted:
        return
    check_python(sys.version_info[:3], sys.executable)
    check_platform(platform.system(), platform.machine(), platform.libc_ver())
    with LOCK.open(encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits, then finds it done
        if state_found() == wanted:
            return
        started = time.monotonic()
        if (found.get("lock"), found.get("place")) != (wanted["lock"], wanted["place"]):
            print("Setting up .venv (once; about 5 GB to fetch, 9 GB on disk)", flush=True)
            make_venv()
            STAMP.unlink(missing_ok=True)
            install_packages()
        install_project()
        partial = STAMP.with_suffix(".partial")
        partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        partial.replace(STAMP)
        print(f".venv is ready ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: stopped; run the same command again, it goes on from here", file=sys.stderr)
        sys.exit(130)
