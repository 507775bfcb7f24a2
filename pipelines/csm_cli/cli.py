"""The command `csm`.

What a caller can put right is printed in one line on standard error, with exit status 2. Nothing heavy is imported
before a command needs it.
"""

from __future__ import annotations

import errno
import functools
import math
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from csm_cli.commands import (
    bench_serve,
    checkpoint,
    codec,
    compile_pipeline,
    data,
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
    token,
    verify_audio,
    voice,
)
from csm_cli.help import use_plain_help
from csm_cli.missing import missing
from csm_model.errors import CsmError, InputError, shown
from csm_model.machine_errors import machine_error

HERE = "Train, speak and serve on this machine"
CLUSTER = "Pipelines on a cluster"
PLANS = "Plan and scale"
SCRIPTS = "Tools for charts and scripts"

app = typer.Typer(
    name="csm",
    help="Turn recorded conversations into a conversational speech model, and serve it.",
    epilog="Start with: csm run. Then: csm say 'Good morning.' --local",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
codec_app = typer.Typer(help="Train the audio codec, and adapt a base to it.", no_args_is_help=True)
checkpoint_app = typer.Typer(
    help="Read and write weights of Sesame, Hugging Face and this program.", no_args_is_help=True
)
voice_app = typer.Typer(help="Add, list and revoke voices, each with a record of consent.", no_args_is_help=True)
app.command(name="run", rich_help_panel=HERE)(run.run)
app.command(name="report", rich_help_panel=HERE)(report.report)
app.command(name="say", rich_help_panel=HERE)(say.say)
app.command(name="serve", rich_help_panel=HERE)(serve.serve)
app.command(name="swap", rich_help_panel=HERE)(swap.swap)
app.command(name="bench-serve", rich_help_panel=HERE)(bench_serve.bench_serve)
app.command(name="plan-run", rich_help_panel=CLUSTER)(plan_run.plan_run)
app.command(name="submit", rich_help_panel=CLUSTER)(submit.submit)
app.command(name="compile", rich_help_panel=CLUSTER)(compile_pipeline.compile_)
app.command(name="plan", rich_help_panel=PLANS)(plan.plan)
app.command(name="scale-sim", rich_help_panel=PLANS)(scale_sim.scale_sim)
app.command(name="scale-record", rich_help_panel=PLANS)(scale_record.scale_record)
app.command(name="verify-audio", rich_help_panel=SCRIPTS)(verify_audio.verify_audio)
app.command(name="fetch-bundle", rich_help_panel=SCRIPTS)(fetch_bundle.fetch_bundle)
app.command(name="make-bucket", rich_help_panel=SCRIPTS)(storage.make_bucket)
app.command(name="prepare-tenants", rich_help_panel=SCRIPTS)(storage.prepare_tenants)
codec_app.command(name="train")(codec.train)
codec_app.command(name="adapt")(codec.adapt)
app.add_typer(codec_app, name="codec", rich_help_panel=HERE)
checkpoint_app.command(name="convert")(checkpoint.convert)
checkpoint_app.command(name="inspect")(checkpoint.inspect)
checkpoint_app.command(name="verify")(checkpoint.verify)
checkpoint_app.command(name="bundle")(checkpoint.bundle)
app.add_typer(checkpoint_app, name="checkpoint", rich_help_panel=HERE)

voice_app.command(name="add")(voice.add)
voice_app.command(name="list")(voice.list_)
voice_app.command(name="revoke")(voice.revoke)
app.add_typer(voice_app, name="voice", rich_help_panel=HERE)

data_app = typer.Typer(
    help="Say which corpora can be read, what is taken of them and why, and forget people.",
    no_args_is_help=True,
)
data_app.command(name="readers")(data.readers)
data_app.command(name="policy")(data.policy)
data_app.command(name="forget")(data.forget)
data_app.command(name="card")(data.card)
data_app.command(name="show")(data.show)
data_app.command(name="why")(data.why)
app.add_typer(data_app, name="data", rich_help_panel=HERE)

token_app = typer.Typer(help="Say who may call a server, each by a token.", no_args_is_help=True)
token_app.command(name="add")(token.add)
token_app.command(name="list")(token.list_)
token_app.command(name="remove")(token.remove)
app.add_typer(token_app, name="token", rich_help_panel=HERE)

runs_app = typer.Typer(help="List, show, terminate and retry runs on a cluster.", no_args_is_help=True)
runs_app.command(name="list")(runs.list_)
runs_app.command(name="show")(runs.show)
runs_app.command(name="terminate")(runs.terminate)
runs_app.command(name="retry")(runs.retry)
app.add_typer(runs_app, name="runs", rich_help_panel=CLUSTER)

schedule_app = typer.Typer(
    help="Create, list, pause, resume and delete recurring runs of nightly.", no_args_is_help=True
)
schedule_app.command(name="create")(schedule.create)
schedule_app.command(name="list")(schedule.list_)
schedule_app.command(name="pause")(schedule.pause)
schedule_app.command(name="resume")(schedule.resume)
schedule_app.command(name="delete")(schedule.delete)
app.add_typer(schedule_app, name="schedule", rich_help_panel=CLUSTER)


_OF_PATHS = frozenset({
    errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOTDIR,
})  # fmt: skip
"""What the system says of a path that a caller named and that will not do."""


_INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        typer.echo(f"csm-foundry {version('csm-foundry')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn recorded conversations into a conversational speech model, and serve it."""


def refuse_no_numbers(commands: typer.Typer) -> None:
    """Has every command refuse `nan` and `inf`, which Python reads as numbers: no bound and no figure is either."""
    for command in commands.registered_commands:
        command.callback = _of_finite_numbers(command.callback) if command.callback else None
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            refuse_no_numbers(group.typer_instance)


def _of_finite_numbers(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def checked(**given: Any) -> Any:
        for name, value in given.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--{name.replace('_', '-')} {value}: must be a finite number")
        return run(**given)

    return checked


refuse_no_numbers(app)
use_plain_help(app)


def main() -> None:
    """Runs the command line; 2 for what the caller can put right, 130 when interrupted."""
    try:
        app()
    except CsmError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (needs := missing(error)) is None:
            raise
        sys.stderr.write(f"error: {needs}\n")
        sys.exit(2)
    except OSError as error:
        if (machine := machine_error(error)) is not None:
            sys.stderr.write(f"error: {machine}\n")
        elif isinstance(error.filename, str) and error.errno in _OF_PATHS:
            sys.stderr.write(f"error: {shown(error.filename)}: {error.strerror}; see to the path, and try again\n")
        else:
            raise
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer has caught the KeyboardInterrupt
            sys.stderr.write("interrupted; the same command goes on from what is committed\n")
        raise


if __name__ == "__main__":
    main()
