"""What has been made already, and of what: one record of a step's result, under the key of all that it was made of.

In a folder the record is `made.json`, in a storage `ledger/STEP/KEY.json`. It is written last and in one step: where
it is, all that it speaks of is there. It is no part of what it speaks of: a tree of the storage leaves it out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from csm_components.storage import Storage
from csm_components.tree_list import MADE
from csm_model.files import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step that ended well."""

    step: str
    key: str = ""
    """Digest of all that the result was made of."""
    result: Mapping[str, Any]
    seconds: float = 0.0
    """What the work took."""
    run: str = ""
    """Name of the pipeline run on a cluster."""
    finished: float = field(default_factory=time.time)
    artefacts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Address and digest of each output that is in the storage."""

    def reused(self) -> Record:
        """The record of who takes the result as it is."""
        return replace(self, result={**self.result, "reused": True})


def note(path: Path, record: Record) -> None:
    """Writes a record to a file."""
    write_json(path, asdict(record))


def noted(path: Path, key: str | None = None) -> Record | None:
    """The record in a file; None where there is none, or one of another key."""
    if not path.is_file():
        return None
    record = Record(**read_json(path))
    return record if key is None or record.key == key else None


def commit(folder: Path, step: str, key: str, result: Any) -> None:
    """Records in a folder, whose files are all there, what it is: `result`, a dataclass."""
    note(folder / MADE, Record(step=step, key=key, result=asdict(result)))


def committed(folder: Path, key: str) -> dict[str, Any] | None:
    """The result that the folder holds of this key, marked as reused, with its place now; None where it holds none."""
    found = noted(folder / MADE, key)
    if found is None:
        return None
    return {**found.result, **({"out": str(folder)} if "out" in found.result else {}), "reused": True}


def forget(folder: Path) -> None:
    """Takes the record of a folder away, before anything in it is changed."""
    (folder / MADE).unlink(missing_ok=True)


def ledger_key(step: str, key: str) -> str:
    """The object of a storage that is the record of a step under a key."""
    return f"ledger/{step}/{key}.json"


def enter(storage: Storage, record: Record) -> None:
    """Writes a record into the storage's ledger."""
    storage.put_json(asdict(record), ledger_key(record.step, record.key))


def entered(storage: Storage, step: str, key: str) -> Record | None:
    """The record of a step under a key in the storage's ledger; None where there is none."""
    name = ledger_key(step, key)
    return Record(**storage.get_json(name)) if storage.exists(name) else None
