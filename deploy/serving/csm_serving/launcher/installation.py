"""Finding what a local Triton needs: a server, and this Python's shared library.

The server is that of the `nvidia-pytriton` wheel, or one that lies elsewhere, as NVIDIA's image has it in
`/opt/tritonserver` (setting `triton`).

Triton's Python backend runs a model in a *stub*, a program that embeds Python: it needs `libpython3.X.so`, which many
builds of Python leave out, and takes its packages from the `python3` that comes first on PATH.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csm_model.errors import MissingDependencyError

WITHOUT_TRITON = "or speak without Triton: csm say --local"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Where the parts of a local Triton lie."""

    server: Path
    """The program `tritonserver`."""
    libraries: Path
    """The folder of shared libraries that came with it."""
    backend: Path
    """The Python backend: its shared library and its Python module."""
    stub: Path
    """The program that embeds this version of Python."""
    libpython: Path
    """The shared library of this version of Python."""


def find_installation(triton: Path | None = None) -> Installation:
    """Finds every part, of the Triton in the folder `triton` or of the wheel's.

    Raises `MissingDependencyError` that names the first missing part and its cure.
    """
    parts, cure = _of_folder(triton) if triton else _of_wheel()
    for name, path in parts.items():
        if not path.exists():
            raise MissingDependencyError(f"Triton's {name} is not at {path}: {cure}, {WITHOUT_TRITON}")
    found = Installation(**parts, libpython=find_libpython())
    if found.libpython.name.encode() not in found.stub.read_bytes():
        raise MissingDependencyError(
            f"{found.stub} was not compiled for Python {_VERSION} (it does not ask for {found.libpython.name}): "
            f"{cure}, {WITHOUT_TRITON}"
        )
    return found


def _of_wheel() -> tuple[dict[str, Path], str]:
    """Where the wheel's parts should be, and what helps where they are not."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "Triton is not installed (package nvidia-pytriton, Linux x86-64 only): install csm-foundry[serve], or name "
            f"the folder of another Triton in CSM_SERVING_TRITON, {WITHOUT_TRITON}"
        )
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    parts = {
        "server": root / "bin" / "tritonserver",
        "libraries": package.parent / "nvidia_pytriton.libs",
        "backend": root / "backends" / "python",
        "stub": root / "python_backend_stubs" / _VERSION / "triton_python_backend_stub",
    }
    return parts, f"install nvidia-pytriton 0.7 for Python {_VERSION}"


def _of_folder(root: Path) -> tuple[dict[str, Path], str]:
    """Where the parts of a Triton in `root` should be, as its own installation lays them out, and what helps."""
    backend = root / "backends" / "python"
    parts = {
        "server": root / "bin" / "tritonserver",
        "libraries": root / "lib",
        "backend": backend,
        "stub": backend / "triton_python_backend_stub",
    }
    return parts, f"let CSM_SERVING_TRITON name a whole Triton whose stub is compiled for Python {_VERSION}, or none"


def find_libpython() -> Path:
    """The shared library of this version of Python: this interpreter's own, else the system's, else another build's."""
    name = f"libpython{_VERSION}.so.1.0"
    for folder in _library_folders():
        path = folder / name
        if path.is_file():
            return path.resolve()
    raise MissingDependencyError(
        f"{name}, which Triton's Python backend embeds, was not found: `apt-get install libpython{_VERSION}` or "
        f"`uv python install {_VERSION}` brings it; {WITHOUT_TRITON}"
    )


def _library_folders() -> Iterator[Path]:
    """Folders that may hold libpython, the likeliest first."""
    yield Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    yield Path(sys.base_prefix) / "lib"
    ldconfig = shutil.which("ldconfig", path=os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"]))
    if ldconfig:
        listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            name, _, path = line.partition(" => ")
            if name.strip().startswith(f"libpython{_VERSION}.so") and "x86-64" in name:
                yield Path(path.strip()).parent
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib", "/usr/lib"):
        yield Path(folder)
    home = Path.home()
    pythons = (
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")),
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions",
    )
    for builds in pythons:
        if builds.is_dir():
            yield from sorted(path / "lib" for path in builds.glob(f"*{_VERSION}*"))


def write_search_folders(installation: Installation, folder: Path) -> tuple[Path, Path]:
    """Makes `<folder>/lib` with nothing but libpython in it, and a folder whose `python3` is this interpreter.

    Returns both: the first for LD_LIBRARY_PATH (the library's own folder may hold a whole distribution that would take
    the place of the server's libraries), the second for PATH.
    """
    lib = folder / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    _link(lib / installation.libpython.name, installation.libpython)
    beside = Path(sys.executable).parent
    python3 = beside / "python3"
    if python3.exists() and python3.resolve() == Path(sys.executable).resolve():
        return lib, beside
    bin_ = folder / "bin"
    bin_.mkdir(parents=True, exist_ok=True)
    _link(bin_ / "python3", Path(sys.executable).resolve())
    return lib, bin_


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
