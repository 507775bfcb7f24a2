"""torchx starts two real torchrun agents that join over gloo; a failure comes back as the error that caused it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from torchx.runner import get_runner
from waiting import HANG_S, eventually

from csm_components.train.app import LaunchSpec, build_app
from csm_components.train.failures import Failure, LaunchError, cause, left
from csm_components.train.guard import guarded_children
from csm_components.train.local import launch
from csm_model.errors import DigestError, InputError
from csm_model.training.config import TrainingConfig


def module(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module named `tiny_trainer` that the workers can import."""
    (folder / "tiny_trainer.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "tiny_trainer"


def test_torchx_is_the_pinned_nightly_and_not_the_release_of_2022() -> None:
    import torchx

    assert tuple(int(part) for part in torchx.__version__.split(".")[:3]) >= (2026, 3, 15)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("torchx")


def test_app_is_a_torchrun_of_guarded_workers(tmp_path: Path) -> None:
    app = build_app(
        LaunchSpec(module="m", args=("--config", "a b.json"), nodes="3x2", log_dir=tmp_path), rendezvous_port=29501
    )
    (role,) = app.roles
    assert role.num_replicas == 3
    command = role.args[1]
    assert command.startswith(
        f"exec {sys.executable} -m csm_components.train.guard torch.distributed.run --rdzv_backend c10d"
    )
    assert "--nnodes 3 --nproc_per_node 2" in command
    assert command.endswith("-m csm_components.train.guard m --config 'a b.json'")
    assert role.env["OMP_NUM_THREADS"] == "1"
    assert role.env["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("nodes", ["2", "0x1", "2x0", "axb", ""])
def test_shape_that_is_none_is_refused(nodes: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="AGENTSxWORKERS"):
        LaunchSpec(module="m", nodes=nodes, log_dir=tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "My Projects",
        "it's",
        '"q"',
        "a;touch X",
        "$(touch X)",
        "`touch X`",
        "a$$b",
        "${img_root}",
        "$HOME",
        "äöü",
        "-x",
        "*",
    ],
)
def test_any_path_reaches_the_shell_as_one_word(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the interpreter, and of what it is given."""
    python, config = f"/{name}/bin/python", f"/{name}/config.json"
    monkeypatch.setattr(sys, "executable", python)
    app = build_app(LaunchSpec(module="m", args=("--config", config), log_dir=tmp_path), rendezvous_port=1)
    with get_runner() as runner:
        dryrun = runner.dryrun(app, "local_cwd", cfg={"log_dir": str(tmp_path / name)})
    for role in dryrun.request.role_params.values():
        for replica in role:
            words = shlex.split(replica.args[-1])
            assert words[:2] == ["exec", python]
            assert words[-2:] == ["--config", config]


def test_two_agents_join_and_rank_0_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(
        tmp_path,
        """
        import os, sys
        import torch, torch.distributed as dist
        dist.init_process_group("gloo")
        total = torch.tensor([dist.get_rank() + 1.0])
        dist.all_reduce(total)
        cores = len(os.sched_getaffinity(0))
        print("sum", total.item(), "of", dist.get_world_size(), sys.argv[1], "cores", cores, flush=True)
        dist.destroy_process_group()
        """,
        monkeypatch,
    )
    lines: list[str] = []
    ticks: list[None] = []
    launch(
        LaunchSpec(module=name, args=("hello",), log_dir=tmp_path / "logs"),
        on_line=lines.append,
        on_tick=lambda: ticks.append(None),
        poll_seconds=0.1,
    )
    cores = len(os.sched_getaffinity(0))
    assert [line.strip() for line in lines if "sum" in line] == [f"sum 3.0 of 2 hello cores {max(1, cores // 2)}"]
    assert ticks


def test_failure_of_one_worker_is_the_error_that_it_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(
        tmp_path,
        """
        import os, torch, torch.distributed as dist
        dist.init_process_group("gloo")
        if dist.get_rank() == 1:
            from csm_model.errors import DigestError
            raise {error}
        dist.all_reduce(torch.zeros(1))
        """.replace("{error}", 'DigestError("shard-3: not the bytes of its manifest; tokenise again")'),
        monkeypatch,
    )
    with pytest.raises(DigestError, match="shard-3: not the bytes of its manifest"):
        launch(LaunchSpec(module=name, log_dir=tmp_path / "logs"), poll_seconds=0.1)
    assert any(failure.type == "DigestError" for failure in left(str(tmp_path / "logs" / "errors")))


def test_an_error_that_the_trainer_names_is_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "from csm_model.errors import InputError\nraise InputError('tokens: no such folder')\n"
    with pytest.raises(InputError, match=r"^tokens: no such folder$"):
        launch(LaunchSpec(module=module(tmp_path, body, monkeypatch), nodes="1x1", log_dir=tmp_path / "logs"))


def test_any_other_failure_names_its_last_line_and_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, "nothing = {}['depth']\n", monkeypatch)
    with pytest.raises(LaunchError, match=r"KeyError: 'depth'; all that it printed is in") as caught:
        launch(LaunchSpec(module=name, nodes="1x1", log_dir=tmp_path / "logs"), poll_seconds=0.1)
    assert any("nothing = {}" in line for line in caught.value.tail)
    assert caught.value.logs.is_dir()


SLEEPER = """
import os, pathlib, signal, sys
pathlib.Path(sys.argv[1], f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_starter(how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, SLEEPER, monkeypatch)
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from csm_components.train.local import *;"
            f"launch(LaunchSpec(module={name!r}, args=(sys.argv[1],), log_dir=Path(sys.argv[1]) / 'l'))",
            str(tmp_path),
        ]
    )

    def begun() -> list[int]:
        return [int(text) for file in tmp_path.glob("*.pid") if (text := file.read_text())]

    eventually(lambda: len(begun()) == 2)
    pids = begun()
    starter.send_signal(how)
    code = starter.wait(HANG_S)
    assert code == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids), f"one of {pids} lives on")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_echo_of_a_dead_peer_is_not_the_cause(tmp_path: Path) -> None:
    echo = Failure(type="DistBackendError", message="Connection closed by peer", at=1.0)
    own = Failure(type="InputError", message="speaker 7: there are 0 and 1", own=True, at=2.0)
    other = Failure(type="ValueError", message="3 is not 4", traceback=["Traceback", "ValueError: 3 is not 4"], at=3.0)
    agent = Failure(exits={"0": 1, "1": -9}, at=4.0)
    error = cause([echo, other, agent], tmp_path)
    assert isinstance(error, LaunchError)
    assert str(error).startswith("training failed: ValueError: 3 is not 4; all that it printed is in ")
    assert error.tail == other.traceback
    assert isinstance(cause([echo, own, other], tmp_path), InputError)
    assert "rank 1 was killed by SIGKILL" in str(cause([echo, agent], tmp_path))
    assert "Connection closed by peer" in str(cause([echo], tmp_path))
    assert "rank 0 ended with exit code 3" in str(cause([Failure(exits={"0": 3})], tmp_path))
    assert "evicted" in str(cause([], tmp_path, "the pod was evicted"))


COLLECTIVE = """
import os, pathlib, sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
pathlib.Path(sys.argv[1], f"{dist.get_rank()}.pid").write_text(str(os.getpid()))
if dist.get_rank() == 1:
    BODY
dist.all_reduce(torch.zeros(1))
"""


def test_a_killed_rank_ends_the_job_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one waits in a collective; nothing but the kill could end it, for gloo waits half an hour."""
    name = module(tmp_path, COLLECTIVE.replace("BODY", "signal.pause()"), monkeypatch)

    def kill() -> None:
        files = [tmp_path / f"{rank}.pid" for rank in (0, 1)]
        if all(file.exists() and file.read_text() for file in files):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(files[1].read_text()), signal.SIGKILL)

    with pytest.raises(LaunchError, match=r"rank 1 was killed by SIGKILL \(out of memory, or by hand\)"):
        launch(
            LaunchSpec(module=name, args=(str(tmp_path),), log_dir=tmp_path / "logs"), on_tick=kill, poll_seconds=0.1
        )
    assert not any(alive(int((tmp_path / f"{rank}.pid").read_text())) for rank in (0, 1))


def test_an_exception_of_one_rank_comes_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, COLLECTIVE.replace("BODY", "broken = [][3]"), monkeypatch)
    with pytest.raises(LaunchError, match="IndexError: list index out of range") as caught:
        launch(LaunchSpec(module=name, args=(str(tmp_path),), log_dir=tmp_path / "logs"), poll_seconds=0.1)
    assert caught.value.tail[0] == "Traceback (most recent call last):"
    assert any("broken = [][3]" in line for line in caught.value.tail)


def test_a_job_that_is_asked_to_stop_ends_well_and_goes_on(tokens: Path, tmp_path: Path) -> None:
    """One of two agents gets SIGTERM, as when its machine is wanted back; both end with 0."""
    config = TrainingConfig(
        tokens=str(tokens), out=str(tmp_path / "out"), model="debug", steps=100_000, row_length=256, batch_packs=2,
        log_every=1, validate_every=100_000, checkpoint_every=100_000,
    )  # fmt: skip
    config.save(tmp_path / "config.json")
    spec = LaunchSpec(
        module="csm_model.training.main", args=("--config", str(tmp_path / "config.json")), log_dir=tmp_path / "logs"
    )
    metrics = tmp_path / "out" / "metrics.jsonl"
    asked: list[int] = []
    said: list[str] = []

    def stop_one() -> None:
        if not asked and metrics.exists() and metrics.read_text():
            asked.append(guarded_children()[-1])
            os.kill(asked[0], signal.SIGTERM)

    launch(spec, on_tick=stop_one, on_line=said.append, poll_seconds=0.1)
    (line,) = [line for line in said if "asked to stop: saved at step" in line]
    step = int(line.split("saved at step ")[1].split()[0])
    assert (tmp_path / "out" / "checkpoints" / f"step-{step:08}" / "state.json").exists()
    assert not (tmp_path / "out" / "final").exists()

    replace(config, steps=step + 2).save(tmp_path / "config.json")
    launch(spec, poll_seconds=0.1)
    assert [json.loads(row)["step"] for row in metrics.read_text().splitlines() if '"loss"' in row] == [
        *range(1, step + 3)
    ]
    assert (tmp_path / "out" / "final" / "manifest.json").exists()


def test_an_agent_whose_workers_are_gone_ends_though_it_waits_in_a_call_that_no_signal_ends() -> None:
    program = """if True:
        import ctypes, signal
        from csm_components.train import guard

        guard.LEAVE_SECONDS = 0.1
        guard.pass_stop_on()
        signal.signal(signal.SIGTERM, lambda *_: None)  # as torchrun has one, which Python runs between two calls
        print("waits", flush=True)
        wait = ctypes.CDLL(None).sleep
        while left := wait(1000):
            pass
        """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "waits\n"
        agent.terminate()
        assert agent.wait(timeout=60) == 128 + signal.SIGTERM
