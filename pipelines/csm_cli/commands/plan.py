"""`csm plan`: what a training takes, before a GPU is rented for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csm_cli.as_json import AsJson, print_json

TRAINING = "Training"
SPEECH = "Speech"
GPUS = "GPUs"


def plan(
    preset: Annotated[str, typer.Option(help="Sizes of the model: {models}.")],
    hours: Annotated[float, typer.Option(help="Hours of audio in the corpus.")],
    gpus: Annotated[int, typer.Option(help="Number of GPUs, one process each.")] = 8,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: {gpus}.")] = "h100",
    epochs: Annotated[float, typer.Option(help="Passes over the corpus.")] = 1.0,
    config: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of a training's settings; all of them count as set.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the training, such as strategy=ddp; may be repeated.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    turn_seconds: Annotated[
        float, typer.Option(help="Mean length of a turn, in seconds.", rich_help_panel=SPEECH)
    ] = 7.0,
    ids_per_second: Annotated[
        float, typer.Option(help="Text ids in a second of speech.", rich_help_panel=SPEECH)
    ] = 3.5,
    document_turns: Annotated[
        float, typer.Option(help="Turns of a conversation; longer ones are split across packs.", rich_help_panel=SPEECH)
    ] = 40.0,
    padding: Annotated[
        float | None,
        typer.Option(help="Share of the rows that is padding.", show_default="0.02", rich_help_panel=SPEECH),
    ] = None,
    mfu: Annotated[
        float, typer.Option(help="Model FLOPs utilisation: share of the peak that is reached.", rich_help_panel=GPUS)
    ] = 0.35,
    link_share: Annotated[
        float, typer.Option(help="Share of the links' bandwidth that collectives reach.", rich_help_panel=GPUS)
    ] = 0.8,
    reserve_gb: Annotated[
        float, typer.Option(help="Memory reserved for CUDA, NCCL and fragmentation, in GB.", rich_help_panel=GPUS)
    ] = 3.0,
    gpus_per_node: Annotated[int, typer.Option(help="Number of GPUs in a node.", rich_help_panel=GPUS)] = 8,
    tflops: Annotated[
        float | None, typer.Option(help="Peak of another GPU, bf16 TFLOP/s.", show_default=False, rich_help_panel=GPUS)
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(help="Memory of another GPU, in GB.", show_default=False, rich_help_panel=GPUS)
    ] = None,
    memory_gbs: Annotated[
        float | None,
        typer.Option(help="Memory bandwidth of another GPU, in GB/s.", show_default=False, rich_help_panel=GPUS),
    ] = None,
    link_gbs: Annotated[
        float | None,
        typer.Option(
            help="Bandwidth between the GPUs of a node, GB/s one way.", show_default=False, rich_help_panel=GPUS
        ),
    ] = None,
    network_gbs: Annotated[
        float | None,
        typer.Option(help="Bandwidth between nodes, GB/s one way.", show_default=False, rich_help_panel=GPUS),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, time and storage of a training, and what to change if it does not fit.

    What is not set is chosen so that it fits. The exit status is 0 if the plan fits, and 2 if it does not or an
    option is wrong.

    [bold]Examples[/bold]

      csm plan --preset csm-8b --hours 1e6 --gpus 64 --gpu h100

      csm plan --preset csm-1b --hours 10000 --gpus 8 --gpu a100-40 --set micro_packs=4 --set strategy=ddp
    """
    import sys
    from dataclasses import replace
    from typing import Any

    from csm_cli.planning import Question, answer, show, to_json
    from csm_model.errors import InputError
    from csm_model.planner.hardware import gpu_named
    from csm_model.planner.job import SpeechShape
    from csm_model.planner.timing import Assumptions
    from csm_pipelines.progress import console_for

    card = gpu_named(gpu)
    changed: dict[str, Any] = {
        name: value
        for name, value in {
            "tflops": tflops,
            "memory_gb": memory_gb,
            "memory_gbs": memory_gbs,
            "link_gbs": link_gbs,
            "network_gbs": network_gbs,
        }.items()
        if value is not None
    }
    if changed:
        card = replace(card, name=f"{card.name} changed", **changed)
    speech = SpeechShape(turn_seconds=turn_seconds, ids_per_second=ids_per_second, document_turns=document_turns)
    if padding is not None:
        speech = replace(speech, padding=padding)
    found = answer(
        Question(
            preset=preset,
            hours=hours,
            epochs=epochs,
            gpus=gpus,
            gpu=card,
            speech=speech,
            assumptions=Assumptions(mfu=mfu, link_share=link_share, reserve_gb=reserve_gb, gpus_per_node=gpus_per_node),
            config=config,
            settings=tuple(settings or ()),
        )
    )
    if as_json:
        print_json(to_json(found))
    else:
        show(console_for(sys.stdout), found)
    if not found.plan.fits:
        raise InputError(found.refusal)
