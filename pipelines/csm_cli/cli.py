"""The command `csm`.

What a caller can put right is printed in one line on standard error, with exit status 2. Nothing heavy is imported
before a command needs it.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from csm_cli.commands import (
    bench_serve,
    checkpoint,
    codec,
    compile_pipeline,
    fetch_bundle,
    plan,
    plan_run,
    report,
    run,
    runs,
    say,
    scale_record,
    scale_sim,
    schedule,
    serve,
    storage,
    submit,
    swap,
    verify_audio,
    voice,
)
from csm_model.errors import CsmError

app = typer.Typer(
    name="csm",
    help="From recorded conversations to a served conversational speech model.",
    epilog="Start with: csm run. Then: csm say 'Good morning.' --local",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
codec_app = typer.Typer(help="Train the audio codec.", no_args_is_help=True)
checkpoint_app = typer.Typer(
    help="Weights of other programs, both ways: convert, inspect, verify.", no_args_is_help=True
)
voice_app = typer.Typer(
    help="Voices that a server may speak with, each with a record of consent.", no_args_is_help=True
)
app.command(name="run")(run.run)
app.command(name="say")(say.say)
app.command(name="serve")(serve.serve)
app.command(name="swap")(swap.swap)
app.command(name="fetch-bundle")(fetch_bundle.fetch_bundle)
app.command(name="bench-serve")(bench_serve.bench_serve)
app.command(name="scale-sim")(scale_sim.scale_sim)
app.command(name="scale-record")(scale_record.scale_record)
app.command(name="report")(report.report)
app.command(name="plan")(plan.plan)
app.command(name="compile")(compile_pipeline.compile_)
app.command(name="plan-run")(plan_run.plan_run)
app.command(name="submit")(submit.submit)
app.command(name="verify-audio")(verify_audio.verify_audio)
app.command(name="make-bucket")(storage.make_bucket)
app.command(name="prepare-tenants")(storage.prepare_tenants)
codec_app.command(name="train")(codec.train)
app.add_typer(codec_app, name="codec")
checkpoint_app.command(name="convert")(checkpoint.convert)
checkpoint_app.command(name="inspect")(checkpoint.inspect)
checkpoint_app.command(name="verify")(checkpoint.verify)
checkpoint_app.command(name="bundle")(checkpoint.bundle)
app.add_typer(checkpoint_app, name="checkpoint")

voice_app.command(name="add")(voice.add)
voice_app.command(name="list")(voice.list_)
voice_app.command(name="revoke")(voice.revoke)
app.add_typer(voice_app, name="voice")

runs_app = typer.Typer(help="Runs on a cluster: list, show, terminate, retry.", no_args_is_help=True)
runs_app.command(name="list")(runs.list_)
runs_app.command(name="show")(runs.show)
runs_app.command(name="terminate")(runs.terminate)
runs_app.command(name="retry")(runs.retry)
app.add_typer(runs_app, name="runs")

schedule_app = typer.Typer(help="Recurring runs of nightly: create, list, pause, resume, delete.", no_args_is_help=True)
schedule_app.command(name="create")(schedule.create)
schedule_app.command(name="list")(schedule.list_)
schedule_app.command(name="pause")(schedule.pause)
schedule_app.command(name="resume")(schedule.resume)
schedule_app.command(name="delete")(schedule.delete)
app.add_typer(schedule_app, name="schedule")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"csm-foundry {version('csm-foundry')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """From recorded conversations to a served conversational speech model."""


def main() -> None:
    """Runs the command line; 2 for what the caller can put right, 130 when interrupted."""
    try:
        app()
    except CsmError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from what is committed\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
