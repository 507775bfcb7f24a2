"""`csm submit`: a run on a cluster, followed until it has ended."""

from __future__ import annotations

from typing import Annotated

import typer

from csm_cli.options import Bundle, Images, Pipeline, Preset, Profile, Settings, Shards, images_of


def submit(
    pipeline: Pipeline,
    profile: Profile,
    preset: Preset = "demo",
    settings: Settings = None,
    bundle: Bundle = None,
    shards: Shards = None,
    image: Images = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="pipeline, model and time")] = None,
    follow: Annotated[bool, typer.Option(help="Show the steps until the run has ended.")] = True,
) -> None:
    """Run a pipeline on a cluster: upload local inputs, start the run, follow it.

    The exit status is the run's: 0 if it succeeded, 1 if it failed, 2 if an option or input is wrong. Ctrl-C stops
    following; the run goes on. Kubeflow Pipelines is reached as CSM_KFP_HOST, CSM_KFP_TOKEN and
    the profile say, the storage with CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY.

    [bold]Examples[/bold]

      csm submit training --profile kind --preset demo

      csm submit finetune --profile gpu --preset lora --set data.corpus=s3://csm/corpora/calls

      csm submit release --profile gpu --preset demo --bundle s3://csm/production/trained/0a1b2c
    """
    import sys

    from csm_cli.outcome import leave
    from csm_pipelines.following import follow as follow_run
    from csm_pipelines.kfp_client import KfpClient
    from csm_pipelines.progress import console_for
    from csm_pipelines.run_plan import remember
    from csm_pipelines.settings import load_settings
    from csm_pipelines.submission import Request, prepare, run_name

    console = console_for(sys.stdout)
    request = Request(
        pipeline=pipeline,
        preset=preset,
        profile=profile,
        settings=settings or (),
        images=images_of(image),
        shards=shards,
        bundle=bundle,
    )
    with prepare(request) as prepared:
        client = KfpClient(load_settings(prepared.profile.kfp))
        prepared.send(console)
        version = client.upload(prepared.compile())
    known = "there already" if version.reused else "uploaded"
    console.print(f"pipeline {version.name}: {known}", highlight=False)
    run_id = client.start(version, name or run_name(prepared), prepared.arguments, prepared.profile.run.service_account)
    if prepared.keys:
        remember(prepared.storage, pipeline, prepared.config.release.model, prepared.keys, run_id)
    console.print(f"run {run_id}: {client.url(run_id)}", highlight=False, soft_wrap=True)
    if follow:
        leave(
            console,
            lambda: follow_run(client, run_id, steps=prepared.pipeline.step_names, console=console),
            run_id=run_id,
            namespace=prepared.profile.namespace,
        )
