"""The record of runs in MLflow that is damaged or gone gives way to a new one; one that can be read stays as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from survival import DAMAGES, damage

from csm_components.lifeline import sole_user
from csm_components.mlflow_store import STORE_LOCK
from csm_components.tree_list import MADE
from csm_model.files import write_json
from csm_pipelines import lost_record
from csm_pipelines.lost_record import STORE, mend, put_aside
from csm_pipelines.summary import RECORDED

RUNS = ("debug-1", "debug-2")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of two runs that are over."""
    with closing(sqlite3.connect(tmp_path / STORE)) as connection:
        for table in range(40):
            connection.execute(f"CREATE TABLE runs_{table} (name TEXT PRIMARY KEY)")
            connection.execute(f"INSERT INTO runs_{table} VALUES ('{'x' * 4000}')")
        connection.commit()
    for run in RUNS:
        for mark in (RECORDED, f"register/{MADE}", f"ingest/{MADE}"):
            write_json(tmp_path / run / mark, {})
    (tmp_path / "latest").symlink_to(RUNS[0])
    return tmp_path


@pytest.mark.parametrize("way", DAMAGES)
def test_the_version_is_registered_again_where_the_record_is_lost(runs: Path, way: str) -> None:
    damage(runs / STORE, way)
    said = mend(runs)
    assert said is not None
    assert said.startswith(f"{runs / STORE}: is {'damaged' if way in ('half', 'zeros') else 'gone'}")
    for run in RUNS:
        assert not (runs / run / RECORDED).exists()
        assert not (runs / run / "register" / MADE).exists()
        assert (runs / run / "ingest" / MADE).exists(), "what MLflow does not hold is not done again"
    assert [path.name for path in runs.glob("*damaged*")] == (
        [f"{STORE}.damaged-1"] if way in ("half", "zeros") else []
    )
    with closing(sqlite3.connect(runs / STORE)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert mend(runs) is None, "once"


def test_a_record_that_can_be_read_and_a_run_without_one_stay_as_they_are(runs: Path, tmp_path: Path) -> None:
    before = (runs / STORE).read_bytes()
    assert mend(runs) is None
    assert (runs / STORE).read_bytes() == before
    assert all((runs / run / RECORDED).exists() for run in RUNS)
    (tmp_path / "new").mkdir()
    assert mend(tmp_path / "new") is None


def test_a_record_that_another_run_makes_just_now_holds_no_run_up(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_record, "_WAIT_S", 0.0)
    (runs / STORE).unlink()
    with sole_user(runs, name=STORE_LOCK):
        assert mend(runs) is None
    assert mend(runs) is not None


def test_a_record_that_another_process_writes_to_is_not_damaged(runs: Path) -> None:
    with closing(sqlite3.connect(runs / STORE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(runs / STORE, timeout=0)) as third, pytest.raises(sqlite3.OperationalError):
            third.execute("SELECT count(*) FROM sqlite_master")
        assert put_aside(runs / STORE) is None
    assert (runs / STORE).exists()


def test_each_damaged_record_is_kept(runs: Path) -> None:
    for number in (1, 2):
        damage(runs / STORE, "zeros") if number == 1 else (runs / STORE).write_bytes(b"no database " * 100)
        assert put_aside(runs / STORE) == runs / f"{STORE}.damaged-{number}"
        assert not (runs / STORE).exists()
