"""`csm verify-audio`: whether a sound carries the watermark, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csm_cli.as_json import AsJson, print_json

if TYPE_CHECKING:
    from csm_model.watermark import Finding, Report

_BLOCKS = " ▁▂▃▄▅▆▇█"


def verify_audio(
    file: Annotated[Path, typer.Argument(help="Sound file in any format that libsndfile reads, at any sample rate.")],
    watermark: Annotated[
        str, typer.Option(help="Watermark to look for: perth, or silentcipher:<folder of weights>.")
    ] = "perth",
    key: Annotated[
        str | None,
        typer.Option(help="Key of the payload, hexadecimal.", show_default="public"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether a sound carries the watermark: exit status 0 if it does, 1 if not, 2 if it cannot be decided.

    [bold]Examples[/bold]

      csm verify-audio speech.wav

      csm verify-audio call.opus --json
    """
    import numpy as np
    import torch

    from csm_components.ingest.audio import read_sound, to_model_rate
    from csm_model.errors import InputError
    from csm_model.watermark import open_detector

    if not file.is_file():
        raise InputError(f"{file}: no such file; give a sound")
    samples, rate = read_sound(file)
    mono = to_model_rate(np.ascontiguousarray(samples.mean(axis=1)), rate)
    report = open_detector(watermark, key=key).find(torch.from_numpy(mono))
    if as_json:
        print_json({"file": str(file), **_as_dict(report)})
    else:
        _print(file, report)
    raise typer.Exit(0 if report.marked else 1)


def _as_dict(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "marked": report.marked,
        "payload": report.payload,
        "presence": report.whole.presence,
        "chance": min(found.chance for found in (report.whole, *report.windows)),
        "speed": report.whole.speed,
        "seconds": report.whole.end,
        "windows": [asdict(window) for window in report.windows],
    }


def _print(file: Path, report: Report) -> None:
    whole = report.whole
    typer.echo(f"{file}: {'marked' if report.marked else 'no mark found'} ({_length(whole.end)})")
    typer.echo(f"  presence  {whole.presence:.2f} of 1; above 0.5 the network hears the mark")
    if report.payload is None:
        typer.echo("  payload   none that can be read" + ("; presence alone is a hint" if report.marked else ""))
    else:
        best = min((whole, *report.windows), key=lambda found: found.chance)
        typer.echo(f"  payload   {report.payload}, by chance {_chance(best.chance)}")
    if whole.speed != 1.0:
        typer.echo(f"  speed     {100 * whole.speed:.1f} % of what was spoken")
    if report.windows:
        marked = sum(window.marked for window in report.windows)
        typer.echo(f"  where     {marked} of {len(report.windows)} parts of 5 s (full: marked, empty: not)")
        for line in _picture(report.windows):
            typer.echo(f"            {line}")


def _picture(windows: tuple[Finding, ...], width: int = 60, most: int = 20) -> list[str]:
    """The parts as blocks, a line for each stretch of time; long sounds have several parts in a block."""
    together = -(-len(windows) // (width * most))
    cells = [windows[first : first + together] for first in range(0, len(windows), together)]
    lines = []
    for first in range(0, len(cells), width):
        row = cells[first : first + width]
        blocks = "".join(_BLOCKS[round(8 * sum(w.marked for w in cell) / len(cell))] for cell in row)
        lines.append(f"{_length(row[0][0].begin):>8}  |{blocks}|")
    return lines


def _length(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes}:{rest:02d}"


def _chance(chance: float) -> str:
    return "1 in a million at most" if chance > 1e-9 else "less than 1 in a billion"
