"""A run is killed exactly where it was asked for: before it touches a file, with all that belongs to it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import kill_moments
import pytest
from kill_moments import NAMED, STEPS, Moment

RUN = """
import subprocess, sys
from pathlib import Path
from csm_model.files import atomic_folder, write_json

run = Path(sys.argv[1]) / "debug-0123abcd"
if sys.argv[2:]:
    for number in range(3):
        write_json(run / "ingest" / "parts" / f"{number}.json", number)
    with atomic_folder(run / "bundle") as folder:
        write_json(folder / "manifest.json", {})
    (run / "bundle" / "manifest.json").unlink()
else:
    write_json(run / "config.json", {})
    sys.exit(subprocess.run([sys.executable, "-c", sys.orig_argv[2], sys.argv[1], "step"]).returncode)
"""
"""A run of one step in a process of its own."""
STOPS = (
    (Moment(name="at once", step=0), []),
    (Moment(name="a part", step=1, pattern=r"os\.rename ingest/parts/.*", number=2), ["config.json", "parts/0.json"]),
    (Moment(name="a partial", step=4, pattern=r"open \.bundle\.partial/.*"), ["config.json", "parts/2.json"]),
    (Moment(name="a removal", step=4, pattern=r"os\.remove bundle/manifest\.json"), ["bundle/manifest.json"]),
    (Moment(name="of a step that is over", step=3), ["parts/2.json"]),
)


def play(home: Path, moment: Moment | None, record: Path | None = None) -> int:
    environment = {"PATH": "", **kill_moments.environment(home / "hook", moment=moment, record=record)}
    environment["PYTHONPATH"] += f":{':'.join(path for path in sys.path if path)}"
    command = [sys.executable, "-c", RUN, str(home)]
    return subprocess.run(command, env=environment, start_new_session=True, check=False).returncode


@pytest.mark.parametrize(("moment", "there"), STOPS, ids=[str(moment) for moment, _ in STOPS])
def test_all_of_it_is_killed_before_the_file_is_touched(tmp_path: Path, moment: Moment, there: list[str]) -> None:
    assert play(tmp_path, moment) == -signal.SIGKILL
    found = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "debug-0123abcd").rglob("*.json")]
    for name in there:
        assert any(path.endswith(f"/{name}") for path in found), found
    assert not any(path.endswith("parts/1.json") for path in found if moment.step == 1)
    if moment.step == 0:
        assert not [path for path in found if not Path(path).name.startswith(".")]


def test_a_run_that_is_only_looked_at_ends_and_its_moments_are_noted_down(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert play(tmp_path, None, trace) == 0
    events = [f"{event} {name}" for _, event, name in kill_moments.recorded(trace)]
    wanted = ["os.rename config.json", "os.rename ingest/parts/0.json", "os.rename ingest/parts/2.json"]
    assert [event for event in events if event in wanted] == wanted
    assert events[-1] == "os.remove bundle/manifest.json"
    assert "open ingest/parts/.0.json.partial" in events


def test_moments_are_drawn_in_the_order_of_a_run(tmp_path: Path) -> None:
    events = []
    for moment in NAMED:
        name = moment.pattern.replace("\\", "").replace(".*", "x").removeprefix("os.rename ").removeprefix("open ")
        event = "open" if moment.pattern.startswith("open") else "os.rename"
        noise = [(moment.step, "os.mkdir", f"noise/{number}") for number in range(5)]
        events += [*noise, *[(moment.step, event, name)] * moment.number]
    path = tmp_path / "trace"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    for seed in range(50):
        moments = kill_moments.drawn(kill_moments.recorded(path), 20, random.Random(seed))
        assert len(moments) == len(NAMED) + 20
        assert [moment for moment in moments if moment in NAMED] == list(NAMED)
        assert [moment.step for moment in moments] == sorted(moment.step for moment in moments)
        assert {moment.step for moment in moments} <= set(STEPS.values())
        assert min(moment.number for moment in moments) >= 1
        assert moments == kill_moments.drawn(events, 20, random.Random(seed)), "the same seed, the same moments"
    with pytest.raises(ValueError, match="'speech': no run comes to it"):
        kill_moments.drawn([event for event in events if event[0] != 7], 1, random.Random(0))
