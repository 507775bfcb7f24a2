"""A bundle and the gate's verdict on it, where register may read the bundle and not write beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from csm_components.register.judged import judged_bundle
from csm_model.errors import ArtifactError, InputError
from csm_model.files import digest_of, digest_of_file, read_json, write_json
from csm_model.manifest import read_manifest
from csm_model.verdict import AGAINST_PARENT, VERDICT, check_int4, write_verdict

FIGURES = {"wer": 0.1, "speaker_accuracy": 1.0, AGAINST_PARENT: 0.0}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of 4 bits, as far as its manifest and files go."""
    folder = tmp_path / "bundle"
    (folder / "codec").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "codec/codec.json").write_text("{}")
    files = {name: digest_of_file(folder / name) for name in ("model.safetensors", "codec/codec.json")}
    write_json(folder / "manifest.json", {"precision": "int4", "files": files, "digest": digest_of(files)})
    return folder


def verdict(folder: Path, bundle: Path, *misses: str) -> Path:
    digest = read_json(bundle / "manifest.json")["digest"]
    write_verdict(folder, bundle=digest, misses=misses, figures=FIGURES, bounds={AGAINST_PARENT: 0.02})
    return folder


def test_a_bundle_without_its_verdict_is_joined_with_it(bundle: Path, tmp_path: Path) -> None:
    before = sorted(bundle.rglob("*"))
    with pytest.raises(ArtifactError, match="no gate has judged them"):
        check_int4(bundle, None)
    with judged_bundle(bundle, verdict(tmp_path / "register", bundle)) as folder:
        assert read_manifest(folder) == read_manifest(bundle)
        assert check_int4(folder, None) is None
    assert not folder.exists()
    assert sorted(bundle.rglob("*")) == before


def test_an_older_verdict_beside_the_bundle_does_not_count(bundle: Path, tmp_path: Path) -> None:
    verdict(bundle, bundle)
    with (
        judged_bundle(bundle, verdict(tmp_path / "register", bundle, "wer 0.2 misses")) as folder,
        pytest.raises(ArtifactError, match="the gate has not passed them: wer 0"),
    ):
        check_int4(folder, None)


def test_a_bundle_that_has_its_verdict_is_taken_as_it_is(bundle: Path, tmp_path: Path) -> None:
    with judged_bundle(bundle, None) as folder:
        assert folder == bundle
    verdict(bundle, bundle)
    with judged_bundle(bundle, verdict(tmp_path / "register", bundle)) as folder:
        assert folder == bundle


def test_no_verdict_and_one_of_another_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no gate\.json"), judged_bundle(bundle, tmp_path / "nothing"):
        pass
    write_verdict(tmp_path / "other", bundle="0" * 64, misses=[], figures={}, bounds={})
    other = judged_bundle(bundle, tmp_path / "other")
    with pytest.raises(ArtifactError, match="judges bundle 000000000000, not"), other:
        pass


REGISTER = """
import sys
from pathlib import Path
from csm_components.register.gate import Gate
from csm_components.register.step import register
from csm_components.tracking import Tracker

bundle, home = map(Path, sys.argv[1:])
try:
    (bundle / "probe").write_text("")
except PermissionError:
    figures = {"wer": 0.1, "speaker_accuracy": 1.0, "wer_int8_delta": 0.0}
    tracker = Tracker(folder=home / "runs/demo")
    print(register(bundle, home / "out", figures=figures, gate=Gate(), tracker=tracker, model="m").promoted)
"""


def test_register_leaves_its_verdict_with_its_result_where_the_bundle_is_read_only(
    bundle: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", REGISTER, str(bundle), str(tmp_path)]
    if os.geteuid() == 0:  # who may write anywhere, unless that is taken away
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed, and root writes where nobody may: apt-get install util-linux")
        command = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override", *command]
    for path in (bundle, *bundle.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        for path in (bundle, *bundle.rglob("*")):
            path.chmod(0o755)
    assert done.stdout == "True\n", done.stderr
    assert not (bundle / VERDICT).exists()
    with judged_bundle(bundle, tmp_path / "out") as folder:
        assert check_int4(folder, None) is None
