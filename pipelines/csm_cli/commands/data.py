"""`csm data`: what corpora can be read, what is taken of them and why, what data are made of, who is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


_Run = Annotated[Path, typer.Argument(help="Folder of a run, or of what ingest wrote.", show_default=False)]
_Record = Annotated[
    str,
    typer.Argument(
        help="A turn or a conversation by its id, or a file of the corpus by its path.",
        show_default=False,
    ),
]
_Annotations = Annotated[
    Path | None,
    typer.Option("--annotations", help="What annotate wrote of it.", show_default="the run's own, if there are any"),
]


def why(run: _Run, record: _Record, annotations: _Annotations = None, as_json: AsJson = False) -> None:
    """Say why a record is in the data or not: by which rule, with the figure that was found and its bound.

    [bold]Examples[/bold]

      csm data why runs/demo demo-test-1000000-00
    """
    from csm_components.datacard.record import find_folders, find_record
    from csm_components.datacard.record import why as told

    found = find_record(find_folders(run, annotations), record)
    if as_json:
        fields = ("id", "kept", "conversation", "split", "reason", "detail", "tags")
        print_json([{key: value for key, value in row.to_json().items() if key in fields} for row in found])
        return
    for row in found:
        typer.echo(told(row))


def show(
    run: _Run,
    record: _Record,
    annotations: _Annotations = None,
    as_json: AsJson = False,
) -> None:
    """Show a record: its text, given and heard, where its sound is, and all figures that were measured of it.

    [bold]Examples[/bold]

      csm data show runs/demo demo-test-1000000-00
    """
    from csm_components.datacard.record import find_folders, find_record

    rows = [row.to_json() for row in find_record(find_folders(run, annotations), record)]
    if as_json:
        print_json(rows)
        return
    for number, row in enumerate(rows):
        if number:
            typer.echo()
        figures = row.pop("figures", {})
        for key, value in {**row, **figures}.items():
            typer.echo(f"{key:<24}{', '.join(value) if isinstance(value, tuple) else value}")


def card(
    run: _Run,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("data.html"),
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the corpus, for the sound of what was left out.", show_default="without that sound"
        ),
    ] = None,
    players: Annotated[
        int, typer.Option(min=0, metavar="<int>", help="Players of records kept, and of those left out.")
    ] = 20,
    annotations: _Annotations = None,
    as_json: AsJson = False,
) -> None:
    """Write the card of a run's data: hours by language, licence and reason, histograms, and records to listen to.

    The page holds people's words and voices; card.md beside the conversations has its numbers alone.

    [bold]Examples[/bold]

      csm data card runs/demo --corpus recordings --out data.html
    """
    from csm_components.datacard.record import find_folders

    folders = find_folders(run, annotations)

    from csm_components.datacard.page import write_page
    from csm_components.datacard.summary import lead

    facts = write_page(out, folders, corpus=corpus, players=players)
    if as_json:
        print_json({"page": str(out), **facts.to_json()})
        return
    typer.echo(f"{out}: {lead(facts)}")


def policy(
    file: Annotated[
        Path | None, typer.Argument(help="The policy, as data.policy names it.", show_default="the packaged one")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the policy that a corpus's records are judged by, checked, to begin one's own from.

    It says which licences are taken and for what, whose consent is needed, and the bounds of the checks. A section that
    a file leaves out is as it is without a file.

    [bold]Examples[/bold]

      csm data policy > policy.toml

      csm data policy policy.toml

      csm run --corpus calls --set data.policy=policy.toml
    """
    from csm_components.ingest.policy import load_policy

    found = load_policy(file)
    if as_json:
        print_json({**found.to_json(), "digest": found.digest})
        return
    typer.echo(found.to_toml(), nl=False)


def forget(
    name: Annotated[
        str,
        typer.Argument(
            help="The speaker as the corpus calls them, the recording's path or conversation, or the address.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="speaker, recording or url.", show_default="what the name is found to be"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    storage: Annotated[
        str | None, typer.Option(help="Storage of a cluster, s3://bucket/prefix.", show_default="CSM_STORAGE, if set")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a speaker, a recording or an address: take away all that holds any of it, and never take it again.

    The name goes on a blocklist, beside the runs and in the storage, that every ingest looks at. What was made of the
    record goes whole, here and in the storage: conversations, token shards, clips, reports, copies of the corpus; the
    same run makes it again without the record. Models cannot forget: the versions that have heard it are named and
    marked in MLflow. It may be stopped and started again at any moment.

    [bold]Examples[/bold]

      csm data forget anna --dry-run

      csm data forget calls/17.wav --kind recording --storage s3://csm/storage
    """
    from typing import get_args

    from csm_components.forget.forget import forget
    from csm_components.ingest.blocklist import Kind
    from csm_components.settings import load_settings
    from csm_components.storage import open_storage
    from csm_components.tracking import Tracker
    from csm_model.errors import InputError

    kinds: dict[str, Kind] = {each: each for each in get_args(Kind)}
    if kind is not None and kind not in kinds:
        raise InputError(f"kind {kind!r} is not one of {', '.join(kinds)}")
    settings = load_settings()
    address = settings.storage if storage is None else storage
    recorded = settings.mlflow_tracking_uri or (runs / "mlflow.db").is_file()
    found = forget(
        name,
        kind=None if kind is None else kinds[kind],
        runs=runs,
        storage=open_storage(address) if address else None,
        address=address,
        tracker=Tracker(folder=runs / "forget") if recorded else None,
        dry_run=dry_run,
    )
    if as_json:
        print_json(found.to_json())
        return
    for line in found.lines():
        typer.echo(line)
