"""`csm swap`: another bundle in a running `csm serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def swap(
    bundle: Annotated[Path, typer.Argument(help="Bundle to serve from now on.")],
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the running server.", show_default="as of csm serve")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="The server's gRPC port, if its folder is the default.", show_default=False)
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    drain_timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for live streams of the old bundle.", show_default="no limit")
    ] = None,
) -> None:
    """Replace the bundle of a running server: new streams use the new one, live streams end on the old one.

    A bundle that does not load changes nothing.

    [bold]Examples[/bold]

      csm swap runs/latest/bundle

      csm swap runs/latest/bundle --grpc-port 9001
    """
    from csm_cli.released import serving_folder
    from csm_serving.launcher.swap import swap_bundle
    from csm_serving.settings import load_settings

    swapped = swap_bundle(
        serving_folder(folder, runs, load_settings(grpc_port=grpc_port)),
        bundle,
        drain_timeout_s=drain_timeout,
        on_ready=lambda version: typer.echo(f"version {version} is ready: new streams go to it"),
    )
    typer.echo(f"version {', '.join(swapped.replaced)} is gone, {swapped.drain_s:.1f} s later")
