"""`csm data readers`: the layouts of corpora that ingest reads."""

from __future__ import annotations

from typing import Annotated

import typer


def readers(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the layouts that csm run --corpus reads: what lies where, licence, and what each gives of a turn.

    A corpus is read by the one that recognises it; --set data.layout=NAME says which where several might.

    [bold]Examples[/bold]

      csm data readers

      csm run --corpus ami --set data.layout=ami
    """
    from csm_components.ingest.readers.table import READERS

    fields = ("name", "title", "license", "layout", "gives", "reference")
    rows = [{field: getattr(reader, field) for field in fields} for reader in READERS.values()]
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=2))
        return

    import sys

    from rich.table import Table

    from csm_pipelines.progress import console_for

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "license", "layout", "gives"):
        table.add_column(title, overflow="fold", no_wrap=title == "name")
    for row in rows:
        table.add_row(*(row[title] for title in ("name", "license", "layout", "gives")))
    console_for(sys.stdout).print(table, highlight=False, markup=False)
