"""Trees of objects in a folder: whole or not at all, and checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from csm_components.settings import Settings, load_settings, worker_count
from csm_components.storage import LocalStorage, open_storage
from csm_components.tree_list import TREE
from csm_model.errors import DigestError, InputError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "deep" / "er" / "weights.bin").write_bytes(bytes(range(256)) * 10)
    (folder / ".half.123.partial").write_text("never stored")
    return folder


def test_a_tree_comes_back_as_it_was(tmp_path: Path, tree: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    put = storage.put_tree(tree, "runs/1/ingest")
    got = storage.get_tree("runs/1/ingest", tmp_path / "back")
    assert put == got
    assert sorted(put["files"]) == ["deep/er/weights.bin", "manifest.json"]
    assert (tmp_path / "back/deep/er/weights.bin").read_bytes() == (tree / "deep/er/weights.bin").read_bytes()
    assert not list((tmp_path / "back").rglob("*.partial"))
    assert storage.get_tree("runs/1/ingest", tmp_path / "back") == put  # again: nothing to do


def test_some_files_of_a_tree_are_fetched_beside_what_is_there(tmp_path: Path, tree: Path) -> None:
    fetched: list[str] = []

    class Counting(LocalStorage):
        def get_file(self, key: str, path: Path) -> None:
            fetched.append(key)
            super().get_file(key, path)

    storage = Counting(tmp_path / "store")
    put = storage.put_tree(tree, "x")
    assert storage.read_tree("x") == put
    (tmp_path / "some").mkdir()
    (tmp_path / "some/mine").write_text("stays")
    fetched.clear()
    for _ in range(2):
        storage.get_files("x", {"manifest.json": put["files"]["manifest.json"]}, tmp_path / "some")
    assert fetched == ["x/manifest.json"]
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["manifest.json", "mine"]
    (tmp_path / "store/x/manifest.json").write_text("changed")
    with pytest.raises(DigestError, match=r"x/manifest\.json: its bytes are not those"):
        storage.get_files("x", put["files"], tmp_path / "all")
    assert not (tmp_path / "all/manifest.json").exists()


def test_the_list_is_written_last(tmp_path: Path, tree: Path) -> None:
    class Dying(LocalStorage):
        def put_file(self, path: Path, key: str) -> None:
            if key.endswith(TREE):
                raise KeyboardInterrupt
            super().put_file(path, key)

    with pytest.raises(KeyboardInterrupt):
        Dying(tmp_path / "store").put_tree(tree, "x")
    storage = LocalStorage(tmp_path / "store")
    with pytest.raises(InputError, match="no such tree"):
        storage.get_tree("x", tmp_path / "back")
    storage.put_tree(tree, "x")
    storage.get_tree("x", tmp_path / "back")


def test_storing_again_takes_only_what_changed(tmp_path: Path, tree: Path) -> None:
    stored: list[str] = []

    class Counting(LocalStorage):
        def put_file(self, path: Path, key: str) -> None:
            stored.append(key)
            super().put_file(path, key)

    storage = Counting(tmp_path / "store")
    storage.put_tree(tree, "x")
    stored.clear()
    storage.put_tree(tree, "x")
    assert stored == []
    (tree / "manifest.json").write_text('{"new": 1}')
    (tree / "deep/er/weights.bin").rename(tree / "other.bin")
    storage.put_tree(tree, "x")
    assert stored == ["x/manifest.json", "x/other.bin", f"x/{TREE}"]
    assert storage.list("x/") == [f"x/{TREE}", "x/manifest.json", "x/other.bin"]


def test_damaged_bytes_are_refused(tmp_path: Path, tree: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    storage.put_tree(tree, "x")
    (tmp_path / "store/x/manifest.json").write_text("{ }")
    with pytest.raises(DigestError, match=r"x/manifest\.json"):
        storage.get_tree("x", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_list_that_names_a_file_outside_is_refused(tmp_path: Path, tree: Path) -> None:
    from csm_model.files import digest_of

    storage = LocalStorage(tmp_path / "store")
    storage.put_tree(tree, "x")
    files = {"../../escape": {"sha256": "0" * 64, "size": 1}}
    listing = {"format": 1, "digest": digest_of(files), "files": files}
    (tmp_path / "store/x" / TREE).write_text(json.dumps(listing))
    with pytest.raises(DigestError, match="damaged"):
        storage.get_tree("x", tmp_path / "back")


def test_addresses(tmp_path: Path) -> None:
    none = Settings()
    assert isinstance(open_storage(str(tmp_path), none), LocalStorage)
    spaced = open_storage(f"file://{tmp_path}/with%20space", none)
    assert isinstance(spaced, LocalStorage)
    assert spaced.root.name == "with space"
    for url, message in (
        ("", "CSM_STORAGE"),
        ("ftp://host/x", "must be a folder"),
        ("s3://", "is no name"),
        ("file://host/x", "must be a folder"),
        ("s3://bucket", "CSM_S3_ENDPOINT, CSM_S3_ACCESS_KEY, CSM_S3_SECRET_KEY"),
    ):
        with pytest.raises(InputError, match=message):
            open_storage(url, none)
    with pytest.raises(InputError, match="relative"):
        LocalStorage(tmp_path).exists("../outside")


def test_settings_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_WORKERS", "many")
    with pytest.raises(InputError, match="CSM_WORKERS='many'"):
        load_settings()
    monkeypatch.setenv("CSM_WORKERS", "3")
    monkeypatch.setenv("CSM_S3_SECRET_KEY", "hush")
    assert worker_count() == 3
    assert worker_count(1) == 1
    assert "hush" not in repr(load_settings())
    with pytest.raises(InputError, match="-1 workers"):
        worker_count(-1)


def test_neither_storage_nor_settings_bring_torch() -> None:
    code = "import sys, csm_components.storage, csm_components.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
