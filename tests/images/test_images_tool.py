"""`make images`: what it refuses, and what it makes of where packages come from."""

from __future__ import annotations

from pathlib import Path

import image_builders
import images
import pytest
import yaml
from image_builders import Build, Docker, ImagesError

DIGEST = "sha256:" + "0" * 63 + "1"


@pytest.fixture
def a_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs alone on PATH: a buildah that has no image."""
    program = tmp_path / "bin" / "buildah"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no such image" >&2\nexit 125\n')
    program.chmod(0o755)
    git = program.with_name("git")
    git.write_text("#!/bin/sh\nexit 128\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program.parent


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert images.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


@pytest.mark.usefixtures("a_builder")
def test_a_base_without_a_digest_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys)
    assert line == (
        f"error: {images.PYTHON_IMAGE} is not named by its digest: give --python-digest sha256:..., or --local-base "
        "for the one that lies here"
    )
    line = refusal(capsys, "serve-nvidia", "--python-digest", DIGEST)
    assert "--triton-digest" in line


@pytest.mark.usefixtures("a_builder")
@pytest.mark.parametrize("digest", ["latest", "sha256:12", "3.11-slim", f"{DIGEST}0"])
def test_what_is_no_digest_is_refused(capsys: pytest.CaptureFixture[str], digest: str) -> None:
    assert "is no digest: give sha256: and 64 hexadecimal digits" in refusal(capsys, "--python-digest", digest)


@pytest.mark.usefixtures("a_builder")
def test_a_local_base_that_is_not_here_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "--local-base", "--python-image", "localhost/none")
    assert line.startswith("error: buildah has no image localhost/none with a digest here: pull or import it")


@pytest.mark.usefixtures("a_builder")
def test_an_image_that_there_is_not_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "server") == (
        "error: server is no image: choose of data, train, serve, serve-nvidia, tracking"
    )


@pytest.mark.usefixtures("a_builder")
def test_a_program_that_is_not_here_is_refused(capsys: pytest.CaptureFixture[str], a_builder: Path) -> None:
    assert "docker does not work here" in refusal(capsys, "--builder", "docker", "--python-digest", DIGEST)
    (a_builder / "buildah").unlink()
    assert refusal(capsys).startswith("error: none of docker, podman and buildah works here: install one")


@pytest.mark.usefixtures("a_builder")
def test_a_tree_without_history_is_told_what_to_give(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(capsys, "--python-digest", DIGEST).endswith("has no git history: set SOURCE_DATE_EPOCH")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert "SOURCE_DATE_EPOCH is 'yesterday': give whole seconds" in refusal(capsys, "--python-digest", DIGEST)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert refusal(capsys, "--python-digest", DIGEST).endswith("has no git history: give --revision")


def test_packages_come_from_where_pip_is_told(tmp_path: Path) -> None:
    index, wheels = tmp_path / "mirror" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    config = (
        "global.index-url='https://mirror.example/simple'\n"
        f"global.extra-index-url='file://{index}'\n"
        f"global.find-links='{wheels} /not/there'\n"
        "global.cert='/etc/ssl/own.crt'\n"
    )
    cache = tmp_path / "cache"
    settings, folders = images.index_settings(config, cache)
    assert settings["UV_DEFAULT_INDEX"] == settings["PIP_INDEX_URL"] == "https://mirror.example/simple"
    assert settings["PIP_FIND_LINKS"] == f"{wheels} /not/there"
    assert settings["UV_CACHE_DIR"] == str(cache)
    assert folders == {index.parent: False, wheels: False, cache: True}
    assert images.certificates(config) == Path("/etc/ssl/own.crt")
    assert images.index_settings("", None)[1] == {}
    assert images.certificates("") is None


def test_docker_is_not_asked_to_mount_a_folder(tmp_path: Path) -> None:
    build = Build(context=tmp_path, file=images.FILE, target="data", image="x", folders={tmp_path: False})
    with pytest.raises(ImagesError, match=r"docker mounts no folder into a build.*set an index over http"):
        Docker().build(build)


def test_options_carry_secrets_by_file_alone(tmp_path: Path) -> None:
    secret = tmp_path / "index"
    secret.write_text("PIP_INDEX_URL=https://someone:password@mirror.example/simple\n")
    build = Build(context=tmp_path, file=images.FILE, target="data", image="x", secrets={"index": secret})
    words = image_builders.build_options(build)
    assert f"id=index,src={secret}" in words
    assert "password" not in " ".join(words)


def test_values_name_images_by_their_digests() -> None:
    digests = {name: f"sha256:{number:064x}" for number, name in enumerate(("data", "train", "serve", "tracking"))}
    texts = images.fragments(digests, "registry.example/csm")
    assert yaml.safe_load(texts["profile.yaml"]) == {
        "images": {
            "data": f"registry.example/csm/data@{digests['data']}",
            "train": f"registry.example/csm/train@{digests['train']}",
        }
    }
    assert yaml.safe_load(texts["csm-serving.yaml"]) == {
        "image": {"repository": "registry.example/csm/serve", "digest": digests["serve"]}
    }
    assert yaml.safe_load(texts["csm-platform.yaml"])["image"]["repository"] == "registry.example/csm/tracking"
    assert set(images.fragments({"data": DIGEST}, "r")) == {"profile.yaml"}
