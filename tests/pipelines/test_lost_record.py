"""A run's record in MLflow that is damaged or gone gives way to a new one; one that can be read stays as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from survival import DAMAGES, damage

from csm_components.tree_list import MADE
from csm_model.files import write_json
from csm_pipelines.lost_record import STORE, mend, put_aside
from csm_pipelines.summary import RECORDED


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that is over."""
    with closing(sqlite3.connect(tmp_path / STORE)) as connection:
        for table in range(40):
            connection.execute(f"CREATE TABLE runs_{table} (name TEXT PRIMARY KEY)")
            connection.execute(f"INSERT INTO runs_{table} VALUES ('{'x' * 4000}')")
        connection.commit()
    for mark in (RECORDED, f"register/{MADE}", f"ingest/{MADE}"):
        write_json(tmp_path / mark, {})
    return tmp_path


@pytest.mark.parametrize("way", DAMAGES)
def test_the_version_is_registered_again_where_the_record_is_lost(run: Path, way: str) -> None:
    damage(run / STORE, way)
    said = mend(run)
    assert said is not None
    assert said.startswith(f"{run / STORE}: is {'damaged' if way in ('half', 'zeros') else 'gone'}")
    assert not (run / RECORDED).exists()
    assert not (run / "register" / MADE).exists()
    assert (run / "ingest" / MADE).exists(), "what MLflow does not hold is not done again"
    assert [path.name for path in run.glob("*damaged*")] == ([f"{STORE}.damaged-1"] if way in ("half", "zeros") else [])
    with closing(sqlite3.connect(run / STORE)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert mend(run) is None, "once"


def test_a_record_that_can_be_read_and_a_run_without_one_stay_as_they_are(run: Path, tmp_path: Path) -> None:
    before = (run / STORE).read_bytes()
    assert mend(run) is None
    assert (run / STORE).read_bytes() == before
    assert (run / RECORDED).exists()
    (tmp_path / "new").mkdir()
    assert mend(tmp_path / "new") is None


def test_a_record_that_another_process_writes_to_is_not_damaged(run: Path) -> None:
    with closing(sqlite3.connect(run / STORE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(run / STORE, timeout=0)) as third, pytest.raises(sqlite3.OperationalError):
            third.execute("SELECT count(*) FROM sqlite_master")
        assert put_aside(run / STORE) is None
    assert (run / STORE).exists()


def test_each_damaged_record_is_kept(run: Path) -> None:
    for number in (1, 2):
        damage(run / STORE, "zeros") if number == 1 else (run / STORE).write_bytes(b"no database " * 100)
        assert put_aside(run / STORE) == run / f"{STORE}.damaged-{number}"
        assert not (run / STORE).exists()
