"""The house itself: the lock fits pyproject.toml, the right packages are there, the wheel holds code."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import environment
import lock
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = lock.read_project()
LOCKED = {
    canonicalize_name(match[1]): match[2]
    for match in re.finditer(r"^([A-Za-z0-9._-]+)==(\S+)", lock.LOCK.read_text(encoding="utf-8"), re.MULTILINE)
}
EXTRAS = {
    name: rows for name, rows in PROJECT["project"]["optional-dependencies"].items() if name not in lock.NOT_LOCKED
}
REQUIREMENTS = sorted({*PROJECT["project"]["dependencies"], *(row for rows in EXTRAS.values() for row in rows)})


def test_the_lock_was_made_from_these_dependencies() -> None:
    made_for = lock.digest_in_lock(lock.LOCK.read_text(encoding="utf-8"))
    assert made_for == lock.digest_of_dependencies(PROJECT), (
        "requirements.lock is not of this pyproject.toml: make lock"
    )


@pytest.mark.parametrize("row", REQUIREMENTS)
def test_every_dependency_is_locked_at_a_version_that_fits(row: str) -> None:
    requirement = Requirement(row)
    on_linux = default_environment() | {
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "python_version": "3.11",
    }
    if requirement.marker is not None and not requirement.marker.evaluate(on_linux):
        return
    version = LOCKED.get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in requirements.lock: make lock"
    assert requirement.specifier.contains(version, prereleases=True), (
        f"{requirement.name} {version} is not {requirement.specifier}"
    )


def test_the_lock_names_hashes_and_no_index() -> None:
    text = lock.LOCK.read_text(encoding="utf-8")
    pinned = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert len(pinned) == len(LOCKED)
    assert [block.splitlines()[0] for block in pinned if "--hash=sha256:" not in block] == []
    assert not re.search(r"https?://|file://|--(?:extra-)?index-url|--find-links", text)


def test_the_lock_leaves_out_what_would_not_build() -> None:
    """`webrtcvad` needs a C compiler, `typing` shadows the standard library's, bare `torchx` is a broken release."""
    assert {"webrtcvad", "typing", "torchx"}.isdisjoint(LOCKED)
    assert LOCKED["numpy"].startswith("1.26."), "numpy 2 kills Triton's Python stub at the first BYTES input"


def test_torchx_is_the_nightly() -> None:
    """Both fill one folder, and the newest `torchx` that resolves here is 0.3.0, which Python 3.11 cannot import."""
    installed = {canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    assert "torchx" not in installed, "pip uninstall torchx torchx-nightly, then make env"
    assert importlib.metadata.version("torchx-nightly") == LOCKED["torchx-nightly"]


def test_a_wheel_holds_every_package(tmp_path: Path) -> None:
    """Sesame's setup.py builds a wheel without any code in it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("csm_model", "csm_serving", "csm_scaling", "csm_components", "csm_pipelines", "csm_cli"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    text = zipfile.ZipFile(wheel).read(licence).decode()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"])
def test_the_readme_leads_to_what_a_newcomer_looks_for(name: str) -> None:
    assert f"]({name})" in (ROOT / "README.md").read_text(encoding="utf-8")
    text = (ROOT / name).read_text(encoding="utf-8")
    missing = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if not (ROOT / target).exists()]
    assert missing == []


def test_a_client_carries_no_torch() -> None:
    """The base install is a client; what only extras bring must not be imported with it."""
    program = (
        "import csm_serving.client, csm_serving.client.aio, csm_serving.client.load_report, json, sys; "
        "print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint(
        {"torch", "torchaudio", "scipy", "mlflow", "kfp", "lhotse", "torchx", "moshi", "transformers"}
    )


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 12, 3)])
def test_another_python_is_refused_in_one_line(version: tuple[int, ...]) -> None:
    with pytest.raises(
        environment.SetupError, match=r"is Python 3\.1\d\.\d; the lock is for Python 3\.11; install python3\.11"
    ):
        environment.check_python(version, "/usr/bin/python3")
    environment.check_python((3, 11, 0), "/usr/bin/python3.11")


@pytest.mark.parametrize(
    ("system", "machine", "libc", "message"),
    [
        ("Darwin", "arm64", ("", ""), "this machine is Darwin on arm64; the lock is for Linux on x86_64"),
        ("Linux", "aarch64", ("glibc", "2.36"), "Linux on aarch64"),
        ("Linux", "x86_64", ("glibc", "2.31"), r"glibc 2\.31; the lock is for glibc 2\.35 or later"),
        ("Linux", "x86_64", ("", ""), "not glibc; the lock is for glibc"),
    ],
)
def test_another_platform_is_refused_in_one_line(
    system: str, machine: str, libc: tuple[str, str], message: str
) -> None:
    with pytest.raises(environment.SetupError, match=message):
        environment.check_platform(system, machine, libc)


@pytest.mark.parametrize("version", ["2.35", "2.36", "2.41-1", "3.0"])
def test_newer_c_libraries_pass(version: str) -> None:
    environment.check_platform("Linux", "x86_64", ("glibc", version))


def test_uv_is_told_what_pip_is_told() -> None:
    config = """\
global.cert='/etc/ssl/ca.crt'
global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'
install.find-links='/wheels /more'
:env:.index-url='https://mirror.example/simple'
wheel.index-url='https://not.this/simple'
"""
    assert environment.index_settings(config) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INDEX": "https://mirror.example/simple https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
    }


def test_pypi_comes_before_other_indexes_in_uv() -> None:
    config = "global.extra-index-url='https://few.example/simple'"
    assert environment.index_settings(config)["UV_INDEX"] == "https://pypi.org/simple https://few.example/simple"
    assert "UV_INDEX" not in environment.index_settings("global.timeout='60'")


def test_one_package_is_cut_out_of_the_lock_with_its_hashes() -> None:
    lines = environment.requirement("uv").splitlines()
    assert lines[0] == f"uv=={LOCKED['uv']} \\"
    assert all(line.startswith("    --hash=sha256:") for line in lines[1:])
    assert len(lines) > 1
    assert not lines[-1].endswith("\\")
    with pytest.raises(environment.SetupError, match="has no absent-package"):
        environment.requirement("absent-package")


def test_every_target_of_make_has_a_line_of_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert [line.split()[1] for line in shown.splitlines()] == targets
    assert {"run", "test", "check", "bench", "clean"} <= set(targets)
    assert all(len(line.split()) > 4 for line in shown.splitlines())


def test_make_without_a_fitting_python_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "env", f"PYTHON={tmp_path}/python3.12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(
        f"error: no Python 3.11 among: {tmp_path}/python3.12; install python3.11"
    )
