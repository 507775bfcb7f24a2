"""The client's own distribution: what is in it, what it asks for, and that it speaks with nothing else installed."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stand_in import TEXT, StandIn

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "deploy" / "serving" / "client"
LIGHT = {"csm_model", "csm_model.errors", "csm_model.files", "csm_model.frames"}
"""What the client takes of csm_model; no torch in it."""

SPEAK = """
import asyncio, sys
from csm_serving.client import AsyncSpeechClient, SpeechClient

async def hear(url, text):
    async with AsyncSpeechClient(url) as client:
        return [chunk async for chunk in client.stream(text)]

url, text = sys.argv[1:]
with SpeechClient(url) as client:
    chunks = list(client.stream(text))
assert [chunk.codes.tolist() for chunk in chunks] == [chunk.codes.tolist() for chunk in asyncio.run(hear(url, text))]
heavy = {"torch", "pydantic", "typer", "rich", "minio", "soundfile", "av"} & set(sys.modules)
print(len(chunks), sum(chunk.audio.size for chunk in chunks), sorted(heavy))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=CLIENT, check=True, capture_output=True)
    (built,) = out.glob("csm_client-*.whl")
    return built


def needed(wheel: Path) -> Iterator[importlib.metadata.Distribution]:
    """What the wheel asks for, and what that asks for, in the versions of this environment, which are the lock's."""
    metadata = zipfile.ZipFile(wheel).read(f"{wheel.name.rsplit('-', 3)[0]}.dist-info/METADATA").decode()
    waiting = [(Requirement(line), "") for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        found = importlib.metadata.distribution(requirement.name)
        assert found.version in requirement.specifier
        for asked in {"", *requirement.extras}:
            if (key := (canonicalize_name(requirement.name), asked)) not in seen:
                seen.add(key)
                waiting += [(Requirement(line), asked) for line in found.requires or ()]
                if not asked:
                    yield found


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the client is installed, with what it asks for and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    offline = [uv, "pip", "install", "-q", "--offline", "--no-deps", "--python", python]
    subprocess.run([*offline, wheel], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for distribution in needed(wheel):
        files = [PurePosixPath(str(file)) for file in distribution.files or () if ".." not in file.parts]
        for name in {file.parts[0] for file in files}:
            source = Path(str(distribution.locate_file(name)))
            if name.endswith(".dist-info"):
                shutil.copytree(source, site / name)  # uv looks at no links
            elif not (site / name).exists():  # several may share a folder
                (site / name).symlink_to(source)
    subprocess.run([uv, "pip", "check", "-q", "--python", python], check=True)
    return python


def test_it_holds_what_the_client_imports_and_no_more(wheel: Path) -> None:
    graph = grimp.build_graph("csm_model", "csm_serving", cache_dir=None)
    modules = {"csm_serving.client"} | graph.find_descendants("csm_serving.client")
    closure = set().union(*(graph.find_upstream_modules(module) for module in modules)) | modules
    closure |= {module.rpartition(".")[0] for module in closure if "." in module}
    others = {m for m in closure if m != "csm_serving" and not m.startswith(("csm_serving.client", "csm_serving.wire"))}
    assert others == LIGHT
    held = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in zipfile.ZipFile(wheel).namelist()
        if name.endswith(".py")
    }
    assert held == closure


def test_its_version_and_bounds_are_those_of_the_whole() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    client = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert client["version"] == whole["version"]
    assert {"tritonclient[grpc]>=2.60,<3"} <= set(client["dependencies"]) & set(whole["dependencies"])
    bounds = [line for extra in client["optional-dependencies"].values() for line in extra]
    assert set(bounds) <= {*whole["dependencies"], *whole["optional-dependencies"]["serve"]}


def test_it_speaks_with_nothing_else_installed(alone: Path, server: StandIn, tmp_path: Path) -> None:
    done = subprocess.run(
        [alone, "-I", "-c", SPEAK, server.url, TEXT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == ["10", "19200", "[]\n"]


def test_what_it_has_not_is_said_in_one_line(alone: Path, server: StandIn, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from csm_model.errors import MissingDependencyError\n"
        "from csm_serving.client import SpeechClient\n"
        "with SpeechClient(sys.argv[1]) as client:\n"
        "    for asked in ({'path': Path('a.wav')}, {'encoding': 'opus'}):\n"
        "        try:\n"
        "            client.say('one two', **asked)\n"
        "        except MissingDependencyError as error:\n"
        "            print(error)\n"
    )
    done = subprocess.run(
        [alone, "-I", "-c", program, server.url], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert "pip install soundfile" in first
    assert "pip install av" in second
    assert list(tmp_path.iterdir()) == []
