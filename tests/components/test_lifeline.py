"""A folder has one user at a time, and a step ends soon after the one it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S, let_pass

from csm_components.lifeline import sole_user
from csm_model.errors import MissingDependencyError

HOLDER = """
import signal, sys
from pathlib import Path
from csm_components.lifeline import sole_user
with sole_user(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""
FOLLOWER = """
import signal, sys
from csm_components.lifeline import follow
follow(int(sys.argv[1]), every_seconds=0.1)
print("following", flush=True)
signal.pause()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts Python code and waits for its first line."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_folder_in_use_names_its_user_and_is_free_after_a_kill(tmp_path: Path) -> None:
    with start(HOLDER, tmp_path / "run") as holder:
        words = f"run is in use by process {holder.pid}"
        with pytest.raises(MissingDependencyError, match=words), sole_user(tmp_path / "run"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sole_user(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
    with sole_user(tmp_path / "run"):
        pass


def test_a_follower_ends_with_the_one_it_follows() -> None:
    with subprocess.Popen(["sleep", "infinity"]) as leader, start(FOLLOWER, leader.pid) as follower:
        let_pass(0.3)  # three looks of the follower
        assert follower.poll() is None
        leader.kill()
        leader.wait()
        assert follower.wait(HANG_S) == -signal.SIGTERM
