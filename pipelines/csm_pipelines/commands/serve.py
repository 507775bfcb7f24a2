"""`csm serve`: a bundle behind a Triton on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle to serve. [default: that of runs/latest]", show_default=False)
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the streams. [default: 8001]", show_default=False)
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of health and readiness. [default: 8000]", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the Prometheus metrics. [default: 8002]", show_default=False)
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Streams that may be live at once. [default: 4]", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Compute threads. [default: by the model's size]", show_default=False)
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Serve a bundle until Ctrl-C; live streams may then end.

    Without a bundle it is the champion of the last run, or the candidate where none passed the gate.

    [bold]Examples[/bold]

      csm serve

      csm serve runs/latest/bundle --grpc-port 9001
    """
    from csm_pipelines.released import find_bundle
    from csm_serving.triton import LocalTriton
    from csm_serving.triton import serve as serve_bundle

    folder = find_bundle(bundle, runs)

    def ready(triton: LocalTriton) -> None:
        typer.echo(f"serving {folder}")
        typer.echo(f"  streams  {triton.url}   csm say 'Good morning.' --url {triton.url}")
        typer.echo(f"  health   {triton.http_url}/v2/health/ready")
        typer.echo(f"  metrics  {triton.metrics_url}")

    status = serve_bundle(
        folder,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        slots=slots,
        threads=threads,
        on_ready=ready,
    )
    raise typer.Exit(status)
