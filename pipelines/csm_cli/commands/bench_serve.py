"""`csm bench-serve`: load on a server, and what its listeners had of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_cli.access import Ca, ClientCert, ClientKey, Tls, Token
from csm_cli.as_json import AsJson, print_json
from csm_model.errors import CsmError

if TYPE_CHECKING:
    from rich.console import Console

    from csm_serving.client.access import Access
    from csm_serving.client.load import LoadPlan, LoadResult
    from csm_serving.settings import ServingSettings
    from csm_serving.wire.protocol import SpeechRequest

LOAD, SPEECH, REPORT, OBJECTIVES = "Load", "Speech", "Report", "Objectives"
_TEXTS = (
    "Good morning, how are you?",
    "The train to the lake leaves at nine fifteen.",
    "Would you like some more tea, or shall we go for a walk?",
    "It is cold and windy today, so take the red scarf with you.",
    "I think we should ask her before we decide.",
    "That sounds like a good plan. Let me know when you are ready to leave.",
    "No.",
    "He has been waiting at the station since half past seven, and nobody has told him that the train is late.",
)


def bench_serve(
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT", help="The server's gRPC address; may be repeated.", show_default="127.0.0.1:8001"
        ),
    ] = None,
    pattern: Annotated[
        str,
        typer.Option(
            help="Arrival pattern: closed, constant, poisson, burst or ramp (docs/client.md).", rich_help_panel=LOAD
        ),
    ] = "closed",
    streams: Annotated[
        int, typer.Option(help="Concurrent streams (closed), or streams of a burst.", rich_help_panel=LOAD)
    ] = 8,
    rate: Annotated[
        float, typer.Option(help="Arrivals in streams a second; for a ramp, at its end.", rich_help_panel=LOAD)
    ] = 1.0,
    count: Annotated[
        int | None, typer.Option(help="Total number of streams.", show_default=False, rich_help_panel=LOAD)
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which no stream is opened.",
            show_default="30, or none with --count",
            rich_help_panel=LOAD,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of texts, arrivals and speech.", rich_help_panel=LOAD)] = 0,
    texts: Annotated[
        Path | None,
        typer.Option(help="File with one text a line.", show_default="eight sentences", rich_help_panel=SPEECH),
    ] = None,
    speaker: Annotated[
        list[int] | None,
        typer.Option(
            metavar="NUMBER", help="Speaker number; may be repeated.", show_default="0", rich_help_panel=SPEECH
        ),
    ] = None,
    voice: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Voice, by name; may be repeated.", rich_help_panel=SPEECH),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(help="Frames after which a stream is cut.", show_default=False, rich_help_panel=SPEECH)
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="Encoding of the audio on the wire: {encodings}.", rich_help_panel=SPEECH)
    ] = "float32",
    wait: Annotated[float, typer.Option(help="Seconds to wait for a slot.", rich_help_panel=SPEECH)] = 0.0,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds within which a stream must be over.", show_default=False, rich_help_panel=SPEECH),
    ] = None,
    buffer: Annotated[
        float, typer.Option(help="Seconds that the player buffers after the first chunk.", rich_help_panel=REPORT)
    ] = 0.0,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Address of the server's metrics, such as http://127.0.0.1:8002/metrics.",
            show_default=False,
            rich_help_panel=REPORT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the figures to this JSON file.", show_default=False, rich_help_panel=REPORT),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot to this PNG file.", show_default=False, rich_help_panel=REPORT)
    ] = None,
    max_first_audio_ms: Annotated[
        float | None,
        typer.Option(
            help="Objective: 95th percentile of the time to first audio, in milliseconds.",
            show_default=False,
            rich_help_panel=OBJECTIVES,
        ),
    ] = None,
    max_underruns: Annotated[
        int | None, typer.Option(help="Objective: underruns in total.", show_default=False, rich_help_panel=OBJECTIVES)
    ] = None,
    max_refused: Annotated[
        int | None,
        typer.Option(help="Objective: streams refused in total.", show_default=False, rich_help_panel=OBJECTIVES),
    ] = None,
    max_refusal_ms: Annotated[
        float | None,
        typer.Option(
            help="Objective: slowest refusal, in milliseconds.", show_default=False, rich_help_panel=OBJECTIVES
        ),
    ] = None,
    max_errors: Annotated[
        int | None, typer.Option(help="Objective: streams that failed.", show_default=False, rich_help_panel=OBJECTIVES)
    ] = None,
    max_real_time_factor: Annotated[
        float | None,
        typer.Option(
            help="Objective: 95th percentile of the real-time factor.", show_default=False, rich_help_panel=OBJECTIVES
        ),
    ] = None,
    tls: Tls = False,
    ca: Ca = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Load-test a server: time to first audio, underruns and refusals, as listeners would have them.

    The exit status is 1 if an objective is missed. Without --url only a server on this machine is asked.

    [bold]Examples[/bold]

      csm bench-serve --streams 8 --duration 30 --max-underruns 0

      csm bench-serve --pattern poisson --rate 2 --count 100 --out load.json --plot load.png
    """
    import asyncio

    from rich.console import Console

    from csm_cli.access import access_of
    from csm_cli.load_board import draw, table_of
    from csm_model.errors import InputError
    from csm_model.files import write_json
    from csm_serving.client.calls import is_here
    from csm_serving.client.load import PATTERNS, LoadPlan
    from csm_serving.client.load_report import objectives_of, report_of, risen, scrape
    from csm_serving.settings import load_settings
    from csm_serving.wire.errors import UnavailableError

    settings = load_settings()
    urls = tuple(url or [settings.url])
    if not url and not all(is_here(address) for address in urls):
        raise InputError(f"{urls[0]} is not this machine: name it with --url to put load on it")
    access = access_of(settings, tls=tls, ca=ca, client_cert=client_cert, client_key=client_key, token=token)
    kind = next((known for known in PATTERNS if known == pattern), None)
    if kind is None:
        raise InputError(f"pattern {pattern!r}: must be one of {', '.join(PATTERNS)}")
    load = LoadPlan(
        pattern=kind,
        streams=streams,
        rate=rate,
        count=count,
        duration_s=30.0 if duration is None and count is None else duration,
        seed=seed,
        buffer_s=buffer,
    )
    requests = _requests(texts, speaker, voice, max_frames, encoding, wait, deadline)
    before = {} if metrics is None else scrape(metrics)
    heard, samples = asyncio.run(_run(load, requests, urls, settings, access, metrics, Console(stderr=True)))
    if heard.streams and all(stream.code == "unavailable" and not stream.arrived for stream in heard.streams):
        raise UnavailableError(heard.streams[0].error)
    report = report_of(load, heard, metrics=None if metrics is None else risen(before, scrape(metrics)))
    objectives = objectives_of(
        report,
        max_first_audio_ms=max_first_audio_ms,
        max_underruns=max_underruns,
        max_refused=max_refused,
        max_refusal_ms=max_refusal_ms,
        max_errors=max_errors,
        max_real_time_factor=max_real_time_factor,
    )
    verdicts = [{"name": o.name, "most": o.most, "found": o.found, "met": o.met} for o in objectives]
    figures = report | {"objectives": verdicts}
    if as_json:
        print_json(figures)
    else:
        Console().print(table_of(report, objectives))
    if out is not None:
        write_json(out, figures)
    if plot is not None:
        draw(plot, report, heard, samples)
    if not all(objective.met for objective in objectives):
        raise typer.Exit(1)


def _requests(
    texts: Path | None,
    speakers: list[int] | None,
    voices: list[str] | None,
    max_frames: int | None,
    encoding: str,
    wait: float,
    deadline: float | None,
) -> list[SpeechRequest]:
    """Every text in every voice."""
    from csm_model.errors import InputError
    from csm_serving.wire.protocol import ENCODINGS, SpeechRequest

    known = next((name for name in ENCODINGS if name == encoding), None)
    if known is None:
        raise InputError(f"encoding {encoding!r}: must be one of {', '.join(ENCODINGS)}")
    lines: list[str] = list(_TEXTS)
    if texts is not None:
        try:
            lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{texts}: cannot be read ({error}); give a file of UTF-8, a text a line") from None
        if not lines:
            raise InputError(f"{texts}: holds no text; give a text a line")
    who: list[tuple[int | None, str | None]] = [(number, None) for number in speakers or ()]
    who += [(None, name) for name in voices or ()]
    return [
        SpeechRequest(
            text=line,
            speaker=number,
            voice=name,
            max_frames=max_frames,
            encoding=known,
            max_wait_s=wait,
            deadline_s=deadline,
        )
        for line in lines
        for number, name in who or [(0, None)]
    ]


async def _run(
    load: LoadPlan,
    requests: list[SpeechRequest],
    urls: tuple[str, ...],
    settings: ServingSettings,
    access: Access,
    metrics: str | None,
    console: Console,
) -> tuple[LoadResult, list[tuple[float, float]]]:
    """What came of the load, and the server's own number of live streams once a second."""
    import asyncio
    import time

    from csm_serving.client.load import offer
    from csm_serving.client.load_report import scrape

    samples: list[tuple[float, float]] = []
    began = time.perf_counter()

    async def sample(url: str) -> None:
        while True:
            with contextlib.suppress(CsmError):  # a server in trouble is what one may want to see
                values = await asyncio.to_thread(scrape, url)
                samples.append((time.perf_counter() - began, values.get("csm_live_streams", 0.0)))
            await asyncio.sleep(1.0)

    sampling = None if metrics is None else asyncio.create_task(sample(metrics))
    with console.status("asking for streams ...") if console.is_terminal else contextlib.nullcontext() as status:

        def tell(heard: LoadResult) -> None:
            if status is not None:
                late = sum(len(stream.late) for stream in heard.streams)
                refused = sum(stream.refused for stream in heard.streams)
                status.update(
                    f"{time.perf_counter() - began:.0f} s: {len(heard.streams)} streams asked for, "
                    f"{refused} refused, {late} underruns"
                )

        try:
            heard = await offer(
                load,
                requests,
                urls,
                chunk_timeout_s=settings.chunk_timeout_s,
                connect_timeout_s=settings.connect_timeout_s,
                access=access,
                on_stream=tell,
            )
            return heard, samples
        finally:
            if sampling is not None:
                sampling.cancel()
