"""Bundles between a pipeline run and the storage that outlives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from csm_components.artefacts import Artefact
from csm_components.job import StepJob
from csm_components.kubeflow import KubeflowTask
from csm_components.made import Record
from csm_components.spec import StepSpec
from csm_components.steps import store
from csm_components.storage import LocalStorage
from csm_components.train.spec import TRAIN
from csm_model.bundle import read_manifest
from csm_model.errors import CsmError, InputError
from csm_model.files import copy_file


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


def keep(bundle: Path, storage: LocalStorage, scratch: Path) -> Artefact:
    """What a training made, as its step stores it."""
    job = StepJob(spec=TRAIN, scratch=scratch)
    for path in bundle.rglob("*"):
        if path.is_file():
            copy_file(path, job.out("bundle") / path.relative_to(bundle))
    digest = read_manifest(bundle)["digest"]
    return store(job, {"digest": digest}, storage, f"file://{storage.root}")["bundle"]


def test_a_bundle_is_kept_under_its_digest_once_and_fetched_whole(
    bundle: Path, storage: LocalStorage, tmp_path: Path
) -> None:
    digest = read_manifest(bundle)["digest"]
    first = keep(bundle, storage, tmp_path / "one")
    before = (storage.root / "trained" / digest / ".tree.json").stat().st_mtime_ns
    assert keep(bundle, storage, tmp_path / "two") == first
    assert (storage.root / "trained" / digest / ".tree.json").stat().st_mtime_ns == before
    assert first.url == f"file://{tmp_path}/storage/trained/{digest}"
    assert storage.trees() == [f"trained/{digest}"]
    fetched = first.fetch(tmp_path / "fetched")
    assert read_manifest(fetched) == read_manifest(bundle)
    assert Artefact(url=str(bundle)).fetch(tmp_path / "copied") == bundle, "a folder is read where it lies"


def test_what_is_no_bundle_or_is_damaged_is_refused(bundle: Path, storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        store(StepJob(spec=TRAIN, scratch=tmp_path / "empty"), {"digest": "0"}, storage, str(storage.root))
    kept = keep(bundle, storage, tmp_path / "one")
    weights = storage.root / "trained" / kept.digest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CsmError, match=r"model\.safetensors"):
        kept.fetch(tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    with pytest.raises(InputError, match="no such tree"):
        Artefact(url=f"{kept.url}0").fetch(tmp_path / "fetched")


def test_without_a_storage_nothing_can_be_kept(tmp_path: Path) -> None:
    spec: StepSpec = TRAIN
    outputs = {"artifacts": {"bundle": {"artifacts": [{"name": "bundle", "uri": str(tmp_path / "b")}]}}}
    with pytest.raises(InputError, match="set CSM_STORAGE"):
        KubeflowTask({"outputs": {**outputs, "outputFile": str(tmp_path / "out")}}).leave(
            spec, Record(step="train", result={})
        )
