"""What the machine would not do, in words: a full disk, one that is read-only, a folder that others own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from csm_model.errors import MachineError, shown

FULL_BYTES = 2**20
"""A disk with less room than that is full."""
_REASONS = {
    errno.ENOSPC: "the disk of {place} is full; make room, and the same command goes on",
    errno.EDQUOT: "the quota of the disk of {place} is used up; make room, and the same command goes on",
    errno.EROFS: "{place} is on a read-only disk; choose another folder, or mount it to be written",
    errno.EACCES: "{place} may not be written or read; see to its permissions, and the same command goes on",
    errno.EPERM: "{place} may not be written or read; see to its permissions, and the same command goes on",
    errno.EMFILE: "this process may open no more files; raise its limit (ulimit -n), and the same command goes on",
    errno.ENFILE: "this machine may open no more files; raise its limit, and the same command goes on",
    errno.ENOMEM: "this machine has no memory left; give it more, or ask for less at once",
    errno.EIO: "the disk of {place} fails (input/output error); see to it before anything is written there",
}


def machine_error(error: BaseException, *places: Path | None) -> MachineError | None:
    """The error in one line where the machine is to blame; None where it is not, or one of this program already.

    Libraries hide what the system said (a sound that cannot be written is a "System error."), so a full disk counts
    whatever was raised.

    Args:
        error: what was raised, with what it came of.
        places: folders that were written to.
    """
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in _REASONS:
            named = next((name for name in (each.filename2, each.filename) if isinstance(name, str | bytes)), None)
            place = Path(os.fsdecode(named)) if named else next(filter(None, places), Path.cwd())
            return MachineError(_REASONS[each.errno].format(place=shown(place)))
        if isinstance(each, MemoryError):
            return MachineError(_REASONS[errno.ENOMEM])
    full = next((place for place in filter(None, places) if room_of(place) < FULL_BYTES), None)
    return MachineError(_REASONS[errno.ENOSPC].format(place=shown(full))) if full is not None else None


def room_of(folder: Path) -> int:
    """Free bytes of the disk that a folder, which may not be there yet, is on."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 2**63


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
