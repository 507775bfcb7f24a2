"""`csm say`: speech from a server, or from this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer


def say(
    text: Annotated[str, typer.Argument(help="What to say.", show_default=False)],
    speaker: Annotated[int, typer.Option(help="Whose voice, by number.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write a WAV file. [default: play it, or speech.wav]")] = None,
    local: Annotated[bool, typer.Option("--local", help="Speak in this process, without a server.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle for --local. [default: that of runs/latest]", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The server's gRPC address. [default: 127.0.0.1:8001]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another way of saying it.")] = 0,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Speak a sentence; it is played, or written, while it is made.

    [bold]Examples[/bold]

      csm say "The train leaves at nine fifteen." --speaker 1

      csm say "Good morning." --local --out morning.wav
    """
    from csm_pipelines.checks import check_text
    from csm_pipelines.released import find_bundle
    from csm_serving.audio import player
    from csm_serving.protocol import SpeechRequest
    from csm_serving.speech import SpeechService

    # What cannot be said is refused before anything is loaded.
    SpeechRequest(text=check_text(text), speaker=speaker, seed=seed)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(player()) if out is None else None
        path = out if out is not None or listener is not None else Path("speech.wav")
        if local or bundle is not None:
            from csm_serving.local import LocalSpeech

            service: SpeechService = LocalSpeech(find_bundle(bundle, runs))
        else:
            from csm_serving.client import SpeechClient

            service = stack.enter_context(SpeechClient(url))
        spoken = service.say(text, speaker, path=path, listener=listener, seed=seed)
    end = "" if spoken.ended else ", cut at its longest length"
    typer.echo(
        f"{spoken.seconds:.2f} s of speech{end}; first audio {spoken.first_audio_ms:.0f} ms, "
        f"real-time factor {spoken.real_time_factor:.2f}" + (f"; {spoken.path}" if spoken.path else "")
    )
