"""`csm runs`: the runs on a cluster: list, show, terminate, retry."""

from __future__ import annotations

from typing import Annotated

import typer

from csm_cli.as_json import AsJson, print_json

PROFILE = typer.Option(help="The cluster; without it, CSM_KFP_HOST and the other variables are used.")
RUN = typer.Argument(help="Id of the run.")


def list_(
    profile: Annotated[str | None, PROFILE] = None,
    most: Annotated[int, typer.Option(metavar="<int>", min=1, max=200, help="Most runs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest runs."""
    import sys

    from rich.table import Table

    from csm_cli.connection import connect
    from csm_pipelines.progress import console_for

    found = connect(profile).runs(most)
    if as_json:
        print_json(
            [
                {
                    "run": run.run_id,
                    "state": str(run.state or "PENDING").lower(),
                    "began": run.created_at.isoformat() if run.created_at else None,
                    "name": run.display_name,
                }
                for run in found
            ]
        )
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("run", "state", "began", "name"):
        table.add_column(title, no_wrap=True)
    for run in found:
        began = run.created_at.strftime("%Y-%m-%d %H:%M") if run.created_at else ""
        table.add_row(run.run_id, str(run.state or "PENDING").lower(), began, run.display_name)
    console_for(sys.stdout).print(table)


def show(
    run: Annotated[str, RUN],
    profile: Annotated[str | None, PROFILE] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep showing until the run has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run's steps; with --follow, until the run ends, and exit with its status."""
    import sys
    from dataclasses import asdict

    from csm_cli.connection import connect, namespace_of
    from csm_cli.outcome import leave
    from csm_model.errors import InputError
    from csm_pipelines.following import follow as follow_run
    from csm_pipelines.following import states_of
    from csm_pipelines.progress import StepBoard, console_for

    if follow and as_json:
        raise InputError("--follow shows a run as it goes on, --json as it stands: give one of them")
    console, client = console_for(sys.stdout), connect(profile)
    found = client.run(run)
    rows = states_of(found)
    state = str(found.state).lower()
    if as_json:
        steps = [asdict(row) for row in rows]
        print_json({"run": run, "name": found.display_name, "state": state, "url": client.url(run), "steps": steps})
        return
    console.print(f"{found.display_name}: {state}, {client.url(run)}", highlight=False, soft_wrap=True)
    if follow:
        leave(
            console,
            lambda: follow_run(client, run, steps=[row.step for row in rows], console=console),
            run_id=run,
            namespace=namespace_of(profile),
        )
        return
    board = StepBoard(console=console, steps=[row.step for row in rows], note=lambda _step: (False, ""))
    for row in rows:
        board.put(row.step, state=row.state, seconds=row.seconds, note=row.note)


def terminate(run: Annotated[str, RUN], profile: Annotated[str | None, PROFILE] = None) -> None:
    """Stop a run; a training in progress gets SIGTERM and saves a checkpoint."""
    from csm_cli.connection import connect

    connect(profile).terminate(run)
    typer.echo(f"run {run}: told to end")


def retry(run: Annotated[str, RUN], profile: Annotated[str | None, PROFILE] = None) -> None:
    """Run the failed steps of a run again; successful steps stay."""
    from csm_cli.connection import connect

    connect(profile).retry(run)
    typer.echo(f"run {run}: its failed steps start again; csm runs show {run} --follow")
