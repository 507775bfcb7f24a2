"""How a command that followed a run on a cluster ends."""

from __future__ import annotations

from collections.abc import Callable

import typer
from rich.console import Console

from csm_pipelines.following import Ended, log_hint


def leave(console: Console, follow: Callable[[], Ended], *, run_id: str, namespace: str) -> None:
    """Follows, says how the run ended, and leaves with its exit status: 0 well, 1 not; 130 when interrupted."""
    try:
        done = follow()
    except KeyboardInterrupt:
        console.print(
            f"no longer following; the run goes on (csm runs show {run_id}, csm runs terminate {run_id})",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    if done.well:
        console.print("the run succeeded")
        return
    where = f" in step {done.failed_step}" if done.failed_step else ""
    words = f": {done.words}" if done.words else ""
    console.print(f"the run ended as {done.state}{where}{words}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"its log: {log_hint(done, namespace)}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"failed steps alone: csm runs retry {run_id}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
