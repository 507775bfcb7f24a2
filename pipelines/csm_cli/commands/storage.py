"""`csm make-bucket` and `csm prepare-tenants`: what the charts' jobs run before anybody stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def make_bucket(
    urls: Annotated[
        list[str], typer.Argument(help="s3://bucket; what follows the bucket is ignored.", show_default=False)
    ],
) -> None:
    """Make buckets, and leave those that are there as they are.

    [bold]Example[/bold]

      csm make-bucket s3://mlflow s3://csm
    """
    from csm_components.buckets import make_bucket

    for url in urls:
        typer.echo(f"{url}: {'made' if make_bucket(url) else 'is there'}")


def prepare_tenants(
    tenants: Annotated[Path, typer.Argument(help="JSON list: name, storage, checkpointDays, shardDays, experiment.")],
    users: Annotated[
        Path | None,
        typer.Option(help="Folder with a folder a tenant: its user's name and password.", show_default=False),
    ] = None,
    admin: Annotated[
        Path | None,
        typer.Option(
            help="Folder with MLflow's administrator. [default: no users, no experiments]", show_default=False
        ),
    ] = None,
) -> None:
    """Give every tenant its bucket, the age at which its checkpoints go, its user of MLflow and its experiment.

    [bold]Example[/bold]

      csm prepare-tenants tenants.json --users /run/secrets/users --admin /run/secrets/admin
    """
    from csm_components.tenants import prepare, read_tenants

    for line in prepare(read_tenants(tenants), users=users, admin=admin):
        typer.echo(line)
