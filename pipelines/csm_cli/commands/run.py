"""`csm run`: the whole path, from a corpus to a spoken sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csm_cli.options import Settings


def run(
    preset: Annotated[str, typer.Option(help="What to run: {presets}.")] = "demo",
    corpus: Annotated[
        str | None,
        typer.Option(help="Folder of audio and text, in a layout of csm data readers.", show_default="the preset's"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder of sound alone, instead of --corpus: who says what is found in it first."),
    ] = None,
    settings: Settings = None,
    runs: Annotated[Path, typer.Option(help="Folder for the runs; RUNS/latest names the last one.")] = Path("runs"),
    show: Annotated[bool, typer.Option("--show", help="Print the configuration as JSON and exit.")] = False,
) -> None:
    """Train a model on a corpus and let it speak: ingest, tokenise, train, export, evaluate, register, serve, speak.

    The same command resumes a run that was killed and reuses every step that is done. A gate that is not
    passed is no error: the version stays candidate, speaks all the same, and the summary says which figure missed.

    [bold]Examples[/bold]

      csm run

      csm run --preset debug

      csm run --corpus recordings --set data.license=CC-BY-4.0 --set train.recipe.steps=500

      csm run --data sound --set data.license=CC-BY-4.0 --set annotate.recogniser=base

      csm run --set gate.max_wer=0.2 --set release.say="Good morning, everyone."
    """
    from csm_model.errors import InputError
    from csm_pipelines.checks import check_config
    from csm_pipelines.config import MAKE
    from csm_pipelines.presets import preset as preset_named

    config = preset_named(preset)
    if corpus is not None and data is not None:
        raise InputError(
            f"--corpus {corpus} and --data {data}: give one of them, --data for sound that has no texts; for both in "
            "one folder give --data"
        )
    if data is not None:
        folder = str(Path(data).absolute())
        config = config.changed(data={"corpus": folder, "conversations": None, "annotations": MAKE})
    if corpus is not None:
        config = config.changed(data={"corpus": str(Path(corpus).absolute()), "conversations": None})
    config = check_config(config, settings or [])
    if show:
        import json

        typer.echo(json.dumps(config.to_json(), indent=2))
        return

    import sys

    from csm_cli.missing import OF_A_RUN, TO_ANNOTATE, look_for

    look_for((*OF_A_RUN, *(TO_ANNOTATE if config.data.annotations == MAKE else ())))
    from csm_pipelines.progress import console_for
    from csm_pipelines.runner import run_pipeline
    from csm_pipelines.summary import show as show_summary

    console = console_for(sys.stdout)
    done = run_pipeline(config, runs=runs, console=console)
    show_summary(console, done.summary)
