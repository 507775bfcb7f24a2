"""`csm voice add|list|revoke`: the registry of voices, each with a record of consent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from csm_cli.as_json import AsJson, print_json

if TYPE_CHECKING:
    from csm_model.text import Tokenizer

_Folder = Annotated[
    Path | None, typer.Option(help="Folder of the registry of voices.", show_default="CSM_SERVING_VOICES, or voices")
]


def add(
    name: Annotated[str, typer.Argument(help="Name of the voice in requests: a-z, 0-9, _ and -.")],
    audio: Annotated[Path, typer.Option(help="The recording: 1 to 30 s of one person, any rate.")],
    text: Annotated[str, typer.Option(help="The words said in it, verbatim.")],
    consent: Annotated[Path, typer.Option(help="Record of consent, JSON; docs/voices.md has an example.")],
    folder: _Folder = None,
    speaker: Annotated[
        int, typer.Option(metavar="<int>", help="Speaker number under which the model uses the voice.", min=0)
    ] = 0,
    style: Annotated[
        str, typer.Option(help="How the recording is used; segment: as a turn before; continue: speech continues it.")
    ] = "segment",
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle that is to speak with it.", show_default="that of runs/latest, if any")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Add or replace a voice; servers that read the folder use it from their next stream on.

    What cannot be spoken with is refused: a file cut short, clipped or silent sound, a text that is not said in it, and
    sound that a model spoke, which carries the watermark.

    [bold]Examples[/bold]

      csm voice add anna --audio anna.wav --text "I read this aloud." --consent anna.json
    """
    from csm_components.ingest.audio import read_sound, to_model_rate
    from csm_model.errors import InputError
    from csm_model.files import digest_of_file
    from csm_serving.server.consent import read_consent
    from csm_serving.server.recordings import check_clean, check_whole, mixed_down
    from csm_serving.server.stored_voices import Style, add_voice
    from csm_serving.settings import load_settings

    if style not in ("segment", "continue"):
        raise InputError(f"style {style!r} of a voice: must be segment or continue")
    if not audio.is_file():
        raise InputError(f"{audio}: no such file; give the recording")
    agreed = read_consent(consent)
    check_whole(audio)
    sound, rate = read_sound(audio)
    mono = mixed_down(sound)
    check_clean(mono)  # clipping is plain before another rate has smoothed it
    voice = add_voice(
        _registry(folder),
        name,
        samples=to_model_rate(mono, rate),
        recording_digest=digest_of_file(audio),
        text=text,
        consent=agreed,
        speaker=speaker,
        style=cast("Style", style),
        tokenizer=_tokenizer(bundle, runs),
        watermark_key=load_settings().watermark_key,
    )
    until = f"until {agreed.expires}" if agreed.expires else "until it is revoked"
    typer.echo(f"{_registry(folder) / name}: {voice.seconds:.1f} s of {agreed.person}, {until}")


def list_(folder: _Folder = None, as_json: AsJson = False) -> None:
    """List the voices of the registry, and why one may not be used any more."""
    from csm_model.errors import InputError
    from csm_serving.server.stored_voices import list_voices

    registry = _registry(folder)
    if not registry.is_dir():
        raise InputError(f"{registry}: no folder of voices; csm voice add makes one")
    found = list_voices(registry)
    if as_json:
        print_json(
            [
                {
                    "name": voice.name,
                    "person": voice.consent.person,
                    "speaker": voice.speaker,
                    "style": voice.style,
                    "seconds": voice.seconds,
                    "uses": list(voice.consent.uses),
                    "expires": str(voice.consent.expires) if voice.consent.expires else None,
                    "refused": why or None,
                }
                for voice, why in found
                if voice.consent is not None
            ]
        )
        return
    for voice, why in found:
        assert voice.consent is not None
        until = f"until {voice.consent.expires}" if voice.consent.expires else "until it is revoked"
        typer.echo(
            f"{voice.name}: {voice.consent.person}, speaker {voice.speaker}, {voice.style}, {voice.seconds:.1f} s, "
            f"for {', '.join(voice.consent.uses)} {until}" + (f"; may not speak: {why}" if why else "")
        )


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the voice.")],
    folder: _Folder = None,
) -> None:
    """Revoke a voice for good: its recording is deleted, its consent stays with the date."""
    from csm_serving.server.stored_voices import revoke_voice

    revoke_voice(_registry(folder), name)
    typer.echo(f"{_registry(folder) / name}: revoked; its recording is deleted, and no new stream speaks with it")


def _tokenizer(bundle: Path | None, runs: Path) -> Tokenizer | None:
    """That of the bundle `bundle`, else of the last run's; None where there is none."""
    from csm_cli.released import find_bundle
    from csm_model.errors import InputError
    from csm_model.text import load_tokenizer

    try:
        folder = find_bundle(bundle, runs)
    except InputError:
        if bundle is not None:
            raise
        return None
    return load_tokenizer(folder / "tokenizer.json")


def _registry(folder: Path | None) -> Path:
    from csm_serving.settings import load_settings

    return folder or load_settings().voices or Path("voices")
