"""The build file, read without building: bases, users, what a final stage may hold, and what reaches a build."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import images
import pytest

TEXT = images.FILE.read_text(encoding="utf-8")
IGNORED = images.FILE.with_name("Containerfile.dockerignore").read_text(encoding="utf-8")
EXTERNAL = {"${PYTHON_IMAGE}@${PYTHON_DIGEST}", "${TRITON_IMAGE}@${TRITON_DIGEST}"}


@dataclass(frozen=True)
class Stage:
    base: str
    instructions: list[tuple[str, str]]

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.instructions if name == instruction]


def read_stages(text: str) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    code = re.sub(r"\\\n", " ", "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")))
    for line in filter(str.strip, code.splitlines()):
        name, _, value = line.partition(" ")
        if name == "FROM":
            base, _, stage = value.partition(" AS ")
            current = stages[stage] = Stage(base, [])
        elif current is not None:
            current.instructions.append((name, value.strip()))
    return stages


STAGES = read_stages(TEXT)


def line_of(target: str) -> list[Stage]:
    """A stage and those that it is built on, itself first."""
    stage = STAGES[target]
    return [stage, *(line_of(stage.base) if stage.base in STAGES else [])]


def test_every_image_is_a_stage() -> None:
    assert set(images.TARGETS) <= set(STAGES)


def test_bases_are_named_by_digest_or_are_stages_before() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert stage.base in EXTERNAL | seen, f"stage {name} begins from {stage.base}"
        seen.add(name)
    assert "ARG PYTHON_DIGEST\n" in TEXT, "a default digest would be a base that nobody chose"
    assert f"ARG PYTHON_IMAGE={images.PYTHON_IMAGE}\n" in TEXT
    assert f"ARG TRITON_IMAGE={images.TRITON_IMAGE}\n" in TEXT


@pytest.mark.parametrize("target", images.TARGETS)
def test_an_image_ends_as_the_user(target: str) -> None:
    stage = STAGES[target]
    assert stage.values("USER") == ["10001:10001"]
    after = [name for name, _ in stage.instructions[[name for name, _ in stage.instructions].index("USER") :]]
    assert not {"RUN", "COPY"} & set(after)
    made = "\n".join(value for each in line_of(target) for value in each.values("RUN"))
    assert "csm:x:10001:10001:csm:/tmp:" in made
    assert "install -d -o 10001 -g 10001 /run/csm /models" in made


@pytest.mark.parametrize("target", images.TARGETS)
def test_an_image_has_its_labels_and_its_bill(target: str) -> None:
    labels = " ".join(value for each in line_of(target) for value in each.values("LABEL"))
    stated = {word.partition("=")[0] for word in shlex.split(labels)}
    assert {f"org.opencontainers.image.{name}" for name in ("title", "description", "source", "licenses")} <= stated
    assert f"--name {target} --out {images.BILL}" in " ".join(STAGES[target].values("RUN"))


@pytest.mark.parametrize("target", images.TARGETS)
def test_no_image_installs_from_elsewhere_than_the_lock(target: str) -> None:
    for stage in line_of(target):
        for run in stage.values("RUN"):
            words = set(re.sub(r"--\S+", "", run).split())
            assert words.isdisjoint({"apt-get", "apt", "curl", "wget", "git", "pip", "uv", "gcc", "make", "cmake"}), run
            for mount in re.findall(r"--mount=(\S+)", run):
                assert re.match(r"type=(bind,from=builder|secret|cache),?", mount), mount


def test_only_the_builder_and_the_stub_hold_what_builds() -> None:
    building = {
        name for name, stage in STAGES.items() if re.search(r"apt-get|hatchling", " ".join(stage.values("RUN")))
    }
    assert building == {"builder", "stub"}
    assert not building & {stage.base for stage in STAGES.values()}


def test_nothing_secret_is_an_argument() -> None:
    arguments = re.findall(r"^ARG (\w+)", TEXT, re.MULTILINE)
    assert set(arguments) == {"PYTHON_IMAGE", "PYTHON_DIGEST", "TRITON_IMAGE", "TRITON_DIGEST"}
    assert not re.search(r"index-url|extra-index|https?://(?!github\.com/)", TEXT, re.IGNORECASE)


def test_only_what_is_copied_reaches_a_build() -> None:
    lines = [line for line in IGNORED.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source
        for stage in STAGES.values()
        for value in stage.values("COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    }
    for source in copied:
        assert any(each == source or each.startswith(f"{source}/") for each in allowed), f"{source} is left out"
    root = images.ROOT
    assert all((root / each).exists() for each in allowed)
    carried = [
        path for each in allowed for path in ([root / each] if (root / each).is_file() else (root / each).rglob("*"))
    ]
    assert not [path for path in carried if path.suffix in {".safetensors", ".opus", ".wav", ".pt", ".onnx", ".bin"}]


def test_serving_images_serve_the_bundle_that_is_mounted() -> None:
    for target in ("serve", "serve-nvidia"):
        assert STAGES[target].values("CMD") == ['["csm", "serve", "/models/bundle", "--folder", "/run/csm"]']
        assert "CSM_SERVING_HOST=0.0.0.0" in " ".join(STAGES[target].values("ENV"))


def test_the_script_that_installs_checks_hashes_and_leaves_no_cache() -> None:
    script = (Path(images.FILE).parent / "install.sh").read_text(encoding="utf-8")
    for line in re.sub(r"\\\n", " ", script).splitlines():
        if "pip install" in line and "--project" not in line and "--offline" not in line:
            assert "--require-hashes" in line
            assert "--no-deps" in line
