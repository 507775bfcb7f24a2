"""`csm say --dialogue`: a dialogue is read, checked whole, spoken turn by turn, and what came of each turn is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from csm_cli.as_json import print_json
from csm_cli.spoken import as_values, end_of, tell_left_out
from csm_serving.client.dialogue import (
    PAUSE_S,
    DialogueLine,
    SpokenDialogue,
    SpokenLine,
    check_dialogue,
    check_pause,
    read_dialogue,
    speak_dialogue,
)

if TYPE_CHECKING:
    from csm_serving.client.audio import Listener
    from csm_serving.client.speech import SpeechOptions, SpeechService


@dataclass(frozen=True, kw_only=True)
class AskedDialogue:
    """A dialogue, and how it is to be spoken."""

    lines: Sequence[DialogueLine]
    pause_s: float
    hears: int | None
    """The most turns before it that a turn hears; None for as many as the model was trained with."""

    @classmethod
    def read(cls, path: Path, *, pause_s: float | None, hears: int | None, go_on: bool) -> AskedDialogue:
        """The dialogue in a file; raises `InputError` with the line for what is wrong with it."""
        pause_s = PAUSE_S if pause_s is None else pause_s
        check_pause(pause_s, hears)
        return cls(lines=read_dialogue(path, go_on=go_on), pause_s=pause_s, hears=hears)

    def check(self, service: SpeechService, asked: SpeechOptions) -> None:
        """Has refused what `service` refuses, before any speech."""
        check_dialogue(service, self.lines, **asked)

    def say(
        self,
        service: SpeechService,
        path: Path | None,
        listener: Listener | None,
        asked: SpeechOptions,
        *,
        as_json: bool = False,
    ) -> None:
        """Speaks it, and tells of each turn and of the whole."""
        done = 0

        def tell(said: SpokenLine) -> None:
            nonlocal done
            done += 1
            typer.echo(f"{done}/{len(self.lines)}  {_words(said)}", err=True)
            tell_left_out(said.spoken, of=said.line.place)

        spoken = speak_dialogue(
            service,
            self.lines,
            path=path,
            listener=listener,
            pause_s=self.pause_s,
            hears=self.hears,
            tell=tell,
            **asked,
        )
        if as_json:
            print_json(_as_values(spoken))
            return
        stopped = sum(not line.spoken.ended for line in spoken.lines)
        typer.echo(
            f"{spoken.seconds:.2f} s of dialogue, {len(spoken.lines)} turns"
            + (f", {stopped} of them stopped" if stopped else "")
            + f"; first audio {spoken.lines[0].spoken.first_audio_ms:.0f} ms, "
            f"real-time factor {spoken.real_time_factor:.2f}" + (f"; {path}" if path else "")
        )


def _as_values(spoken: SpokenDialogue) -> dict[str, Any]:
    return {
        "path": None if spoken.path is None else str(spoken.path),
        "seconds": spoken.seconds,
        "first_audio_ms": spoken.lines[0].spoken.first_audio_ms,
        "real_time_factor": spoken.real_time_factor,
        "turns": [
            as_values(said.spoken)
            | {"who": said.line.who, "text": said.line.text, "begin_s": said.begin_s}
            | {"heard": said.heard, "dropped": said.dropped}
            for said in spoken.lines
        ],
    }


def _words(said: SpokenLine) -> str:
    heard = f"hears {said.heard} before it" if said.heard else "hears none before it"
    dropped = f" ({said.dropped} older left out)" if said.dropped else ""
    return f"{said.line.who}: {said.spoken.seconds:.2f} s{end_of(said.spoken)}; {heard}{dropped}"
