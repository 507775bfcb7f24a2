"""`csm checkpoint convert|inspect|verify|bundle`: weights of other programs, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_cli.as_json import AsJson, print_json
from csm_model.errors import InputError

if TYPE_CHECKING:
    import torch

    from csm_model.checkpoints import Rope
    from csm_model.checkpoints.writer import Progress

_Source = Annotated[Path, typer.Argument(help="Folder, file (.safetensors, ckpt.pt), or index.json of shards.")]
_Llama3 = Annotated[
    bool,
    typer.Option(
        "--assume-llama3-rope", help="Read a Hugging Face config.json without rope_scaling as having Llama 3's."
    ),
]
_Plain = Annotated[
    bool, typer.Option("--assume-plain-rope", help="Read it as a model that was trained without rope scaling.")
]
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def convert(
    source: _Source,
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    to: Annotated[
        str,
        typer.Option(help="Layout to write; csm: this program's; sesame: Sesame's, Miso's too; hf: Hugging Face's."),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype of the weights: fp32, bf16 or fp16.", show_default="each weight's own"),
    ] = None,
    shard_gb: Annotated[
        float | None,
        typer.Option(
            metavar="<float>",
            help="Largest file, in GB.",
            min=0.001,
            show_default="5; one file for Sesame's",
        ),
    ] = None,
    codec: Annotated[
        Path | None,
        typer.Option(
            help="Mimi to put into a Hugging Face checkpoint: moshi's tokenizer-*.safetensors, or a folder of its own.",
            show_default=False,
        ),
    ] = None,
    assume_llama3_rope: _Llama3 = False,
    assume_plain_rope: _Plain = False,
) -> None:
    """Write a checkpoint in another layout, bit for bit unless a dtype is given.

    [bold]Examples[/bold]

      csm checkpoint convert csm-1b/ckpt.pt csm-1b-hf --to hf

      csm checkpoint convert csm-1b-hf csm-1b-own --to csm --dtype bf16
    """
    from csm_model import checkpoints

    if to not in checkpoints.LAYOUTS:
        raise InputError(f"to {to!r}: there are {', '.join(checkpoints.LAYOUTS)}")
    with _bar("converting") as progress:
        done = checkpoints.convert(
            source,
            out,
            to=to,
            dtype=_dtype(dtype),
            shard_bytes=None if shard_gb is None else int(shard_gb * 1e9),
            codec=codec,
            rope=_rope(assume_llama3_rope, assume_plain_rope),
            progress=progress,
        )
    typer.echo(
        f"{done.folder}: {checkpoints.LAYOUTS[to]} layout, {done.nbytes / 1e9:.2f} GB in {len(done.files)} file(s)"
    )
    if to == "hf" and done.codec == "none":
        typer.echo(
            "no codec in it: transformers will make codes with it but no sound, and says that codec_model is newly "
            "initialised; to have it in, convert again with --codec and Mimi's weights"
        )
    elif done.codec != "none":
        typer.echo(f"codec: {done.codec}")


def inspect(
    source: _Source,
    digest: Annotated[bool, typer.Option(help="Read all weights and print their digest.")] = True,
    assume_llama3_rope: _Llama3 = False,
    assume_plain_rope: _Plain = False,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint is: layout, sizes, weights, dtypes, files, digest, and what is unusual about it.

    [bold]Example[/bold]: csm checkpoint inspect deploy/demo/base
    """
    from rich.console import Console
    from rich.table import Table

    from csm_model import checkpoints

    found = checkpoints.describe(source, rope=_rope(assume_llama3_rope, assume_plain_rope))
    weights = None
    if digest and not found.checkpoint.faults():
        with _bar("reading") as progress:
            weights = checkpoints.weights_digest(found.checkpoint, progress)
    if as_json:
        print_json(
            {
                "layout": found.layout,
                "preset": found.preset,
                "sizes": found.sizes,
                "weights": found.total,
                "dtypes": found.dtypes,
                "parts": found.parts,
                "files": found.files,
                "digest": weights,
                "unusual": found.unusual,
            }
        )
        found.checkpoint.check_whole()
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("layout", found.layout)
    table.add_row("preset", found.preset or "none has these sizes")
    for name, words in found.sizes.items():
        table.add_row(name, words)
    table.add_row("weights", f"{found.total:,} ({found.dtypes})")
    for part, count in found.parts.items():
        table.add_row(f"  {part}", f"{count:,}")
    for name, size in found.files.items():
        table.add_row("file", f"{name}  {size / 1e6:,.1f} MB")
    if weights is not None:
        table.add_row("digest", weights)
    for line in found.unusual:
        table.add_row("unusual", line)
    Console(soft_wrap=True, highlight=False, markup=False).print(table)
    found.checkpoint.check_whole()


def verify(
    source: _Source,
    other: Annotated[
        Path | None, typer.Argument(help="Checkpoint that should hold the same weights.", show_default=False)
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(metavar="<float>", help="Largest difference between two dtypes that counts as rounding.", min=0.0),
    ] = 0.0,
    assume_llama3_rope: _Llama3 = False,
    assume_plain_rope: _Plain = False,
    as_json: AsJson = False,
) -> None:
    """Check that a checkpoint is whole and finite; with a second one, that both hold the same weights, in any layout.

    [bold]Example[/bold]: csm checkpoint verify csm-1b csm-1b-hf
    """
    from dataclasses import asdict

    from csm_model import checkpoints

    with _bar("reading") as progress:
        verdict = checkpoints.verify(
            source,
            other,
            tolerance=tolerance,
            rope=_rope(assume_llama3_rope, assume_plain_rope),
            progress=progress,
        )
    if as_json:
        print_json(asdict(verdict))
        return
    typer.echo(f"{source}: whole, {verdict.tensors} tensors, {verdict.weights:,} weights, all finite")
    if verdict.identical is not None:
        alike = "the same bits" if verdict.identical else f"the same but for rounding, up to {verdict.difference:.3g}"
        typer.echo(f"{other}: {alike}")


def bundle(
    source: _Source,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    tokenizer: Annotated[Path, typer.Option(help="tokenizer.json that the checkpoint was trained with.")],
    codec: Annotated[Path, typer.Option(help="Codec folder (codec.json, codec.safetensors).")],
    prompt: Annotated[str | None, typer.Option(help="Prompt format: sesame or miso.", show_default=False)] = None,
    precision: Annotated[str, typer.Option(help="Precision of the weights: {precisions}.")] = "bf16",
    assume_llama3_rope: _Llama3 = False,
    assume_plain_rope: _Plain = False,
) -> None:
    """Make a bundle of a checkpoint, its tokenizer and its codec, for csm say and csm serve.

    [bold]Example[/bold]

      csm checkpoint bundle csm-1b spoken --tokenizer tokenizer.json --prompt sesame --codec mimi
    """
    from typing import get_args

    from csm_model.checkpoints.bundling import bundle_checkpoint
    from csm_model.manifest import Precision

    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r}: there are {', '.join(get_args(Precision))}")
    written = bundle_checkpoint(
        source,
        out,
        tokenizer=tokenizer,
        codec=codec,
        prompt=prompt,
        precision=precision,  # type: ignore[arg-type]
        rope=_rope(assume_llama3_rope, assume_plain_rope),
    )
    typer.echo(f"{out}: bundle {written['digest'][:12]}, {precision}")


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    if name is None:
        return None
    if name not in _DTYPES:
        raise InputError(f"dtype {name!r}: there are {', '.join(_DTYPES)}")
    dtype: torch.dtype = getattr(torch, _DTYPES[name])
    return dtype


def _rope(llama3: bool, plain: bool) -> Rope | None:
    if llama3 and plain:
        raise InputError("--assume-llama3-rope and --assume-plain-rope exclude each other; give one")
    return "llama3" if llama3 else "plain" if plain else None


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A progress bar of bytes on standard error, gone when it is done; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
