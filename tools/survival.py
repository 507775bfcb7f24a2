"""What becomes of a run that is killed, or whose files are damaged: `csm run --preset debug`, hard used.

    .venv/bin/python tools/survival.py kills  [--place build/survival] [--random 20] [--seed 0]
    .venv/bin/python tools/survival.py damage [--place build/survival] [--only tokens/] [--random 100] [--seed 0]

`kills`: one run whose whole process group is killed with SIGKILL at 14 named moments and at random ones, in order; each
time the same command goes on. A moment is a file that is about to be opened, renamed or removed (`kill_moments.py`).

`damage`: every file of a finished run is made empty, cut in half, filled with zeros, and removed, one case after
another; each time the same command is given to the damaged run. With `--random` so many of these cases, drawn.

Each must end well, with the digests of a run that nothing happened to, one version of the model, no unfinished run in
MLflow, and no file that was begun and not ended. A line tells of each case; what was done is noted down in PLACE, and
the same command goes on from there. Exit status 1 where something was not made good.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import kill_moments
from kill_moments import Moment
from rich.console import Console

from csm_components import run as step_program
from csm_model.files import known_json, read_json, write_json
from csm_pipelines import runner
from csm_pipelines.local import StepError
from csm_pipelines.presets import preset

COMMAND: Final = (sys.executable, "-m", "csm_cli.cli", "run", "--preset", "debug")
DAMAGES: Final = ("empty", "half", "zeros", "gone")
KILLED: Final = -signal.SIGKILL
_WARM = ("ingest", "tokenise", "train", "export", "evaluate", "register", "speak")


def damage(path: Path, way: str) -> None:
    """Does to a file what a power cut may do, or a person."""
    data = path.read_bytes()
    if way == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data))}[way])


def debris(folder: Path) -> list[str]:
    """What was begun and not ended."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if name.endswith((".partial", ".old", ".minio")))


def records(folder: Path) -> list[str]:
    """What MLflow should not have: more than one version of the model, and runs that are not finished."""
    from csm_components.tracking import Tracker

    tracker = Tracker(folder=folder)
    versions = tracker.client.search_model_versions()
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=1000)
    wrong = [f"{run.info.run_name} is {run.info.status}" for run in runs if run.info.status != "FINISHED"]
    return wrong + ([] if len(versions) == 1 else [f"{len(versions)} versions"])


def faults(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """What is wrong with a run that has ended; `digests` of one that nothing happened to."""
    found = read_json(folder / "summary.json")["digests"]
    wrong = [f"another {name}" for name in digests if found.get(name) != digests[name]]
    return wrong + [f"left over: {name}" for name in debris(folder)] + records(folder)


class Place:
    """Where runs are, and what is known of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.runs = self.folder / "runs"
        self.trace = self.folder / "trace"
        self.whole = self.folder / "whole"

    def run(self, *, root: Path | None = None, moment: Moment | None = None, record: bool = False) -> int:
        """The command, to its end or its kill; its exit status."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("CSM_", "MLFLOW_"))}
        if moment or record:
            env |= kill_moments.environment(self.folder / "hook", moment=moment, record=self.trace if record else None)
        with (self.folder / "log").open("ab") as log:
            command = [*COMMAND, "--runs", str(root or self.runs)]
            return subprocess.run(
                command, env=env, stdout=log, stderr=log, check=False, start_new_session=True
            ).returncode

    def prepare(self) -> None:
        """Makes a run that nothing happens to, if there is none, and keeps a copy of it and of what MLflow has."""
        if not self.whole.exists():
            print("a run that nothing happens to", flush=True)
            shutil.rmtree(self.runs, ignore_errors=True)
            self.trace.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            if status := self.run(record=True):
                raise SystemExit(f"it ends with {status}: see {self.folder / 'log'}")
            partial = self.folder / "whole.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.runs, partial, symlinks=True)
            partial.rename(self.whole)

    def restore(self) -> None:
        """Puts the runs back as they were, in their own place."""
        shutil.rmtree(self.runs, ignore_errors=True)
        shutil.copytree(self.whole, self.runs, symlinks=True)

    @property
    def digests(self) -> dict[str, str]:
        """Of what the run made that nothing happened to."""
        found: dict[str, str] = read_json(self.whole / "latest" / "summary.json")["digests"]
        return found


def kills(place: Place, *, randomly: int, seed: int) -> int:
    """Kills a run at every moment in turn; the number of faults."""
    place.prepare()
    events = kill_moments.recorded(place.trace)
    moments = kill_moments.drawn(events, randomly, random.Random(seed))
    noted = place.folder / f"kills-{seed}-{randomly}.json"
    root = place.folder / f"killed-{seed}-{randomly}"
    done: list[dict[str, Any]] = known_json(noted) or []
    for number, moment in enumerate(moments[len(done) :], len(done) + 1):
        status = place.run(root=root, moment=moment)
        done.append({"moment": str(moment), "status": status})
        write_json(noted, done)
        print(
            f"{number} of {len(moments)}: {moment}: {'killed' if status == -9 else f'ended with {status}'}", flush=True
        )
        if status not in (KILLED, 0):
            return 1
    if status := place.run(root=root):
        print(f"in the end it ends with {status}: see {place.folder / 'log'}")
        return 1
    wrong = faults((root / "latest").resolve(), place.digests)
    killed = sum(row["status"] == KILLED for row in done)
    print(f"killed {killed} times of {len(moments)}: {'; '.join(wrong) or 'what it made is what an unkilled run made'}")
    return len(wrong)


def cases(whole: Path, only: str) -> Iterator[tuple[str, str]]:
    """Every file of the run and of its record, with everything that may be done to it."""
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole).as_posix()
        if (
            "latest" not in path.parts
            and path.is_file()
            and not path.name.endswith(".lock")
            and fnmatch.fnmatch(name, f"*{only}*")
        ):
            yield from ((name, way) for way in (DAMAGES if path.stat().st_size else ("gone",)))


def damages(place: Place, *, only: str, randomly: int | None, seed: int) -> int:
    """Damages every file in every way, or draws that many cases; the number of those that were not made good."""
    place.prepare()
    noted = place.folder / "damage.json"
    done: dict[str, str] = known_json(noted) or {}
    todo = list(cases(place.whole, only))
    if randomly is not None:
        todo = random.Random(seed).sample(todo, min(randomly, len(todo)))
    warm()
    for number, (name, way) in enumerate(todo, 1):
        case = f"{name} {way}"
        if case not in done:
            place.restore()
            damage(place.runs / name, way)
            done[case] = outcome(place, name)
            write_json(noted, done)
            print(f"{number} of {len(todo)}: {case}: {done[case]}", flush=True)
    wrong = [case for case in (f"{name} {way}" for name, way in todo) if not done[case].startswith("made good")]
    print(f"{len(todo) - len(wrong)} of {len(todo)} made good" + "".join(f"\n  {case}: {done[case]}" for case in wrong))
    return len(wrong)


def outcome(place: Place, name: str) -> str:
    """What the same command makes of the damaged run."""
    before = (place.whole / name).read_bytes()
    told = place.folder / "told"
    told.unlink(missing_ok=True)
    if (pid := os.fork()) == 0:
        try:
            runner.run_task = _in_a_fork
            runner.run_pipeline(preset("debug"), runs=place.runs, console=Console(quiet=True))
            told.write_text("; ".join(faults((place.runs / "latest").resolve(), place.digests)) or "made good")
        except BaseException as error:  # whatever it is, it is the outcome
            told.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    said = told.read_text() if told.exists() else "it died"
    if said != "made good":
        return said
    now = (place.runs / name).read_bytes() if (place.runs / name).exists() else None
    return said if now == before else f"{said}, {'without it' if now is None else 'in other bytes'}"


def warm() -> None:
    """Imports what steps import, once for all forks of this process."""
    import importlib

    import mlflow  # noqa: F401
    import torch

    torch.set_num_threads(1)  # a team of threads does not come along into a fork, which waits for it for ever
    for step in _WARM:
        importlib.import_module(f"csm_components.{step}.step")


def _in_a_fork(arguments: Sequence[str], step: str, logs: Path, progress: object) -> dict[str, Any]:
    """`csm_pipelines.local.run_task` in a fork of this process, which has everything imported."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{step}.log"
    if (pid := os.fork()) == 0:
        code = 1
        try:
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = step_program.main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise StepError(f"step {step} ended with {os.waitstatus_to_exitcode(status)}: {' '.join(last)}")
    return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["kills", "damage"])
    parser.add_argument("--place", type=Path, default=Path("build/survival"), help="folder for all of it")
    parser.add_argument(
        "--random", type=int, help="moments drawn beside those with names (20), or cases of damage drawn from all (all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", help="files with this in their path")
    asked = parser.parse_args(arguments)
    place = Place(asked.place)
    wrong = (
        kills(place, randomly=20 if asked.random is None else asked.random, seed=asked.seed)
        if asked.what == "kills"
        else damages(place, only=asked.only, randomly=asked.random, seed=asked.seed)
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
