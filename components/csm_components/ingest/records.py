"""What a layout reader finds in a corpus, before any sound is opened, and how a left-out record is told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from csm_components.ingest.policy import Use

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Reason = Literal[
    "unreadable",
    "empty",
    "silent",
    "clipped",
    "outside its recording",
    "no text",
    "text does not fit",
    "unknown licence",
    "held-out sentence",
    "damaged record",
    "wrong encoding",
    "twice",
    "no speech",
    "music",
    "noisy",
    "too quiet",
    "too loud",
    "narrow band",
    "padded",
    "crosstalk",
    "wrong language",
    "invented text",
    "wrong text",
    "cut off",
    "uncertain speaker",
    "duplicate",
    "no consent",
    "expired",
    "not for this use",
    "blocked",
]


Track = tuple[str, int | None]
"""A sound file, and the channel of it; none is the mean of all its channels."""


@dataclass(frozen=True, kw_only=True)
class TurnRights:
    """What a record says of the person who is heard in it; the module `rights` reads it."""

    consent: str | None = None
    """Number or name of the consent."""
    expires: str | None = None
    """The last day on which it may be used, in UTC: `2027-01-31`."""
    uses: tuple[Use, ...] | None = None
    """What it may be used for; none is whatever its licence allows."""
    url: str | None = None
    """Where it came from."""

    def to_json(self) -> dict[str, Any]:
        """What is said, without what is not."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> TurnRights | None:
        """What `to_json` wrote, if it wrote any."""
        if values is None:
            return None
        return cls(**{**values, "uses": tuple(values["uses"])} if "uses" in values else values)


@dataclass(frozen=True, kw_only=True)
class SourceTurn:
    """One spoken turn of the corpus."""

    id: str
    text: str
    speaker: str
    """The corpus's own name of the speaker; `speakers.py` gives it a number."""
    audio: str
    """Path of the sound file, relative to the corpus's folder or absolute; or `ARCHIVE::MEMBER` (see `archives`)."""
    channel: int | None = None
    """Channel of the file that holds this speaker; none mixes all channels."""
    start: float | None = None
    """Seconds into the file; none is its beginning."""
    duration: float | None = None
    """Seconds; none is up to the end of the file."""
    license: str | None = None
    voice: str | None = None
    origin: str | None = None
    language: str | None = None
    """As the corpus names it."""
    tags: tuple[str, ...] = ()
    """What the corpus says of how it is spoken."""
    text_heard: str | None = None
    """What a recogniser reads in it, where it was annotated."""
    figures: Mapping[str, float | str] | None = None
    """What was measured of it (`csm_components.annotate`)."""
    rights: TurnRights | None = None
    """None where the corpus says nothing of them."""


@dataclass(frozen=True, kw_only=True)
class SourceConversation:
    """Turns that belong together, in order."""

    id: str
    turns: tuple[SourceTurn, ...]
    split: Split | None = None
    """As the corpus gives it; none where it does not."""
    whole: bool = True
    """Whether it is all of its recording; else it is a stretch, which is cut out of it."""
    one_clock: bool = False
    """Whether times count from one moment in all its files: microphones that ran side by side."""

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The channels of files that its turns are in, in order."""
        found = {(turn.audio, turn.channel) for turn in self.turns}
        return tuple(sorted(found, key=lambda track: (track[0], -1 if track[1] is None else track[1])))

    @property
    def one_timeline(self) -> bool:
        """Whether every turn is a stretch of one and the same recording, whose times are then kept.

        Turns of one channel that do not say where they end are each a recording of its own.
        """
        if len(self.tracks) == 1:
            return all(turn.duration is not None for turn in self.turns)
        return self.one_clock or len({audio for audio, _ in self.tracks}) == 1


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One record that was left out, and why."""

    conversation: str
    turn: str
    audio: str
    reason: Reason
    detail: str
    """The figure found and the bound it breaks."""
    seconds: float = 0.0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus as its layout describes it."""

    layout: str
    """Name of its reader."""
    conversations: tuple[SourceConversation, ...]
    keep_speaker_numbers: bool
    """Whether speakers that are called by small numbers keep them."""
    speaker_names: dict[str, str]
    """Names of people for the corpus's speaker labels, where it has a list of them."""
    rejections: tuple[Rejection, ...] = ()
    """Records that cannot be used whatever their sound is."""
