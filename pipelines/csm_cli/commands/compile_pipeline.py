"""`csm compile`: a pipeline of a cluster as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csm_cli.options import Images, Pipeline, Profile, images_of


def compile_(
    pipeline: Pipeline,
    profile: Profile,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None,
    format_: Annotated[
        str,
        typer.Option("--format", help="ir: the API's format; crs: Pipeline and PipelineVersion resources for GitOps."),
    ] = "ir",
    image: Images = None,
) -> None:
    """Compile a pipeline for a cluster; without cache keys, so every step runs.

    [bold]Examples[/bold]

      csm compile training --profile kind --out training.yaml

      csm compile nightly --profile production.yaml --format crs --out nightly.yaml
    """
    from typing import cast

    from csm_pipelines.compiling import Format, compile_pipeline, write_pipeline
    from csm_pipelines.profile import load_profile

    text = compile_pipeline(pipeline, load_profile(profile, images_of(image)), format=cast("Format", format_))
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_pipeline(out, text)
