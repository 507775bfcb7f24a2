"""`csm scale-record`: the load of servers that run, as a trace for `csm scale-sim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scale_record(
    out: Annotated[Path, typer.Argument(help="CSV file to write.")],
    prometheus: Annotated[str, typer.Option(help="Address, such as http://prometheus:9090.")],
    namespace: Annotated[str, typer.Option(help="Of the release.")],
    release: Annotated[str, typer.Option(help="Name of the release of csm-serving.")],
    hours: Annotated[float, typer.Option(help="Up to now.")] = 24.0,
    step: Annotated[float, typer.Option(help="Seconds of a row; not less than between two scrapes.")] = 60.0,
) -> None:
    """Write what was asked of a release, streams refused among them, as a trace that csm scale-sim replays.

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
