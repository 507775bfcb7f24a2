"""What a served model must stand, on a real Triton on this machine, with the demo's model.

    python benchmarks/serving.py [all | streams | access | overload | hostile | cancelled | kills | drain | swap |
                                  soak ...] [--quick] [--hours 1] [--requests 10000] [--lead SECONDS] [--budget 0]

Each prints a table and says of each target whether it was met; the exit status is 1 where one was missed.

- **streams**: 8 live streams, no start buffer at the player; first audio at 8 against 1, in phases that take turns.
- **access**: first audio and steps with TLS, certificates of clients and tokens on, against a server without, in turn.
- **overload**: 40 streams offered to 8 slots, by clients that ask again when the server says, and in bursts.
- **hostile**: 10,000 requests that nobody should send (`served.attacks`), beside listeners that must hear nothing
  of it.
- **cancelled**: 20 requests with minutes of sound, each of whose callers leaves at once, and the next caller.
- **kills**: the model of one of two servers killed 20 times under 8 live streams, then that of one server alone.
- **drain**, **swap**: SIGTERM, and another version, while all slots speak.
- **soak**: an hour of listening at 6 of 8 slots, as fast as it comes.

The listeners (`served.listeners`) are one process on the same cores. `--budget 0.9` lets the server refuse streams that
would make others late, as it does by default; without it slots alone decide, so that 8 streams are live on a machine
that has other work.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from served import access, cancelled, drain, hostile, kills, overload, soak, streams
from served.server import DEMO, served
from served.table import Row, print_table

GRACE_S = 60.0
SLOTS = 8


def run_streams(asked: argparse.Namespace) -> list[Row]:
    with served(slots=SLOTS, frame_budget=asked.budget, lead_s=asked.lead) as triton:
        return streams.measure(triton, rounds=2 if asked.quick else 6, seconds=5 if asked.quick else 12)


def run_access(asked: argparse.Namespace) -> list[Row]:
    return access.measure(
        rounds=2 if asked.quick else 6, seconds=5 if asked.quick else 12, slots=SLOTS, frame_budget=asked.budget
    )


def run_overload(asked: argparse.Namespace) -> list[Row]:
    with served(slots=SLOTS, frame_budget=asked.budget) as triton:
        rows = overload.rows_of("sustained", overload.sustained(triton, seconds=6 if asked.quick else 40))
        return rows + overload.rows_of("bursts", overload.bursts(triton, count=2 if asked.quick else 8))


def run_hostile(asked: argparse.Namespace) -> list[Row]:
    with served(slots=SLOTS, frame_budget=asked.budget, keepalive_s=2.0) as triton:
        return hostile.rows_of(hostile.run(triton, count=600 if asked.quick else asked.requests))


def run_cancelled(asked: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    speaker, other = streams.SPEAKERS[:2]
    with served(slots=SLOTS, frame_budget=asked.budget) as triton:
        for what, seconds in cancelled.CONTEXTS.items():
            rows += cancelled.rows_of(what, cancelled.run(triton, seconds, speaker=speaker, other=other))
    return rows


def run_kills(asked: argparse.Namespace) -> list[Row]:
    requests = drain.stories(SLOTS, max_frames=150 if asked.quick else 400)
    with tempfile.TemporaryDirectory(prefix="csm-kills-") as folder:
        done = kills.run(
            DEMO / "base",
            requests,
            Path(folder),
            kills=4 if asked.quick else 20,
            alone=1 if asked.quick else 3,
            codec=DEMO / "codec",
            slots=SLOTS,
            frame_budget=asked.budget,
        )
    return kills.rows_of(done)


def run_drain(asked: argparse.Namespace) -> list[Row]:
    with served(slots=SLOTS, frame_budget=asked.budget, exit_timeout_s=GRACE_S) as triton:
        requests = drain.stories(SLOTS, max_frames=150 if asked.quick else 400)
        return drain.sigterm_rows(drain.sigterm(triton, requests, grace_s=GRACE_S), GRACE_S)


def run_swap(asked: argparse.Namespace) -> list[Row]:
    with served(slots=SLOTS, frame_budget=asked.budget) as triton:
        requests = drain.stories(SLOTS - 1, max_frames=300 if asked.quick else None)
        return drain.swap_rows(
            drain.swap(triton, DEMO / "base", requests, streams.requests_of(streams.SPEAKERS, max_wait_s=10.0))
        )


def run_soak(asked: argparse.Namespace) -> list[Row]:
    with served(slots=SLOTS, frame_budget=asked.budget, lead_s=0.0) as triton:
        return soak.measure(triton, hours=0.02 if asked.quick else asked.hours)


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "streams": run_streams,
    "access": run_access,
    "overload": run_overload,
    "hostile": run_hostile,
    "cancelled": run_cancelled,
    "kills": run_kills,
    "drain": run_drain,
    "swap": run_swap,
    "soak": run_soak,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["all"], choices=["all", *PARTS], metavar="PART")
    parser.add_argument("--quick", action="store_true", help="some minutes in all instead of half an hour")
    parser.add_argument("--hours", type=float, default=1.0, help="of listening, of the soak")
    parser.add_argument("--requests", type=int, default=10_000, help="hostile ones")
    parser.add_argument("--lead", type=float, help="CSM_SERVING_LEAD_S of the server of `streams`")
    parser.add_argument("--budget", type=float, default=0.0, help="CSM_SERVING_FRAME_BUDGET of the server")
    asked = parser.parse_args(arguments)
    missed = 0
    for name in PARTS if "all" in asked.parts else asked.parts:
        began, load = time.perf_counter(), os.getloadavg()[0]
        rows = PARTS[name](asked)
        print_table(f"{name}, {time.perf_counter() - began:.0f} s; load of the machine before: {load:.1f}", rows)
        missed += sum(not row.met for row in rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
