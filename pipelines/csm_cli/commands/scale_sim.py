"""`csm scale-sim`: a load trace through a rendered autoscaler, before a cluster sees either."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_cli.as_json import AsJson, print_json

if TYPE_CHECKING:
    from csm_scaling.simulate import Conditions, Outage

LOAD, SERVER, AROUND, REPORT = "Load", "Server", "Around it", "Report"


def scale_sim(
    manifest: Annotated[str, typer.Option(help="Output of helm template; - reads standard input.")],
    trace: Annotated[
        str, typer.Option(help="A CSV file (docs/autoscaling.md), or step, ramp, day or burst.", rich_help_panel=LOAD)
    ] = "step",
    peak: Annotated[
        float | None,
        typer.Option(
            help="Peak of a built-in trace, in concurrent streams.",
            show_default="60% of all slots",
            rich_help_panel=LOAD,
        ),
    ] = None,
    stream_seconds: Annotated[
        float, typer.Option(help="Mean length of a stream in a built-in trace, in seconds.", rich_help_panel=LOAD)
    ] = 10.0,
    wait: Annotated[float, typer.Option(help="Seconds that clients wait for a slot.", rich_help_panel=LOAD)] = 0.0,
    name: Annotated[
        str | None, typer.Option(help="Name of the autoscaler, if the manifest has several.", show_default=False)
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(help="Slots of a pod.", show_default="the Deployment's", rich_help_panel=SERVER),
    ] = None,
    start_seconds: Annotated[
        float, typer.Option(help="Seconds until a new pod is ready.", rich_help_panel=SERVER)
    ] = 60.0,
    first_audio: Annotated[
        float, typer.Option(help="Time to first audio of a single stream, in seconds.", rich_help_panel=SERVER)
    ] = 0.1,
    pod_cost: Annotated[
        float | None, typer.Option(help="Cost of a pod-hour.", show_default=False, rich_help_panel=SERVER)
    ] = None,
    balancer: Annotated[
        str, typer.Option(help="Load balancing: least (a gRPC-aware proxy) or random.", rich_help_panel=AROUND)
    ] = "least",
    metrics_outage: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO",
            help="Outage of Prometheus, START:END in seconds; with :empty, it answers but has lost its targets.",
            show_default=False,
            rich_help_panel=AROUND,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and stream lengths.", rich_help_panel=AROUND)] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the plot, the samples (CSV) and the figures (JSON).",
            show_default=False,
            rich_help_panel=REPORT,
        ),
    ] = None,
    max_refused: Annotated[
        float | None,
        typer.Option(
            help="Objective: share of refused streams; above it the exit status is 1.",
            show_default=False,
            rich_help_panel=REPORT,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate the autoscaler of a rendered chart under a load: refusals, waits, replicas, cost.

    [bold]Examples[/bold]

      helm template charts/csm-serving -f values.yaml | csm scale-sim --manifest - --trace day --out scaling

      csm scale-sim --manifest rendered.yaml --trace recorded.csv --start-seconds 180 --max-refused 0.01
    """
    import sys

    from rich.console import Console

    from csm_model.errors import InputError
    from csm_model.files import write_json
    from csm_scaling.figure import draw, table_of
    from csm_scaling.manifest import read_manifest
    from csm_scaling.simulate import simulate
    from csm_scaling.trace import SHAPES, made, read_trace

    for option, value, least in (("--slots", slots, 1), ("--start-seconds", start_seconds, 0), ("--wait", wait, 0)):
        if value is not None and not value >= least:
            raise InputError(f"{option} {value:g}: must be {least} or more")
    try:
        text = sys.stdin.read() if manifest == "-" else Path(manifest).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--manifest {manifest}: cannot be read ({error}); give what helm template printed") from None
    scaled = read_manifest(text, start_s=start_seconds, name=name, slots=slots)
    most = 0.6 * scaled.server.slots * scaled.hpa.max_replicas
    load = made(trace, peak=most if peak is None else peak, length_s=stream_seconds) if trace in SHAPES else None
    load = load or read_trace(Path(trace))
    conditions = _conditions(wait, balancer, first_audio, metrics_outage, seed)
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(f"{load.seconds:.0f} s of {load.name} ..."):
            timeline = simulate(scaled, load, conditions)
    else:
        timeline = simulate(scaled, load, conditions)
    figures = timeline.figures(pod_cost)
    if as_json:
        print_json(figures)
    else:
        Console().print(table_of(figures))
    if out is not None:
        timeline.write(out / "scaling.csv")
        draw(out / "scaling.png", timeline, pod_cost)
        write_json(out / "scaling.json", figures)
        typer.echo(f"{out / 'scaling.png'}, {out / 'scaling.csv'}, {out / 'scaling.json'}", err=as_json)
    if max_refused is not None and not figures["refused_share"] <= max_refused:
        typer.echo(f"refused {figures['refused_share']:.4f} of the streams; at most {max_refused:g}", err=True)
        raise typer.Exit(1)


def _conditions(wait: float, balancer: str, first_audio: float, outage: str | None, seed: int) -> Conditions:
    from typing import get_args

    from csm_model.errors import InputError
    from csm_scaling.pods import Balancer
    from csm_scaling.simulate import Conditions

    kind = next((known for known in get_args(Balancer) if known == balancer), None)
    if kind is None:
        raise InputError(f"--balancer {balancer!r}: must be one of {', '.join(get_args(Balancer))}")
    if not first_audio > 0:
        raise InputError(f"--first-audio {first_audio:g}: must be above 0")
    return Conditions(
        wait_s=wait,
        balancer=kind,
        first_audio_s=first_audio,
        outage=None if outage is None else _outage(outage),
        seed=seed,
    )


def _outage(text: str) -> Outage:
    from csm_model.errors import InputError
    from csm_scaling.keda import Missing
    from csm_scaling.simulate import Outage

    start, _, rest = text.partition(":")
    end, _, kind = rest.partition(":")
    try:
        return Outage(start=float(start), end=float(end), kind=Missing(kind or Missing.UNREACHABLE.value))
    except ValueError:
        raise InputError(f"--metrics-outage {text!r}: must be FROM:TO or FROM:TO:empty, in seconds") from None
