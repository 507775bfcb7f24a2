"""Bundles between a pipeline run and the storage that outlives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from csm_components.storage import LocalStorage
from csm_components.trees.step import fetch, keep
from csm_model.bundle import read_manifest
from csm_model.errors import CsmError, InputError


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    monkeypatch.setenv("CSM_STORAGE", f"file://{tmp_path}/storage")
    return LocalStorage(tmp_path / "storage")


def test_a_bundle_is_kept_under_its_digest_once_and_fetched_whole(
    bundle: Path, storage: LocalStorage, tmp_path: Path
) -> None:
    digest = read_manifest(bundle)["digest"]
    first, again = keep(bundle), keep(bundle)
    assert first.url == f"file://{tmp_path}/storage/trained/{digest}"
    assert (first.reused, again.reused) == (False, True)
    assert storage.trees() == [f"trained/{digest}"]
    fetched = fetch(first.url, tmp_path / "fetched")
    assert fetched.digest == digest
    assert read_manifest(tmp_path / "fetched") == read_manifest(bundle)
    assert fetch(str(bundle), tmp_path / "copied").digest == digest


def test_what_is_no_bundle_or_is_damaged_is_refused(bundle: Path, storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        keep(tmp_path)
    kept = keep(bundle)
    weights = storage.root / "trained" / kept.digest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CsmError, match=r"model\.safetensors"):
        fetch(kept.url, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    with pytest.raises(InputError, match="no such tree"):
        fetch(f"{kept.url}0", tmp_path / "fetched")


def test_without_a_storage_nothing_can_be_kept(bundle: Path) -> None:
    with pytest.raises(InputError, match="set CSM_STORAGE"):
        keep(bundle)
