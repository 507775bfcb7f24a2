"""`csm say`: speech from a server, or from this process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_cli.access import Ca, ClientCert, ClientKey, Tls, Token
from csm_cli.as_json import AsJson, print_json
from csm_cli.spoken import as_values, figures_of, tell_dropped, tell_kept, tell_left_out

if TYPE_CHECKING:
    from csm_cli.asked_dialogue import AskedDialogue
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
    dialogue: Annotated[
        Path | None,
        typer.Option(
            help="Speak a dialogue: a text file with a turn a line, WHO: TEXT, or JSON, a list of {speaker, text}. "
            "Each turn hears those before it.",
            show_default=False,
        ),
    ] = None,
    pause: Annotated[
        float | None, typer.Option(help="Seconds of silence between the turns of a dialogue.", show_default="0.24")
    ] = None,
    hears: Annotated[
        int | None,
        typer.Option(
            help="Turns before it that a turn of a dialogue hears, at most.",
            show_default="as many as the model was trained with",
        ),
    ] = None,
    takes: Annotated[
        int,
        typer.Option(help="Speak up to so many times with other seeds, and keep what Whisper tiny reads best; to 16."),
    ] = 1,
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
            metavar="HOST:PORT",
            help="The server's gRPC address; repeat it for servers to fall back to.",
            show_default="127.0.0.1:8001",
            rich_help_panel=SERVER,
        ),
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="Encoding of the audio on the wire: {encodings}.", rich_help_panel=SERVER)
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
    as_json: AsJson = False,
) -> None:
    """Speak a text: play it, or write it to a file, while it is generated.

    Without --url, and where no server answers at the usual address, a Triton is started for the time it takes.

    [bold]Examples[/bold]

      csm say "The train leaves at nine fifteen." --speaker 1

      csm say "Good morning." --local --out morning.wav

      some-language-model | csm say --text-from - --url gpu-1:8001 --url gpu-2:8001

      csm say --dialogue talk.txt --out talk.wav
    """
    from csm_cli.access import access_of
    from csm_cli.turns import read_turns
    from csm_model.errors import InputError
    from csm_serving.client.audio import player
    from csm_serving.client.retry import Retry
    from csm_serving.client.speech import SpeechOptions, cut_text, receive, request_of
    from csm_serving.settings import load_settings
    from csm_serving.wire.protocol import ENCODINGS

    if sum(given is not None for given in (text, text_from, dialogue)) != 1:
        raise InputError("give either what to say or --text-from, or a --dialogue")
    if text_from is not None and text_from != "-" and Path(text_from).is_file():
        text = "".join(_parts(text_from))  # all of it is there: what is wrong with it is said before a sound
    known = next((name for name in ENCODINGS if name == encoding), None)
    if known is None:
        raise InputError(f"encoding {encoding!r}: must be one of {', '.join(ENCODINGS)}")
    asked = SpeechOptions(
        voice=voice, context=read_turns(context), seed=seed, deadline_s=deadline, max_wait_s=wait, encoding=known
    )
    if takes != 1:
        from csm_components.speak.takes import check_takes

        check_takes(takes)
    talk = _dialogue(dialogue, speaker, voice, pause, hears, go_on=go_on)
    # What cannot be said is refused before anything is loaded.
    request_of(cut_text("later" if text is None else text)[0], speaker, asked)
    retry = Retry(attempts=retries)
    settings = load_settings()
    access = access_of(settings, tls=tls, ca=ca, client_cert=client_cert, client_key=client_key, token=token)
    with contextlib.ExitStack() as stack:
        loudspeaker = stack.enter_context(player()) if out is None else None
        path = out if out is not None or loudspeaker is not None else Path("speech.wav")
        own = _own_bundle(bundle, runs, urls=url, settings=settings, local=local)
        service = stack.enter_context(_service(own, url, retry, settings, access, local=local or bundle is not None))
        listener = stack.enter_context(_told(loudspeaker))
        if talk is not None:
            talk.check(service, asked)
        if takes > 1:
            from csm_components.speak.takes import BestOf

            service = BestOf(service, takes, tell=tell_kept)
        if talk is not None:
            talk.say(service, path, listener, asked, as_json=as_json)
            return
        said = _parts(text_from or "-") if text is None else text
        stream = service.stream(said, speaker, go_on=go_on, **asked)
        spoken = receive(stream, path, listener)
    if as_json:
        print_json(as_values(spoken))
    else:
        typer.echo(figures_of(spoken))
    tell_left_out(spoken)
    tell_dropped(spoken)


def _dialogue(
    path: Path | None, speaker: int | None, voice: str | None, pause: float | None, hears: int | None, *, go_on: bool
) -> AskedDialogue | None:
    """The dialogue that is asked for, if one is; raises `InputError` for options that belong to the other way."""
    from csm_model.errors import InputError

    if path is None:
        for name, value in (("--pause", pause), ("--hears", hears)):
            if value is not None:
                raise InputError(f"{name} {value}: is for a dialogue; name one with --dialogue, or leave it out")
        return None
    if speaker is not None or voice is not None:
        raise InputError("a dialogue says line by line who speaks; leave out --speaker and --voice")
    from csm_cli.asked_dialogue import AskedDialogue

    return AskedDialogue.read(path, pause_s=pause, hears=hears, go_on=go_on)


def _own_bundle(
    given: Path | None, runs: Path, *, urls: list[str] | None, settings: ServingSettings, local: bool
) -> Path | None:
    """The bundle that is to be loaded here; None where a server speaks that runs already."""
    import socket

    from csm_cli.released import find_bundle

    if local or given is not None:
        return find_bundle(given, runs)
    if urls:
        return None
    try:
        socket.create_connection((settings.host, settings.grpc_port), timeout=settings.connect_timeout_s).close()
    except OSError:
        return find_bundle(None, runs)
    return None


@contextlib.contextmanager
def _service(
    own: Path | None, urls: list[str] | None, retry: Retry, settings: ServingSettings, access: Access, *, local: bool
) -> Iterator[SpeechService]:
    """The bundle `own` in this process or on a server that is started now; without one the server that is there."""
    if own is not None and local:
        from csm_serving.server.local import LocalSpeech

        yield LocalSpeech(own)
    elif own is not None:
        from csm_components.speak.service import service

        typer.echo(f"no server at {settings.url}; csm serve keeps one running, here one is started each time", err=True)
        with service(own, say=lambda line: typer.echo(line, err=True)) as (started, _):
            yield started
    else:
        from csm_serving.client import SpeechClient

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
