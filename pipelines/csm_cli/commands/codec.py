"""`csm codec train`: the RVQ codec, from any corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    corpus: Annotated[
        list[Path],
        typer.Option(
            help="Folder of audio and text, in any layout that csm run takes; more than one add up, twice counts twice."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the codec; a killed training goes on in it.")],
    minutes: Annotated[
        float, typer.Option(help="Time to train for, over all the runs that it takes.", min=0.01)
    ] = 20.0,
    stage: Annotated[
        str,
        typer.Option(help="joint: everything; decoder: the decoder alone, adversarially; both: half the time each."),
    ] = "both",
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Codec to begin from; the decoder stage needs one.", show_default=False),
    ] = None,
    sizes: Annotated[str, typer.Option(help="Sizes of the codec: demo or debug.")] = "demo",
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
) -> None:
    """Train the audio codec from a corpus, and go on where a killed training stopped.

    [bold]Examples[/bold]

      csm codec train --corpus deploy/demo/corpus --out codec --minutes 60

      csm codec train --corpus deploy/demo/base-corpus --corpus deploy/demo/corpus --out codec --minutes 60

      csm codec train --corpus deploy/demo/corpus --from codec --out codec-2 --stage decoder --minutes 30
    """
    from csm_components.codec.step import train_codec

    result = train_codec(corpus, out, minutes=minutes, stage=stage, start=start, sizes=sizes, seed=seed, say=typer.echo)
    typer.echo(f"codec {result.digest[:12]} after {result.steps} steps and {result.minutes:.1f} min: {result.out}")
