"""What came of a stream, in the words of `csm say`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from csm_components.speak.takes import KeptTake
    from csm_serving.client.speech import Spoken

_ENDS = {"cut": "cut at its longest length", "silence": "stopped as silence", "repeat": "stopped as it repeated itself"}


def figures_of(spoken: Spoken) -> str:
    """How much was said, how it ended, and how fast it came."""
    again = f"; asked again {spoken.retries} times" if spoken.retries else ""
    return (
        f"{spoken.seconds:.2f} s of speech{end_of(spoken)}; first audio {spoken.first_audio_ms:.0f} ms, "
        f"real-time factor {spoken.real_time_factor:.2f}{again}" + (f"; {spoken.path}" if spoken.path else "")
    )


def as_values(spoken: Spoken) -> dict[str, Any]:
    """Its figures as JSON values."""
    return asdict(spoken) | {"path": None if spoken.path is None else str(spoken.path)}


def end_of(spoken: Spoken) -> str:
    """Why it was stopped; nothing where its speaker ended it."""
    return "" if spoken.ended else f", {_ENDS[spoken.reason]}"


def tell_left_out(spoken: Spoken, *, of: str = "the text") -> None:
    """Says what could not be said, where there is something."""
    if not spoken.left_out:
        return
    shown = repr(spoken.left_out_text) + ("..." if spoken.left_out > len(spoken.left_out_text) else "")
    many = "1 character" if spoken.left_out == 1 else f"{spoken.left_out} characters"
    typer.echo(f"left out: {many} of {of} that cannot be said: {shown}", err=True)


def tell_dropped(spoken: Spoken) -> None:
    """Says how many turns of the context were not heard, where there are some."""
    if spoken.dropped:
        turns = "1 turn" if spoken.dropped == 1 else f"{spoken.dropped} turns"
        why = "the oldest, beyond what the model has room for or was trained with, and those without a word"
        typer.echo(f"left out: {turns} of the context: {why}", err=True)


def tell_kept(kept: KeptTake) -> None:
    """Says which take was kept."""
    heard = f"{kept.word_errors} of {kept.words} words misheard"
    typer.echo(f"take {kept.number} of {kept.drawn} is kept: {heard} by Whisper tiny", err=True)
