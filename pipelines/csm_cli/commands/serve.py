"""`csm serve`: a bundle behind a Triton on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to serve.", show_default="that of runs/latest")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of the streams.", show_default="8001")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of health and readiness.", show_default="8000")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the Prometheus metrics.", show_default="8002")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Streams that may be live at once.", show_default="8")] = None,
    queue: Annotated[int | None, typer.Option(help="Streams that may wait for a slot.", show_default="16")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Precision of the weights: fp32, bf16, int8 or int4.", show_default="as stored")
    ] = None,
    voices: Annotated[
        Path | None, typer.Option(help="Registry of voices, each with a record of consent.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File of those who may call, each with a token (csm token).", show_default="anybody"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="PEM file of the server's certificate, to encrypt the streams.", show_default="unencrypted"),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file of the key of the server's certificate.", show_default=False)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file of the authorities that sign clients' certificates.", show_default="none needed"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the model's arithmetic.", show_default="by the model's size")
    ] = None,
    exit_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that live streams have to end when the server stops.", show_default="30"),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the server's log and state.", show_default="RUNS/serving/PORT")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Serve a bundle on this machine until Ctrl-C; live streams then end.

    Without a bundle it is the champion of all runs in RUNS, or the last run's candidate where none passed the gate. All
    other settings are environment variables, CSM_SERVING_*: docs/serving.md.

    [bold]Examples[/bold]

      csm serve

      csm serve runs/latest/bundle --grpc-port 9001
    """
    from csm_cli.released import find_bundle, serving_folder
    from csm_serving.launcher.triton import LocalTriton
    from csm_serving.launcher.triton import serve as serve_bundle
    from csm_serving.server.safeguards import who_may_call
    from csm_serving.settings import load_settings

    found = find_bundle(bundle, runs)
    settings = load_settings(
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        slots=slots,
        threads=threads,
        queue=queue,
        weights=weights,
        voices=voices,
        exit_timeout_s=exit_timeout,
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
    )

    def ready(triton: LocalTriton) -> None:
        typer.echo(f"serving {found}")
        typer.echo(f"  streams  {triton.url}   csm say 'Good morning.' --url {triton.url}")
        typer.echo(f"  health   {triton.http_url}/v2/health/ready")
        typer.echo(f"  metrics  {triton.metrics_url}")
        typer.echo(f"  log      {triton.log}")
        typer.echo(f"  callers  {who_may_call(settings)}")

    home = serving_folder(folder, runs, settings)
    raise typer.Exit(serve_bundle(found, settings=settings, folder=home, on_ready=ready))
