"""Weights of 4 bits are served where a gate has passed them, and else not without being told to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from csm_model.bundle import Bundle, load_bundle, read_manifest, write_bundle
from csm_model.errors import ArtifactError
from csm_model.files import read_json, write_json
from csm_model.verdict import VERDICT, check_int4, write_verdict

BOUNDS = {"wer": 0.15, "wer_int8_delta": 0.02}


@pytest.fixture(scope="module")
def small(bundle: Bundle, codec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "int4"
    write_bundle(folder, model=bundle.model, tokenizer=bundle.tokenizer, codec_folder=codec_folder, precision="int4",
                 info={})  # fmt: skip
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "int4"))


def judge(folder: Path, *, misses: list[str] | None = None, bounds: dict[str, float] | None = None) -> None:
    digest = read_manifest(folder)["digest"]
    write_verdict(folder, bundle=digest, misses=misses or [], figures={"wer": 0.1}, bounds=bounds or BOUNDS)


def test_a_bundle_that_passed_is_served_and_stays_whole(folder: Path) -> None:
    judge(folder)
    assert check_int4(folder, None) is None
    assert read_json(folder / VERDICT)["passed"] is True
    assert load_bundle(folder).manifest["precision"] == "int4"


def test_without_a_verdict_it_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no gate has judged them.*serve int8, or set CSM_SERVING_UNGATED_INT4"):
        check_int4(folder, None)
    said = check_int4(folder, None, allow=True)
    assert said is not None
    assert "no gate has judged them" in said
    assert "\n" not in said


def test_every_other_fault_of_a_verdict_is_named(folder: Path) -> None:
    judge(folder, misses=["wer 0.230 misses at most 0.15 by 0.080"])
    with pytest.raises(ArtifactError, match=r"has not passed them: wer 0\.230 misses"):
        check_int4(folder, None)
    judge(folder, bounds={"wer": 0.15})
    with pytest.raises(ArtifactError, match="has not compared them with their float parent"):
        check_int4(folder, "int4")
    judge(folder)
    write_json(folder / VERDICT, read_json(folder / VERDICT) | {"bundle": "0" * 64})
    with pytest.raises(ArtifactError, match="is of another bundle"):
        check_int4(folder, None)
    write_json(folder / VERDICT, [])
    with pytest.raises(ArtifactError, match="is no verdict"):
        check_int4(folder, None)
    (folder / VERDICT).write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        check_int4(folder, None)


def test_rounding_on_loading_is_judged_by_nobody_and_other_weights_need_no_verdict(bundle_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="rounded on loading"):
        check_int4(bundle_folder, "int4")
    for weights in (None, "fp32", "bf16", "int8"):
        assert check_int4(bundle_folder, weights) is None
