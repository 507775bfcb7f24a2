"""`csm report`: where the last run's report is, and what it says in short."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csm_cli.as_json import AsJson, print_json


def report(
    run: Annotated[Path | None, typer.Argument(help="A run's folder.", show_default="RUNS/latest")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Print the figures of a run and the path of its report.

    [bold]Examples[/bold]

      csm report

      csm report runs/demo-1a2b3c4d --open
    """
    import sys

    from csm_model.errors import InputError
    from csm_model.files import read_json
    from csm_pipelines.progress import console_for
    from csm_pipelines.summary import REPORT, SUMMARY
    from csm_pipelines.summary import show as show_summary

    folder = (run or runs / "latest").resolve()
    if not (folder / SUMMARY).is_file() or not (folder / REPORT).is_file():
        raise InputError(f"{run or runs / 'latest'}: no finished run there; start one with: csm run")
    summary = read_json(folder / SUMMARY)
    if as_json:
        print_json(summary)
    else:
        show_summary(console_for(sys.stdout), summary)
    if show:
        import webbrowser

        webbrowser.open((folder / REPORT).as_uri())
