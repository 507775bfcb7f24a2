"""What the machine would not do is said in one line with its cure, however deep a library has hidden it."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from csm_model import machine_errors
from csm_model.machine_errors import FULL_BYTES, machine_error, room_of

SAID = {
    errno.ENOSPC: "is full; make room",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EACCES: "permissions",
    errno.EPERM: "permissions",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "open no more files",
    errno.ENOMEM: "no memory left",
    errno.EIO: "input/output error",
}


def hidden(error: BaseException, rng: random.Random) -> BaseException:
    """The error as libraries hand it on: raised from it, or while it was handled."""
    for _ in range(rng.randint(0, 3)):
        outer = RuntimeError("System error.")
        if rng.random() < 0.5:
            outer.__cause__ = error
        else:
            outer.__context__ = error
        error = outer
    return error


@pytest.mark.parametrize("number", sorted(SAID))
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_system_said_is_one_line(number: int, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    named = str(tmp_path / "a\nb") if seed % 2 else None
    error = OSError(number, os.strerror(number), named) if named else OSError(number, os.strerror(number))
    found = machine_error(hidden(error, rng), None, tmp_path)
    assert found is not None
    assert SAID[number] in str(found)
    assert "\n" not in str(found)
    if number in (errno.ENOSPC, errno.EROFS, errno.EIO):
        assert str(tmp_path) in str(found)


def test_a_full_disk_counts_whatever_was_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room_of(tmp_path / "not" / "there" / "yet") > FULL_BYTES
    assert machine_error(RuntimeError("System error."), tmp_path) is None
    monkeypatch.setattr(machine_errors, "FULL_BYTES", 2**62)
    assert "is full; make room" in str(machine_error(RuntimeError("System error."), None, tmp_path))


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOENT, "no such file", "x"), KeyError("x")])
def test_other_errors_are_not_the_machines(error: Exception, tmp_path: Path) -> None:
    circle = RuntimeError("again")
    circle.__context__, error.__context__ = error, circle
    assert machine_error(error, tmp_path) is None
