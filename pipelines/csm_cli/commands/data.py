"""`csm data readers`: the layouts of corpora that ingest reads."""

from __future__ import annotations

from csm_cli.as_json import AsJson, print_json


def readers(as_json: AsJson = False) -> None:
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
        print_json(rows)
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
