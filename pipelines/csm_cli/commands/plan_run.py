"""`csm plan-run`: what a run on a cluster will do, before it is submitted."""

from __future__ import annotations

from csm_cli.as_json import AsJson, print_json
from csm_cli.options import Bundle, Images, Pipeline, Preset, Profile, Settings, Shards, images_of


def plan_run(
    pipeline: Pipeline,
    profile: Profile,
    preset: Preset = "demo",
    settings: Settings = None,
    bundle: Bundle = None,
    shards: Shards = None,
    image: Images = None,
    as_json: AsJson = False,
) -> None:
    """Show which steps would run, which would be reused, and why; sends and starts nothing.

    The storage is read with CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY; CSM_S3_ENDPOINT if its address from
    here differs from the profile's.

    [bold]Examples[/bold]

      csm plan-run training --profile kind --preset demo

      csm plan-run training --profile gpu --preset demo --set train.recipe.steps=250 --json
    """
    import sys

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
        print_json(plan.to_json())
    else:
        show(console_for(sys.stdout), plan)
