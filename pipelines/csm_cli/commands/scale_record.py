"""`csm scale-record`: the load of servers that run, as a trace for `csm scale-sim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scale_record(
    out: Annotated[Path, typer.Argument(help="CSV file to write.")],
    prometheus: Annotated[str, typer.Option(help="Address of Prometheus, such as http://prometheus:9090.")],
    namespace: Annotated[str, typer.Option(help="Namespace of the release.")],
    release: Annotated[str, typer.Option(help="Name of the release of csm-serving.")],
    hours: Annotated[float, typer.Option(help="Hours to record, up to now.")] = 24.0,
    step: Annotated[float, typer.Option(help="Seconds a row; at least the scrape interval.")] = 60.0,
) -> None:
    """Record the load of a release from Prometheus, refused streams included, for csm scale-sim.

    [bold]Examples[/bold]

      csm scale-record yesterday.csv --prometheus http://127.0.0.1:9090 --namespace speech --release csm
    """
    import time

    from csm_scaling.record import Prometheus, record

    end = time.time()
    selector = f'namespace="{namespace}",release="{release}"'
    trace = record(Prometheus(prometheus), selector, start=end - 3600 * hours, end=end, step=step, name=out.stem)
    trace.write(out)
    peak = max(trace.offered(when) for when, _, _ in trace.rows)
    typer.echo(f"{out}: {len(trace.rows) - 1} rows; at most {peak:.1f} concurrent streams")
