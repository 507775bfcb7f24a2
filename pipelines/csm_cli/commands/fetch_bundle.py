"""`csm fetch-bundle`: a published bundle to where a server reads it; the init container of csm-serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fetch_bundle(
    url: Annotated[str, typer.Argument(help="Address of the bundle: s3://bucket/prefix/bundles/DIGEST.")],
    digest: Annotated[str, typer.Option(help="Digest that the bundle must have.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="Folder to create; it appears when the bundle is complete.", show_default=False)
    ],
) -> None:
    """Download a published bundle and check every byte of it.

    A bundle that is there already is not downloaded again. The store and its keys are set by
    CSM_S3_ENDPOINT, CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY.

    [bold]Example[/bold]

      csm fetch-bundle s3://foundry/bundles/$DIGEST --digest $DIGEST --out /models/bundle
    """
    from csm_components.deploy.fetch import fetch_bundle as fetch

    fetched = fetch(url, digest, out)
    typer.echo(f"{out}: bundle {digest[:12]} {'fetched' if fetched else 'was there'}")
