"""What TLS, certificates of clients and tokens cost: a server that asks for them all beside one that asks for none.

Both run all the time and are called in turn, so that what else the machine does meets both; a ratio is that of two
neighbouring phases.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from csm_serving.client.access import Access
from csm_serving.client.load_report import scrape
from csm_serving.launcher.triton import LocalTriton
from csm_serving.server.callers import Caller, digest_of_token, draw_token, write_tokens

from .certificates import Authority
from .listeners import Taken, closed_loop, requests_of
from .server import served
from .streams import FEW, MANY, SPEAKERS
from .table import Row, percentile, told

MOST = 1.05
"""What the doors may cost."""


@contextlib.contextmanager
def guarded(folder: Path, **given: Any) -> Iterator[tuple[LocalTriton, Access]]:
    """A server that asks for a certificate and a token, and what a client brings along."""
    authority, token = Authority(folder / "authority"), draw_token()
    server, client = authority.sign("server"), authority.sign("client")
    callers = [
        Caller(name=f"caller-{number}", sha256=digest_of_token(draw_token()), streams=4) for number in range(100)
    ]
    bounds = {"streams": 64, "characters_a_minute": 10**6}
    callers.append(Caller(name="listener", sha256=digest_of_token(token), **bounds))  # type: ignore[arg-type]
    write_tokens(folder / "tokens.json", callers)
    doors = {"token_file": folder / "tokens.json", "tls_client_ca": authority.ca}
    with served(tls_cert=server.certificate, tls_key=server.key, **doors, **given) as triton:
        yield triton, Access(ca=authority.ca, client_cert=(client.certificate, client.key), token=token)


def measure(*, rounds: int, seconds: float, **given: Any) -> list[Row]:
    """Phases of one client and of eight, at the open server and at the guarded one in turn; `given` are settings."""
    firsts: dict[int, list[float]] = {FEW: [], MANY: []}
    frames: dict[int, list[float]] = {FEW: [], MANY: []}
    told_ms: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        served(**given) as plain,
        guarded(Path(folder), **given) as (closed, access),
    ):
        places = [(plain, None), (closed, access)]
        for number in range(rounds):
            for clients in (FEW, MANY):
                by: dict[bool, tuple[float, float]] = {}
                for triton, brought in places if number % 2 == 0 else places[::-1]:
                    by[brought is not None] = _phase(triton, brought, clients, seconds, seed=1_000 * number + clients)
                firsts[clients].append(by[True][0] / by[False][0])
                frames[clients].append(by[True][1] / by[False][1])
                told_ms.append(f"{clients}: {by[False][0]:.1f} / {by[True][0]:.1f}")
    rows = [told("first audio, ms, median of a phase, open / guarded, by clients", ", ".join(told_ms))]
    for clients in (FEW, MANY):
        rows.append(_row(f"{clients} live: first audio, guarded against open, median", firsts[clients]))
        rows.append(_row(f"{clients} live: a step of the server, guarded against open, mean", frames[clients]))
    return rows


def _phase(
    triton: LocalTriton, access: Access | None, clients: int, seconds: float, *, seed: int
) -> tuple[float, float]:
    """Milliseconds to the first audio, median, and seconds of a step, mean."""
    before = scrape(triton.metrics_url)
    heard: list[Taken] = asyncio.run(
        closed_loop(triton.url, requests_of(SPEAKERS), clients=clients, seconds=seconds, seed=seed, access=access)
    )
    after = scrape(triton.metrics_url)
    broken = [stream.failure for stream in heard if stream.end is None]
    assert not broken, broken[0]
    steps, took = (
        sum(value - before.get(key, 0.0) for key, value in after.items() if key.startswith(f"csm_step_seconds_{part}"))
        for part in ("count", "sum")
    )
    return percentile((stream.first_ms for stream in heard if stream.arrived), 0.5), took / steps


def _row(what: str, ratios: list[float]) -> Row:
    return Row(
        what=what,
        reach=f"{MOST:g} at most",
        found=f"{median(ratios):.3f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})",
        met=median(ratios) <= MOST,
    )
