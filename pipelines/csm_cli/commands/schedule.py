"""`csm schedule`: recurring runs of nightly: create, list, pause, resume, delete."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from csm_cli.as_json import AsJson, print_json
from csm_cli.commands.runs import PROFILE
from csm_cli.options import Images, Preset, Profile, Settings, Shards, images_of, trigger_of

SCHEDULE = typer.Argument(help="Name or id of the schedule.")


def create(
    name: Annotated[str, typer.Argument(help="Name of the schedule.")],
    profile: Profile,
    preset: Preset = "demo",
    settings: Settings = None,
    cron: Annotated[
        str, typer.Option(help="Six fields, seconds first, UTC: '0 0 3 * * *' is each night at three.")
    ] = "",
    every: Annotated[str, typer.Option(help="Time from one start to the next: 12h, 1d.")] = "",
    shards: Shards = None,
    image: Images = None,
) -> None:
    """Fine-tune on new data at regular times, and deploy what passes the gate.

    The corpus should be an address of the storage (--set data.corpus=s3://...): each run reads what is there
    at that time. One run at a time; missed runs are not caught up.

    [bold]Examples[/bold]

      csm schedule create calls --profile gpu --set data.corpus=s3://csm/corpora/calls --cron "0 0 3 * * *"

      csm schedule create calls --profile gpu --preset lora --every 12h
    """
    import sys

    from csm_pipelines.kfp_client import KfpClient
    from csm_pipelines.progress import console_for
    from csm_pipelines.settings import load_settings
    from csm_pipelines.submission import Request, prepare

    trigger = trigger_of(cron, every)
    request = Request(
        pipeline="nightly",
        preset=preset,
        profile=profile,
        settings=settings or (),
        images=images_of(image),
        shards=shards,
    )
    with prepare(request) as prepared:
        client = KfpClient(load_settings(prepared.profile.kfp))
        prepared.send(console_for(sys.stdout))
        version = client.upload(prepared.compile())
    made = client.schedule(version, name, prepared.arguments, trigger, prepared.profile.run.service_account)
    typer.echo(f"schedule {name} ({made}): {version.name}, {cron or f'every {every}'}")


def list_(profile: Annotated[str | None, PROFILE] = None, as_json: AsJson = False) -> None:
    """List the schedules."""
    import sys

    from rich.table import Table

    from csm_cli.connection import connect
    from csm_pipelines.progress import console_for

    rows = [
        {
            "schedule": each.display_name,
            "state": str(each.status or "").lower(),
            "when": _when(each.trigger),
            "id": each.recurring_run_id,
        }
        for each in connect(profile).schedules()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("schedule", "state", "when", "id"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console_for(sys.stdout).print(table)


def _when(trigger: Any) -> str:
    """When a schedule's runs start: a cron line, or an interval."""
    if trigger is None:
        return ""
    if trigger.cron_schedule is not None:
        return str(trigger.cron_schedule.cron)
    return f"every {trigger.periodic_schedule.interval_second} s"


def pause(schedule: Annotated[str, SCHEDULE], profile: Annotated[str | None, PROFILE] = None) -> None:
    """Start no more runs until it is resumed; a run in progress goes on."""
    from csm_cli.connection import connect

    client = connect(profile)
    client.pause(client.schedule_named(schedule).recurring_run_id)
    typer.echo(f"schedule {schedule}: paused")


def resume(schedule: Annotated[str, SCHEDULE], profile: Annotated[str | None, PROFILE] = None) -> None:
    """Resume a paused schedule."""
    from csm_cli.connection import connect

    client = connect(profile)
    client.resume(client.schedule_named(schedule).recurring_run_id)
    typer.echo(f"schedule {schedule}: resumed")


def delete(schedule: Annotated[str, SCHEDULE], profile: Annotated[str | None, PROFILE] = None) -> None:
    """Delete a schedule; the runs that it started stay."""
    from csm_cli.connection import connect

    client = connect(profile)
    client.delete_schedule(client.schedule_named(schedule).recurring_run_id)
    typer.echo(f"schedule {schedule}: deleted")
