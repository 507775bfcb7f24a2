"""`csm token`: who may call a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_cli.as_json import AsJson, print_json

if TYPE_CHECKING:
    from csm_serving.server.callers import Caller

_File = Annotated[
    Path | None, typer.Option(help="The token file.", show_default="CSM_SERVING_TOKEN_FILE, or tokens.json")
]


def add(
    name: Annotated[str, typer.Argument(help="Name of the caller in the audit: a-z, 0-9, '.', _ and -.")],
    file: _File = None,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Voice that the caller may speak with; may be repeated.", show_default="all voices"
        ),
    ] = None,
    streams: Annotated[
        int | None, typer.Option(help="Streams that the caller may have at once.", show_default="no bound")
    ] = None,
    characters_a_minute: Annotated[
        int | None,
        typer.Option(help="Characters that the caller may have spoken in a minute.", show_default="no bound"),
    ] = None,
) -> None:
    """Let somebody call: draws a token, prints it, and keeps only its SHA-256.

    The token is printed once and cannot be had again. Servers that read the file know it from their next request on.

    [bold]Examples[/bold]

      csm token add shop --voice anna --streams 4 --characters-a-minute 6000
    """
    from pydantic import ValidationError

    from csm_model.errors import InputError
    from csm_serving.server.callers import Caller, digest_of_token, draw_token, read_tokens, write_tokens
    from csm_serving.server.consent import first_error

    path = _path(file)
    known = read_tokens(path).tokens if path.exists() else ()
    if any(caller.name == name for caller in known):
        raise InputError(f"{path}: {name} has a token already; remove it first, or add another name, such as {name}-2")
    token = draw_token()
    try:
        caller = Caller(
            name=name,
            sha256=digest_of_token(token),
            voices=tuple(voice) if voice else None,
            streams=streams,
            characters_a_minute=characters_a_minute,
        )
    except ValidationError as error:
        raise InputError(f"token of {name[:64]!r}: {first_error(error)}") from None
    write_tokens(path, (*known, caller))
    typer.echo(token)
    typer.echo(f"{path}: {name}, {_bounds(caller)}. The token above is shown this once", err=True)


def list_(file: _File = None, as_json: AsJson = False) -> None:
    """List who may call, and what."""
    from csm_serving.server.callers import read_tokens

    tokens = read_tokens(_path(file)).tokens
    if as_json:
        print_json([caller.model_dump(mode="json", exclude={"sha256"}) for caller in tokens])
        return
    for caller in tokens:
        typer.echo(f"{caller.name}: {_bounds(caller)}")


def remove(
    name: Annotated[str, typer.Argument(help="Name of the caller.")],
    file: _File = None,
) -> None:
    """Take a token back: its next request is refused, and live streams end as they would."""
    from csm_model.errors import InputError
    from csm_serving.server.callers import read_tokens, write_tokens

    path = _path(file)
    known = read_tokens(path).tokens
    left = [caller for caller in known if caller.name != name]
    if len(left) == len(known):
        raise InputError(f"{path}: there is no {name[:64]!r}; csm token list shows who there is")
    write_tokens(path, left)
    typer.echo(f"{path}: {name} may not call any more")


def _bounds(caller: Caller) -> str:
    """What a caller may, in words."""
    voices = "all voices" if caller.voices is None else "as " + ", ".join(caller.voices)
    streams = "" if caller.streams is None else f", {caller.streams} streams at once"
    said = "" if caller.characters_a_minute is None else f", {caller.characters_a_minute} characters a minute"
    return voices + streams + said


def _path(file: Path | None) -> Path:
    from csm_serving.settings import load_settings

    return file or load_settings().token_file or Path("tokens.json")
