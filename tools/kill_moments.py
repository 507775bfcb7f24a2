"""Moments at which a run is killed: not so many seconds after its start, but when it is about to touch a certain file.

Python tells each process of the run (through `sitecustomize`, on the path of all of them) what it is about to open for
writing, rename, remove or make. At the moment that was asked for, the whole process group of the run gets SIGKILL.
Steps are in order: a moment that an earlier attempt has left behind is the first one of the next step.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

HOOK = """
import json, os, re, signal, sys

asked = json.loads(os.environ["KILL_MOMENT"])
os.environ.setdefault("KILL_GROUP", str(os.getpgrp()))
group = int(os.environ["KILL_GROUP"])
seen = [0]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def step_of(name):
    first, _, rest = name.partition("/")
    if first == "steps":
        first = rest.partition(".json")[0].strip(".").partition(".")[0]
    if name.endswith("gate.json"):
        first = "register"
    first = re.sub("[.](partial|old)$", "", first).strip(".")
    return asked["steps"].get(first, -1)


def about_to(event, given):
    if event == "open":
        path, _, flags = given
        if not isinstance(path, (str, bytes)) or not isinstance(flags, int) or not flags & WRITES:
            return
    elif event == "os.rename":
        path = given[1]
    elif event in ("os.remove", "os.mkdir", "os.rmdir"):
        path = given[0]
    else:
        return
    try:
        path = os.fsdecode(path)
    except TypeError:
        return
    found = re.search(r"/debug-[0-9a-f]{8}/(.+)", os.path.abspath(path))
    if found is None:
        return
    name = re.sub(r"[.][0-9]+[.](partial|old)", r".\\1", found[1])
    step = step_of(name)
    if step < 0:
        return
    if asked["record"]:
        line = json.dumps([step, event, name]) + "\\n"
        handle = os.open(asked["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(handle, line.encode())
        os.close(handle)
    if asked["step"] is None:
        return
    if step == asked["step"] and re.fullmatch(asked["pattern"], event + " " + name):
        seen[0] += 1
    if step > asked["step"] or seen[0] >= asked["number"]:
        os.killpg(group, signal.SIGKILL)


sys.addaudithook(about_to)
"""
STEPS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("config.json", "inputs", "annotations", "annotate"), 0),
    "ingest": 1,
    **dict.fromkeys(("tokens", "tokenise"), 2),
    "train": 3,
    **dict.fromkeys(("bundle", "export"), 4),
    "evaluate": 5,
    "register": 6,
    **dict.fromkeys(("speak", "speech"), 7),
    **dict.fromkeys(("report.html", "summary.json", "recorded.json"), 8),
}
"""Which step makes what: by the first part of a path in the run's folder, or a step's name."""
Event = tuple[int, str, str]
"""Step, what happens, and to which path in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Before a process of the run does something for the `number`th time."""

    name: str
    step: int
    pattern: str = ".*"
    """Of what happens, a space, and the path."""
    number: int = 1

    def __str__(self) -> str:
        return self.name


NAMED: Final = (
    Moment(name="the start", step=0),
    Moment(name="the first sound", step=1, pattern=r"os\.rename ingest/audio/.*"),
    Moment(name="amid the conversations", step=1, pattern=r"os\.rename ingest/parts/.*", number=6),
    Moment(name="ingest's record", step=1, pattern=r"os\.rename ingest/made\.json"),
    Moment(name="a shard of tokens", step=2, pattern=r"os\.rename tokens/.*-00000\.safetensors"),
    Moment(name="the manifest of tokens", step=2, pattern=r"os\.rename tokens/manifest\.json"),
    Moment(name="amid the first checkpoint", step=3, pattern=r"open train/checkpoints/.*partial/.*"),
    Moment(name="the first checkpoint's name", step=3, pattern=r"os\.rename train/checkpoints/step-.*"),
    Moment(name="the float bundle's name", step=3, pattern=r"os\.rename train/final"),
    Moment(name="the quantised bundle", step=4, pattern=r"os\.rename bundle.*"),
    Moment(name="the first clip", step=5, pattern=r"os\.rename evaluate/clips/.*"),
    Moment(name="the judges' report", step=5, pattern=r"os\.rename evaluate/report\.html"),
    Moment(name="the gate", step=6),
    Moment(name="speech", step=7),
)
"""Moments in every step, where most is under way."""


def environment(folder: Path, *, moment: Moment | None, record: Path | None = None) -> dict[str, str]:
    """What a run is started with so that it is killed at a moment, or so that all its moments are noted down."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    asked = {
        "steps": dict(STEPS),
        "step": moment.step if moment else None,
        "pattern": moment.pattern if moment else "",
        "number": moment.number if moment else 0,
        "record": str(record) if record else "",
    }
    return {"PYTHONPATH": str(folder), "KILL_MOMENT": json.dumps(asked)}


def recorded(path: Path) -> list[Event]:
    """The moments of a run, in order."""
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def drawn(events: Sequence[Event], count: int, rng: random.Random) -> list[Moment]:
    """The named moments and `count` more, in the order in which `events` came; each step is as likely as another.

    A run is killed at one after another, so a random one is so many writes after the one before it.
    """
    places = [(_place(moment, events), moment) for moment in NAMED]
    steps = sorted({step for step, _, _ in events})
    for number in range(1, count + 1):
        step = rng.choice(steps)
        place = rng.choice([at for at, event in enumerate(events) if event[0] == step])
        places.append((place, Moment(name=f"random {number}: {' '.join(events[place][1:])}", step=step)))
    places.sort(key=lambda row: (row[1].step, row[0]))
    found, before = [], -1
    for place, moment in places:
        found.append(moment if moment in NAMED else replace(moment, number=max(1, place - before)))
        before = place
    return found


def _place(moment: Moment, events: Sequence[Event]) -> int:
    """When a moment came in a run; raises `ValueError` where it did not."""
    left = moment.number
    for place, (step, event, name) in enumerate(events):
        if step == moment.step and re.fullmatch(moment.pattern, f"{event} {name}"):
            left -= 1
            if not left:
                return place
    raise ValueError(f"moment {moment.name!r}: no run comes to it")
