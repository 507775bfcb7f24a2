"""`csm make-bucket` and `csm prepare-tenants`: what the charts' jobs run before anybody stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def make_bucket(
    urls: Annotated[
        list[str],
        typer.Argument(
            help="Addresses of the buckets, s3://bucket; what follows the bucket is ignored.", show_default=False
        ),
    ],
) -> None:
    """Create buckets in the S3 store; existing ones stay as they are.

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
        typer.Option(help="Folder with one folder a tenant: its MLflow user's name and password.", show_default=False),
    ] = None,
    admin: Annotated[
        Path | None,
        typer.Option(
            help="Folder with name and password of MLflow's administrator.", show_default="no users, no experiments"
        ),
    ] = None,
) -> None:
    """Create what each tenant needs: bucket, expiry of checkpoints and shards, MLflow user and experiment.

    [bold]Example[/bold]

      csm prepare-tenants tenants.json --users /run/secrets/users --admin /run/secrets/admin
    """
    from csm_components.tenants import prepare, read_tenants

    for line in prepare(read_tenants(tenants), users=users, admin=admin):
        typer.echo(line)
