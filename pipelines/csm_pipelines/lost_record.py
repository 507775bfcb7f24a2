"""The record of runs in MLflow, `mlflow.db` beside their folders, that is damaged or gone: a new one takes its place.

What runs need of it is recorded again by each of them, when it is asked for again: the version of the model, and the
run as a whole. The figures of steps that are not done again are lost to MLflow; they stand in the run's folder.
"""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

from csm_components.lifeline import sole_user
from csm_components.mlflow_store import STORE_LOCK
from csm_components.tree_list import MADE
from csm_model.errors import MissingDependencyError
from csm_pipelines.pipelines import HERE
from csm_pipelines.summary import RECORDED

STORE = "mlflow.db"
_MARKS = (RECORDED, *(f"{step.outputs[0].folder}/{MADE}" for step in HERE.steps if step.effects))
"""In a run's folder: what says that MLflow has something of it."""
_WAIT_S = 30.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database while it writes."""


def mend(runs: Path) -> str | None:
    """Sees to the record of the runs in a folder; a line on what was wrong with it, None where nothing was."""
    store = runs / STORE
    try:
        with sole_user(runs, name=STORE_LOCK, wait_seconds=_WAIT_S):
            marks = [path for name in _MARKS for path in runs.glob(f"*/{name}")]
            aside = put_aside(store)
            if aside is None and (holds_something(store) or not marks):
                return None
            for mark in marks:
                mark.unlink(missing_ok=True)
    except MissingDependencyError:  # another run makes it just now
        return None
    kept = f"is damaged, and is kept as {aside.name}" if aside else "is gone"
    return f"{store}: {kept}; versions of the model are registered again in a new one"


def holds_something(store: Path) -> bool:
    """Whether anything was ever written to a database."""
    return store.exists() and store.stat().st_size > 0


def put_aside(store: Path) -> Path | None:
    """Gives a database that SQLite cannot read any more another name, which is returned; None where it can be read."""
    if not store.exists():
        return None
    try:
        with closing(sqlite3.connect(store, timeout=0)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _DAMAGED:  # it is in use, or not ours to read
            return None
        names = (store.with_name(f"{store.name}.damaged-{number}") for number in itertools.count(1))
        aside = store.replace(next(name for name in names if not name.exists()))
        for end in _BESIDE:
            store.with_name(store.name + end).unlink(missing_ok=True)
        return aside
    return None
