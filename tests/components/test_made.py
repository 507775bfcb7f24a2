"""The record of what a folder is: whatever became of its files since is found, and is work that was not done."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from csm_components import made
from csm_components.tree_list import MADE
from csm_model.files import sweep


@dataclass(frozen=True)
class Result:
    out: str
    digest: str
    reused: bool = False


def committed_folder(folder: Path, rng: random.Random) -> list[Path]:
    files = [folder / rng.choice(["", "a", "ä/b c"]) / f"{number}.bin" for number in range(rng.randint(1, 8))]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randint(1, 400)))
    made.commit(folder, "step", "key", Result(out=str(folder), digest="d"))
    return files


def change(path: Path, rng: random.Random) -> str:
    """Makes a file another one."""
    data = path.read_bytes()
    way = rng.choice(["empty", "half", "zeros", "gone", "longer", "one bit"])
    if way == "gone":
        path.unlink()
        return way
    place = rng.randrange(len(data))
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    changed = {
        "empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data)), "longer": data + b"x",
        "one bit": flipped,
    }[way]  # fmt: skip
    path.write_bytes(changed if changed != data else flipped)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))  # clocks of file systems are coarse
    return way


@pytest.mark.parametrize("seed", range(60))
def test_what_is_not_as_it_was_made_is_taken_away(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    files = committed_folder(tmp_path / "out", rng)
    whole = {path: path.read_bytes() for path in files}
    later = tmp_path / "out" / "later.txt"
    later.write_text("of somebody else")
    assert made.committed(tmp_path / "out", "key") == {"out": str(tmp_path / "out"), "digest": "d", "reused": True}
    assert made.committed(tmp_path / "out", "another key") is None
    broken = rng.sample(files, rng.randint(1, len(files)))
    ways = [change(path, rng) for path in broken]
    assert made.committed(tmp_path / "out", "key") is None, ways
    assert "it is made again" in caplog.text
    assert not [path for path in broken if path.exists()]
    assert {path: path.read_bytes() for path in files if path not in broken}.items() <= whole.items()
    assert later.read_text() == "of somebody else"
    for path in broken:
        path.write_bytes(whole[path])
    assert made.committed(tmp_path / "out", "key") is None, "the step is what says that it is whole"
    made.commit(tmp_path / "out", "step", "key", Result(out="", digest="d"))
    assert made.committed(tmp_path / "out", "key") is not None


def test_a_copy_of_a_folder_is_as_good(tmp_path: Path) -> None:
    for path in committed_folder(tmp_path / "out", random.Random(0)):
        os.utime(path, ns=(1, 1))
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    known = made.committed(tmp_path / "elsewhere", "key")
    assert known is not None
    assert known["out"] == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", "{}", '{"step": "x"}', "\0" * 40])
def test_a_record_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    committed_folder(tmp_path / "out", random.Random(0))
    (tmp_path / "out/checkpoints").mkdir()
    (tmp_path / "out" / MADE).write_text(text)
    assert made.committed(tmp_path / "out", "key") is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoints"], "nothing else is known to be whole"


def test_what_a_result_does_not_rest_on_may_change(tmp_path: Path) -> None:
    for name in ("checkpoints/step-1/state.json", "logs/worker.log", "inputs.json", ".lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    made.commit(tmp_path, "step", "key", Result(out="", digest="d"))
    for name in ("checkpoints/step-1/state.json", "logs/worker.log", "inputs.json", ".lock"):
        (tmp_path / name).write_text("22")
    assert made.committed(tmp_path, "key") is not None


def test_what_was_begun_and_not_ended_is_swept_away(tmp_path: Path) -> None:
    kept = ["bundle/manifest.json", "bundle/codec/.hidden", ".lock", ".step.lock", "old", "tokens/.x.1.partial"]
    gone = [
        ".bundle.12.partial/a/b",
        ".bundle.12.old/a",
        "bundle/.m.1.partial",
        "bundle/codec/.c.2.partial",
        ".s.partial",
    ]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sweep(tmp_path / "bundle")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
    assert not (tmp_path / ".bundle.12.partial").exists()
    sweep(tmp_path / "not there" / "yet")
