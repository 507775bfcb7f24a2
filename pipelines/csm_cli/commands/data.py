"""`csm data`: the layouts of corpora that ingest reads, the policy of what is taken of them, and who is forgotten."""

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
