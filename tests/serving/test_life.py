"""Whether a model lives, by the signs that it gives: dead, hung, another process under its number, ended well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import HANG_S, eventually

from csm_serving.launcher.life import HUNG_S, LifeWatch
from csm_serving.launcher.server_log import ServerLog
from csm_serving.launcher.triton import _watch
from csm_serving.server.life import FOLDER, SignOfLife, signs_in, started
from csm_serving.wire.errors import ServingError

_BEGIN = (
    "import sys; from pathlib import Path; from csm_serving.server.life import SignOfLife\n"
    "SignOfLife(Path(sys.argv[1]), '1').begin(); print('begun', flush=True); sys.stdin.read()"
)


def looking(folder: Path) -> LifeWatch:
    watch = LifeWatch(folder, period_s=10.0)
    watch.begin()
    return watch


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGTERM])
def test_a_process_that_dies_is_seen_also_where_nobody_buries_it(tmp_path: Path, how: signal.Signals) -> None:
    watch = looking(tmp_path)
    command = [sys.executable, "-c", _BEGIN, str(tmp_path / FOLDER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as model:
        assert model.stdout is not None
        assert model.stdout.readline() == "begun\n"
        assert watch.failure() is None
        assert watch.serves
        model.send_signal(how)
        eventually(lambda: watch.failure() is not None)
        assert watch.failure() == f"the process of the model (version 1, process {model.pid}) is gone"
        assert not watch.serves
        model.wait(HANG_S)


def test_another_process_under_the_same_number_is_not_the_model(tmp_path: Path) -> None:
    watch = looking(tmp_path)
    (tmp_path / FOLDER / "3").write_text(f"{os.getpid()} {(started(os.getpid()) or 0) - 1}\n")
    assert "version 3" in str(watch.failure())


def test_an_engine_that_goes_round_no_more_is_seen(tmp_path: Path) -> None:
    watch = looking(tmp_path)
    sign = SignOfLife(tmp_path / FOLDER, "2")
    sign.beat()
    assert list(signs_in(tmp_path / FOLDER)) == [], "it does not serve yet"
    sign.begin()
    for _ in range(3):
        for _ in range(round(HUNG_S / 10.0)):
            assert watch.failure() is None
        os.utime(tmp_path / FOLDER / "2", ns=(0, next(signs_in(tmp_path / FOLDER)).touched + 1))
    for _ in range(round(HUNG_S / 10.0)):
        assert watch.failure() is None
    assert "gave no sign of life for 60 s" in str(watch.failure())


def test_what_ended_well_is_missed_by_nobody(tmp_path: Path) -> None:
    watch = looking(tmp_path)
    sign = SignOfLife(tmp_path / FOLDER, "1")
    sign.begin()
    assert not sign.is_told_to_stop()
    watch.tell_to_stop()
    assert sign.is_told_to_stop()
    sign.end()
    sign.beat()
    assert (watch.failure(), watch.serves) == (None, False)
    assert not sign.is_told_to_stop()


def test_without_a_folder_nobody_looks_and_nothing_is_written(tmp_path: Path) -> None:
    sign = SignOfLife(tmp_path / FOLDER, "1")
    for act in (sign.begin, sign.beat, sign.end):
        act()
    assert list(tmp_path.iterdir()) == []
    LifeWatch(tmp_path, period_s=1.0).tell_to_stop()
    assert list(tmp_path.iterdir()) == []


class Dying:
    """A server that dies as soon as it is up, and of which only some starts succeed."""

    def __init__(self, starts: list[bool]) -> None:
        self.life = self.renewal = self.log = self
        self._starts = starts
        self.restarts = 0

    def look(self) -> None: ...

    def wait(self, timeout_s: float) -> int | None:
        return -11

    def last_words(self) -> str:
        return "(none)"

    def restart(self) -> None:
        self.restarts += 1
        if self._starts and not self._starts[self.restarts - 1]:
            raise ServingError("it did not answer")


@pytest.mark.parametrize(
    ("starts", "restarts"),
    [([], 29), ([False] * 3, 3), ([True, False, False, True, False, False, False], 7), ([True, False] * 20, 29)],
)
def test_what_dies_again_and_again_is_given_up(starts: list[bool], restarts: int) -> None:
    dying = Dying(starts)
    with pytest.raises(ServingError, match=r"status -11|did not start again"):
        _watch(dying, threading.Event())  # type: ignore[arg-type]
    assert dying.restarts == restarts


SAID = """\
+------------------+---+
| cache_enabled    | 0 |
I1130 09:24:48.856892 6207 grpc_server.cc:2558] "Started GRPCInferenceService at 127.0.0.1:46279"
csm audit {"stream": 1}
W1130 09:24:49.100000 6207 metrics.cc:7] "Unable to get power"
error: the bundle is damaged
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (SAID, "error: the bundle is damaged"),
        (
            SAID.replace("error: ", "Killed: "),
            'W1130 09:24:49.100000 6207 metrics.cc:7] "Unable to get power" / Killed: the bundle is damaged',
        ),
        ("".join(SAID.splitlines(keepends=True)[:4]), "(none)"),
        ("", "(none)"),
    ],
)
def test_last_words_are_reasons(said: str, words: str, tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "triton.log", "file")
    (tmp_path / "triton.log").write_text(said)
    assert log.last_words() == words
