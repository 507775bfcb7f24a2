"""`csm compile`: a pipeline of a cluster as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csm_cli.options import Images, Pipeline, Profile, Settings, images_of


def compile_(
    pipeline: Pipeline,
    profile: Profile,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None,
    format_: Annotated[
        str,
        typer.Option("--format", help="Format; ir: the API's; crs: Pipeline and PipelineVersion resources for GitOps."),
    ] = "ir",
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset whose settings the pipeline's parameters have by default: {presets}.",
            show_default="the steps' own; demo with --set",
        ),
    ] = None,
    settings: Settings = None,
    image: Images = None,
) -> None:
    """Compile a pipeline for a cluster; without cache keys, so every step runs.

    The settings that it has by default are checked as csm run checks them.

    [bold]Examples[/bold]

      csm compile training --profile kind --out training.yaml

      csm compile nightly --profile production.yaml --format crs --out nightly.yaml

      csm compile nightly --profile gpu --preset lora --set gate.max_wer=0.1 --out nightly.yaml
    """
    from typing import cast

    from csm_pipelines.compiling import Format, compile_pipeline, write_pipeline
    from csm_pipelines.profile import load_profile

    cluster = load_profile(profile, images_of(image))
    config = None
    if preset is not None or settings:
        from csm_pipelines.checks import check_config
        from csm_pipelines.presets import preset as preset_named

        config = check_config(preset_named(preset or "demo"), settings or (), target=cluster.train)
    text = compile_pipeline(pipeline, cluster, format=cast("Format", format_), config=config)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_pipeline(out, text)
