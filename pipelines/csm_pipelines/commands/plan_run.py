"""`csm plan-run`: what a run on a cluster will do, before it is submitted."""

from __future__ import annotations

from typing import Annotated

import typer


def plan_run(
    pipeline: Annotated[str, typer.Argument(help="training, finetune, release or nightly.")],
    profile: Annotated[str, typer.Option(help="The cluster: a profile of deploy/profiles, or a file.")],
    preset: Annotated[str, typer.Option(help="What to run, as for csm run.")] = "demo",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the preset; may be given again."),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Float bundle of a release: a folder, or its address.")] = None,
    shards: Annotated[int | None, typer.Option(help="Parts of ingest and tokenise. [default: the profile's]")] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=IMAGE", help="An image by digest, data=... or train=...; may be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say which steps will run, which are reused, and why; nothing is sent and nothing is started.

    The storage is read with CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY; CSM_S3_ENDPOINT where it is reached from here by
    another address than the profile's.

    [bold]Examples[/bold]

      csm plan-run training --profile kind --preset demo

      csm plan-run training --profile gpu --preset demo --set train.recipe.steps=250 --json
    """
    import json
    import sys

    from csm_pipelines.options import images_of
    from csm_pipelines.progress import console_for
    from csm_pipelines.run_plan import show
    from csm_pipelines.submission import Request, prepare

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
        plan = prepared.plan()
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=2))
    else:
        show(console_for(sys.stdout), plan)
