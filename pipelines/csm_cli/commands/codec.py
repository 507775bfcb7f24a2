"""`csm codec train|adapt`: the RVQ codec, from any corpus; and a base for one that keeps its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    corpus: Annotated[
        list[Path],
        typer.Option(
            metavar="FOLDER",
            help="Folder of audio and text, as for csm run; repeat it to add corpora, or to weigh one twice.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the codec; a killed training resumes in it.")],
    sound: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of sound files without texts, for more voices; repeat it to weigh one twice.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(metavar="<float>", help="Training time in minutes, summed over resumed runs.", min=0.01)
    ] = 20.0,
    stage: Annotated[
        str,
        typer.Option(help="joint: everything; decoder: the decoder alone, adversarially; both: half the time each."),
    ] = "both",
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Codec to start from; the decoder stage needs one.", show_default=False),
    ] = None,
    sizes: Annotated[str, typer.Option(help="Sizes of the codec: demo or debug.")] = "demo",
    codebooks: Annotated[
        int | None,
        typer.Option(
            metavar="<int>",
            help="Codes a frame, if not as many as the codec to start from has; further ones are fitted first.",
            show_default=False,
            min=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
) -> None:
    """Train the audio codec on a corpus; the same command resumes a training that was killed.

    [bold]Examples[/bold]

      csm codec train --corpus deploy/demo/corpus --out codec --minutes 60

      csm codec train --corpus deploy/demo/base-corpus --corpus deploy/demo/corpus --out codec --minutes 60

      csm codec train --corpus deploy/demo/corpus --from codec --out codec-2 --stage decoder --minutes 30

      csm codec train --corpus deploy/demo/corpus --sound data/people/train --from codec --out codec-3 --stage decoder

      csm codec train --corpus data/voices --sound data/people/train --from codec --out codec-4 --codebooks 8
    """
    from csm_components.codec.step import train_codec

    result = train_codec(
        corpus,
        out,
        minutes=minutes,
        sounds=sound or (),
        stage=stage,
        start=start,
        sizes=sizes,
        codebooks=codebooks,
        seed=seed,
        say=typer.echo,
    )
    typer.echo(f"codec {result.digest[:12]} after {result.steps} steps and {result.minutes:.1f} min: {result.out}")


def adapt(
    base: Annotated[Path, typer.Argument(help="Base to begin from: a bundle of float weights.")],
    codec: Annotated[Path, typer.Option(help="Codec that it is to speak with; it makes the same codes.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    own_codec: Annotated[
        Path | None,
        typer.Option(help="The base's codec, where the bundle carries none.", show_default=False),
    ] = None,
) -> None:
    """Write a base again for a codec that keeps the codes of its own: another decoder, more codebooks, or fewer.

    Training then goes on from it, on tokens of the new codec. What it knows of the codebooks that both have stays as it
    is.

    [bold]Examples[/bold]

      csm codec adapt deploy/demo/base --own-codec deploy/demo/codec --codec codec-4 --out base-4
    """
    from csm_components.codec.adapt import adapt_base

    manifest = adapt_base(base, own_codec or base / "codec", codec, out)
    typer.echo(f"base {manifest['digest'][:12]} for codec {manifest['codec_digest'][:12]}: {out}")
