"""Finding Triton and libpython, and saying in one line what is missing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import eventually

from csm_model.errors import ArtifactError, InputError, MissingDependencyError
from csm_serving.client import SpeechClient
from csm_serving.client.load_report import scrape
from csm_serving.launcher import installation
from csm_serving.launcher.installation import find_installation, find_libpython, write_search_folders
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server import repository
from csm_serving.settings import load_settings


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_every_part_is_found() -> None:
    found = find_installation()
    assert os.access(found.server, os.X_OK)
    assert os.access(found.stub, os.X_OK)
    assert found.libraries.is_dir()
    assert (found.backend / "libtriton_python.so").is_file()
    assert found.libpython.name.startswith(f"libpython3.{sys.version_info.minor}")


def test_without_the_wheel_one_line_names_the_cure(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setitem(sys.modules, "pytriton", None)
    with (
        pytest.raises(MissingDependencyError, match=r"nvidia-pytriton.*csm say --local"),
        LocalTriton(bundle, settings=load_settings()),
    ):
        pass


def as_in_nvidias_image(root: Path, *, python: str = f"3.{sys.version_info.minor}") -> Path:
    """The wheel's Triton, laid out as `/opt/tritonserver` is, with the stub of this version of Python."""
    wheel = find_installation()
    backend = root / "backends" / "python"
    shutil.copytree(wheel.backend, backend)
    shutil.copy2(wheel.stub.parents[1] / python / wheel.stub.name, backend)
    (root / "bin").mkdir()
    (root / "bin" / "tritonserver").symlink_to(wheel.server)
    (root / "lib").symlink_to(wheel.libraries)
    return root


def test_a_triton_that_lies_elsewhere_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    root = as_in_nvidias_image(tmp_path / "tritonserver")
    monkeypatch.setenv("CSM_SERVING_TRITON", str(root))
    settings = load_settings(host="::", grpc_port=0, http_port=0, metrics_port=0, ready_timeout_s=300)
    with (
        LocalTriton(make_bundle(tmp_path), settings=settings) as triton,
        SpeechClient(triton.url) as client,
    ):
        assert Path(f"/proc/{triton.pid}/cmdline").read_bytes().split(b"\0")[0].decode() == f"{root}/bin/tritonserver"
        assert sum(1 for _ in client.stream("Good morning.", max_frames=3)) == 3
        assert triton.url == f"[::]:{triton.ports['grpc']}"
        eventually(lambda: scrape(triton.metrics_url)["csm_live_streams"] == 0)


def test_a_log_that_is_passed_on_has_the_audit_and_the_reason_of_a_failure(
    tmp_path: Path, make_bundle: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path)
    folder = tmp_path / "serving"
    settings = load_settings(
        grpc_port=0, http_port=0, metrics_port=0, host="localhost", ready_timeout_s=300, log="stderr"
    )
    with LocalTriton(bundle, settings=settings, folder=folder) as triton, SpeechClient(triton.url) as client:
        assert sum(1 for _ in client.stream("Good morning.", max_frames=3)) == 3
    said = capfd.readouterr().err
    assert "Started GRPCInferenceService" in said
    assert 'audit {\\"time\\"' in said
    assert not (folder / "triton.log").exists()
    weights = next(bundle.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=weights.name), LocalTriton(bundle, settings=settings, folder=folder):
        pass


def test_a_folder_that_may_not_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path
) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)  # root may write anywhere
    with pytest.raises(InputError, match="serving: no leave to write there; give another --folder"):
        LocalTriton(bundle, settings=load_settings(), folder=tmp_path / "serving").start()


def test_a_triton_elsewhere_whose_part_is_missing_is_named(tmp_path: Path) -> None:
    root = as_in_nvidias_image(tmp_path / "tritonserver")
    (root / "lib").unlink()
    with pytest.raises(MissingDependencyError, match=rf"libraries is not at {root}/lib: let CSM_SERVING_TRITON name"):
        find_installation(root)


def test_a_stub_of_another_python_is_refused(tmp_path: Path) -> None:
    root = as_in_nvidias_image(tmp_path / "tritonserver", python="3.10")
    with pytest.raises(MissingDependencyError, match=r"was not compiled for Python 3\.11 .*CSM_SERVING_TRITON"):
        find_installation(root)


def test_libpython_of_another_build_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "python/cpython-x/lib" / find_libpython().name
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(installation, "_library_folders", lambda: iter([tmp_path, library.parent]))
    assert find_libpython() == library


def test_without_libpython_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation, "_library_folders", lambda: iter([tmp_path]))
    with pytest.raises(MissingDependencyError, match=r"apt-get install libpython3.*csm say --local"):
        find_libpython()


def test_the_stub_finds_this_interpreter_and_no_other_library(tmp_path: Path) -> None:
    lib, bin_ = write_search_folders(find_installation(), tmp_path)
    assert [path.name for path in lib.iterdir()] == [find_libpython().name]
    code = "import sys; print(sys.version_info[:2], sys.prefix)"
    for python in (bin_ / "python3", Path(sys.executable)):
        said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
        assert said == f"{sys.version_info[:2]} {sys.prefix}\n"


@pytest.mark.parametrize("option", ["grpc_port", "http_port", "metrics_port"])
def test_a_port_in_use_is_named_with_its_option(bundle: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load_settings(**{"grpc_port": 0, "http_port": 0, "metrics_port": 0} | {option: port})
        with (
            pytest.raises(MissingDependencyError, match=f"port {port} .*--{option.replace('_', '-')}"),
            LocalTriton(bundle, settings=settings),
        ):
            pass


def test_a_folder_without_a_bundle_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"no bundle there.*manifest\.json"),
        LocalTriton(tmp_path, settings=load_settings()),
    ):
        pass


def test_settings_out_of_range_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"slots = 0: .*CSM_SERVING_SLOTS"):
        load_settings(slots=0)
    monkeypatch.setenv("CSM_SERVING_GRPC_PORT", "many")
    with pytest.raises(InputError, match="grpc_port = 'many'"):
        load_settings()


def test_the_repository_in_deploy_is_the_one_that_is_written(tmp_path: Path) -> None:
    repository.write_repository(tmp_path)
    kept = Path(__file__).parents[2] / "deploy" / "triton"
    for written in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert written.read_text() == (kept / written.relative_to(tmp_path)).read_text(), written
