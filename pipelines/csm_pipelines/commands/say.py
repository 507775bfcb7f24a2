"""`csm say`: speech from a server, or from this process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def say(
    text: Annotated[str | None, typer.Argument(help="What to say.", show_default=False)] = None,
    speaker: Annotated[int, typer.Option(help="Whose voice, by number.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write a WAV file. [default: play it, or speech.wav]")] = None,
    local: Annotated[bool, typer.Option("--local", help="Speak in this process, without a server.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle for --local. [default: that of runs/latest]", show_default=False)
    ] = None,
    text_from: Annotated[
        str | None,
        typer.Option(
            help="Read the text from a file, or - for standard input as it comes; --local.", show_default=False
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The server's gRPC address. [default: 127.0.0.1:8001]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another way of saying it.")] = 0,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Speak a text; it is played, or written, while it is made.

    [bold]Examples[/bold]

      csm say "The train leaves at nine fifteen." --speaker 1

      csm say "Good morning." --local --out morning.wav

      some-language-model | csm say --local --text-from -
    """
    from csm_model.errors import InputError
    from csm_pipelines.checks import check_text
    from csm_pipelines.released import find_bundle
    from csm_serving.audio import player
    from csm_serving.protocol import SpeechRequest
    from csm_serving.speech import first_words, receive

    local = local or bundle is not None
    if (text is None) == (text_from is None):
        raise InputError("give either what to say or --text-from")
    if text_from is not None and not local:
        raise InputError("--text-from needs --local: a server is asked for one turn at a time")
    # What cannot be said is refused before anything is loaded.
    request = None
    if text is not None and not (local and _is_long(check_text(text))):
        request = SpeechRequest(text=check_text(text), speaker=speaker, seed=seed)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(player()) if out is None else None
        path = out if out is not None or listener is not None else Path("speech.wav")
        if local:
            from csm_serving.local import LocalSpeech

            service = LocalSpeech(find_bundle(bundle, runs))
            if request is None:
                first, parts = first_words([text] if text is not None else _parts(text_from or "-"))
                stream = service.open(SpeechRequest(text=first, speaker=speaker, seed=seed), parts)
            else:
                stream = service.open(request)
        else:
            from csm_serving.client import SpeechClient

            assert request is not None
            stream = stack.enter_context(SpeechClient(url)).open(request)
        spoken = receive(stream, path, listener)
    end = "" if spoken.ended else ", cut at its longest length"
    typer.echo(
        f"{spoken.seconds:.2f} s of speech{end}; first audio {spoken.first_audio_ms:.0f} ms, "
        f"real-time factor {spoken.real_time_factor:.2f}" + (f"; {spoken.path}" if spoken.path else "")
    )


def _is_long(text: str) -> bool:
    """Whether a text is more than a turn should hold, so that it is spoken sentence by sentence."""
    from csm_model.inference.sentences import LONGEST

    return len(text) > LONGEST


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
