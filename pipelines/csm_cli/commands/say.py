"""`csm say`: speech from a server, or from this process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_cli.access import Ca, ClientCert, ClientKey, Tls, Token

if TYPE_CHECKING:
    from csm_serving.client.access import Access
    from csm_serving.client.audio import Listener
    from csm_serving.client.retry import Retry
    from csm_serving.client.speech import SpeechService
    from csm_serving.settings import ServingSettings
    from csm_serving.wire.tensors import Samples

SERVER = "Server"


def say(
    text: Annotated[str | None, typer.Argument(help="What to say.", show_default=False)] = None,
    speaker: Annotated[int | None, typer.Option(help="Voice, by speaker number.", show_default="0")] = None,
    voice: Annotated[str | None, typer.Option(help="Voice, by name.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a file, .wav or .opus.", show_default="play it, or speech.wav")
    ] = None,
    text_from: Annotated[
        str | None,
        typer.Option(help="Read the text from a file, or - for standard input as it comes.", show_default=False),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with the turns before: a list of {speaker, text}, each with an optional audio file.",
            show_default=False,
        ),
    ] = None,
    go_on: Annotated[
        bool,
        typer.Option("--go-on", help="Speak a text that is too long for one stream in several, one after another."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same speech.")] = 0,
    local: Annotated[bool, typer.Option("--local", help="Speak in this process, without a server.")] = False,
    bundle: Annotated[Path | None, typer.Option(help="Bundle for --local.", show_default="that of runs/latest")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="The server's gRPC address; repeat it for servers to fall back to.",
            show_default="127.0.0.1:8001",
            rich_help_panel=SERVER,
        ),
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="Encoding of the sound on the wire: float32, int16 or opus.", rich_help_panel=SERVER)
    ] = "float32",
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds within which the stream must be over.", show_default=False, rich_help_panel=SERVER),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a free slot.", rich_help_panel=SERVER)] = 0.0,
    retries: Annotated[
        int, typer.Option(help="Times to resume or retry when a connection breaks.", rich_help_panel=SERVER)
    ] = 5,
    tls: Tls = False,
    ca: Ca = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    token: Token = None,
) -> None:
    """Speak a text: play it, or write it to a file, while it is generated.

    Without --url, and where no server answers at the usual address, a Triton is started for the time it takes.

    [bold]Examples[/bold]

      csm say "The train leaves at nine fifteen." --speaker 1

      csm say "Good morning." --local --out morning.wav

      some-language-model | csm say --text-from - --url gpu-1:8001 --url gpu-2:8001
    """
    from csm_cli.access import access_of
    from csm_cli.turns import read_turns
    from csm_model.errors import InputError
    from csm_serving.client.audio import player
    from csm_serving.client.retry import Retry
    from csm_serving.client.speech import SpeechOptions, cut_text, receive, request_of
    from csm_serving.settings import load_settings
    from csm_serving.wire.protocol import ENCODINGS

    if (text is None) == (text_from is None):
        raise InputError("give either what to say or --text-from")
    if text_from is not None and text_from != "-" and Path(text_from).is_file():
        text = "".join(_parts(text_from))  # all of it is there: what is wrong with it is said before a sound
    known = next((name for name in ENCODINGS if name == encoding), None)
    if known is None:
        raise InputError(f"encoding {encoding!r}: must be one of {', '.join(ENCODINGS)}")
    asked = SpeechOptions(
        voice=voice, context=read_turns(context), seed=seed, deadline_s=deadline, max_wait_s=wait, encoding=known
    )
    # What cannot be said is refused before anything is loaded.
    request_of(cut_text("later" if text is None else text)[0], speaker, asked)
    retry = Retry(attempts=retries)
    settings = load_settings()
    access = access_of(settings, tls=tls, ca=ca, client_cert=client_cert, client_key=client_key, token=token)
    with contextlib.ExitStack() as stack:
        loudspeaker = stack.enter_context(player()) if out is None else None
        path = out if out is not None or loudspeaker is not None else Path("speech.wav")
        if local or bundle is not None:
            from csm_cli.released import find_bundle
            from csm_serving.server.local import LocalSpeech

            service: SpeechService = LocalSpeech(find_bundle(bundle, runs))
        else:
            service = stack.enter_context(_served(url, retry, runs, settings, access))
        listener = stack.enter_context(_told(loudspeaker))
        said = _parts(text_from or "-") if text is None else text
        stream = service.stream(said, speaker, go_on=go_on, **asked)
        spoken = receive(stream, path, listener)
    end = "" if spoken.ended else f", {_ENDS[spoken.reason]}"
    again = f"; asked again {spoken.retries} times" if spoken.retries else ""
    typer.echo(
        f"{spoken.seconds:.2f} s of speech{end}; first audio {spoken.first_audio_ms:.0f} ms, "
        f"real-time factor {spoken.real_time_factor:.2f}{again}" + (f"; {spoken.path}" if spoken.path else "")
    )
    if spoken.left_out:
        shown = repr(spoken.left_out_text) + ("..." if spoken.left_out > len(spoken.left_out_text) else "")
        many = "1 character" if spoken.left_out == 1 else f"{spoken.left_out} characters"
        typer.echo(f"left out: {many} of the text that cannot be said: {shown}", err=True)


_ENDS = {"cut": "cut at its longest length", "silence": "stopped as silence", "repeat": "stopped as it repeated itself"}


@contextlib.contextmanager
def _served(
    urls: list[str] | None, retry: Retry, runs: Path, settings: ServingSettings, access: Access
) -> Iterator[SpeechService]:
    """The servers at `urls`, or the one of this machine, or one that is started now."""
    import socket

    from csm_cli.released import find_bundle
    from csm_components.speak.step import service
    from csm_serving.client import SpeechClient

    if not urls:
        try:
            socket.create_connection((settings.host, settings.grpc_port), timeout=settings.connect_timeout_s).close()
        except OSError:
            note = f"no server at {settings.url}: "
            with service(find_bundle(None, runs), say=lambda line: typer.echo(note + line, err=True)) as (started, _):
                yield started
            return
    with SpeechClient(
        urls or settings.url,
        retry=retry,
        chunk_timeout_s=settings.chunk_timeout_s,
        connect_timeout_s=settings.connect_timeout_s,
        **access.arguments,
    ) as client:
        yield client


@contextlib.contextmanager
def _told(loudspeaker: Listener | None) -> Iterator[Listener | None]:
    """A listener that shows on a terminal how much there is, where the sound cannot be heard."""
    from rich.console import Console

    from csm_model.frames import SAMPLE_RATE

    console = Console(stderr=True)
    if loudspeaker is not None or not console.is_terminal:
        yield loudspeaker
        return
    seconds = 0.0
    with console.status("speaking ...") as status:

        def tell(samples: Samples) -> None:
            nonlocal seconds
            seconds += samples.size / SAMPLE_RATE
            status.update(f"{seconds:.1f} s of speech ...")

        yield tell


def _parts(source: str) -> Iterator[str]:
    """The text of a file, or of standard input (`-`) in parts as they come."""
    from csm_model.errors import InputError

    try:
        with contextlib.nullcontext(sys.stdin) if source == "-" else Path(source).open(encoding="utf-8") as file:
            yield from iter(lambda: file.read(1), "")
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); name a text file, or - for stdin") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: is not UTF-8; encode the text as UTF-8") from None
