"""What has been made already, and of what: one record of a step's result, under the key of all that it was made of.

In a folder the record is `made.json`, in a storage `ledger/STEP/KEY.json`. It is written last and in one step: where
it is, all that it speaks of is there. It is no part of what it speaks of: a tree of the storage leaves it out.

A folder's record has a seal of each file: what was empty, torn, changed or taken away since is found when the record is
read, and is work that was not done. Files that came later are somebody else's.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from csm_components.storage import Storage
from csm_components.tree_list import MADE
from csm_model.files import digest_of_file, known_json, write_json

_UNSEALED = frozenset({"checkpoints", "logs", "inputs.json", ".lock"})
"""What a folder's result does not rest on: checkpoints have digests of their own."""

_log = logging.getLogger(__name__)


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
    seals: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    """Of each file of the folder: its size in bytes, when it was changed (ns), and its SHA-256."""

    def reused(self) -> Record:
        """The record of who takes the result as it is."""
        return replace(self, result={**self.result, "reused": True})


def note(path: Path, record: Record) -> None:
    """Writes a record to a file."""
    write_json(path, asdict(record))


def noted(path: Path, key: str | None = None) -> Record | None:
    """The record in a file; None where there is none that can be read, or one of another key."""
    found: Any = known_json(path)
    try:
        record = Record(**found)
    except TypeError:
        return None
    return record if key is None or record.key == key else None


def commit(folder: Path, step: str, key: str, result: Any) -> None:
    """Records in a folder, whose files are all there, what it is: `result`, a dataclass."""
    seals = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in {MADE, *_UNSEALED} and not path.name.endswith((".partial", ".lock")):
            stat = path.stat()
            seals[name.as_posix()] = (stat.st_size, stat.st_mtime_ns, digest_of_file(path))
    note(folder / MADE, Record(step=step, key=key, result=asdict(result), seals=seals))


def committed(folder: Path, key: str) -> dict[str, Any] | None:
    """The result that the folder holds of this key, marked as reused, with its place now; None where it holds none.

    Files that are not as they were sealed are removed, and the record with them, so that the step makes them again; all
    of them where the record itself is damaged.
    """
    found = noted(folder / MADE)
    if found is None and (folder / MADE).exists():
        _log.warning("%s: its record cannot be read, so nothing of it is known to be whole; it is made again", folder)
        _clear(folder)
    if found is None or found.key != key:
        return None
    if broken := [name for name, seal in found.seals.items() if not _as_sealed(folder / name, seal)]:
        named = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        _log.warning("%s: not as %s made it: %s; it is made again", folder, found.step, named)
        forget(folder)
        for name in broken:
            (folder / name).unlink(missing_ok=True)
        return None
    return {**found.result, **({"out": str(folder)} if "out" in found.result else {}), "reused": True}


def _clear(folder: Path) -> None:
    """Removes all that a record would have had a seal of."""
    for path in folder.iterdir():
        if path.name not in _UNSEALED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _as_sealed(path: Path, seal: Sequence[Any]) -> bool:
    """Whether a file has the bytes that it was sealed with; they are read where it was written to since."""
    size, changed, sha256 = seal
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.st_size != size:
        return False
    return bool(stat.st_mtime_ns == changed or digest_of_file(path) == sha256)


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
