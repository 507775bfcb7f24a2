"""Voices as they lie on disk: their records, and how they come, go and are listed.

Shapes: S samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import soundfile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csm_model.errors import ArtifactError, AudioError, InputError
from csm_model.files import atomic_folder, digest_of_file, read_json, write_json
from csm_model.frames import SAMPLE_RATE
from csm_serving.server.consent import Consent, Sha256, Words, check_consent, first_error
from csm_serving.server.recordings import (
    MAX_PROMPT_SECONDS,
    MIN_PROMPT_SECONDS,
    check_clean,
    check_speakable,
    check_unmarked,
    check_words,
)
from csm_serving.wire.tensors import Samples

if TYPE_CHECKING:
    from csm_model.text import Tokenizer

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RECORD, SOUND = "voice.json", "prompt.wav"

Style = Literal["segment", "continue"]


class VoiceRecord(BaseModel):
    """`voice.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    name: str
    text: Words
    style: Style
    speaker: Annotated[int, Field(ge=0)]
    seconds: float
    sound: Sha256
    """Digest of `prompt.wav`."""
    consent: Consent
    added: datetime
    revoked: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice that may be spoken with."""

    name: str
    speaker: int
    """Number under which the model speaks as it."""
    identity: str
    """Who speaks, as tokens and the audit know it; another recording under the same name is somebody else."""
    text: str = ""
    """What the prompt says; empty for a voice that the model was trained with."""
    style: Style = "segment"
    seconds: float = 0.0
    """Length of the prompt."""
    consent: Consent | None = None
    """None for a voice that the model was trained with: its record is the bundle's manifest."""

    @property
    def trained(self) -> bool:
        """Whether the model has learnt it, so that no prompt is read."""
        return self.consent is None


def stored_names(folder: Path | None) -> list[str]:
    """Names of all voices that lie in `folder`, usable or not."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD}") if NAME.fullmatch(path.parent.name))


def read_record(folder: Path, name: str) -> VoiceRecord:
    """The record of a stored voice; raises `InputError` where there is none and `ArtifactError` where it is damaged."""
    path = folder / name / RECORD
    if not NAME.fullmatch(name) or not path.is_file():
        raise InputError(f"voice {name[:64]!r}: {folder} has no such voice; csm voice list shows what there is")
    try:
        record = VoiceRecord.model_validate(read_json(path))
    except ValidationError as error:
        raise ArtifactError(f"{path}: {first_error(error)}; add the voice again") from None
    if record.name != name:
        raise ArtifactError(f"{path}: is the record of {record.name!r}; a voice cannot be renamed, add it again")
    return record


def add_voice(
    folder: Path,
    name: str,
    *,
    samples: Samples,
    recording_digest: str,
    text: str,
    consent: Consent,
    speaker: int = 0,
    style: Style = "segment",
    tokenizer: Tokenizer | None = None,
    watermark_key: str | None = None,
) -> Voice:
    """Writes a voice into the registry, in one step; one of that name is replaced, and live streams are not touched.

    Args:
        folder: the registry; made where it is not there.
        name: 1 to 64 of a-z, 0-9, `_` and `-`, beginning with a letter or digit.
        samples: the recording `[S]`, 24 kHz mono, -1 to 1; 1 to 30 s.
        recording_digest: SHA-256 of the file that it came from, which the consent must name.
        text: what is said in it, word by word.
        consent: what the person allowed.
        speaker: number under which the model speaks as the voice.
        style: how the prompt is laid out (`csm_model.inference.context`).
        tokenizer: of the model that is to speak; None: not at hand, and whether it can read the prompt is not known.
        watermark_key: of the servers, where they have one of their own.

    Raises:
        InputError: a bad name or text, a speaker that the model has not, a consent of another recording or that does
            not hold.
        AudioError: a recording too short, too long, silent, clipped, or spoken by a model.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"voice {name[:64]!r}: a name is 1 to 64 of a-z, 0-9, _ and -, a letter or digit first")
    if speaker < 0:
        raise InputError(f"speaker {speaker}: must be 0 or more")
    if consent.recording != recording_digest:
        raise InputError(
            f"voice {name!r}: the consent is for the recording {consent.recording[:16]}..., the file is "
            f"{recording_digest[:16]}...; give the file that the person agreed to"
        )
    check_consent(name, consent)
    seconds = len(samples) / SAMPLE_RATE
    if not MIN_PROMPT_SECONDS <= seconds <= MAX_PROMPT_SECONDS:
        raise AudioError(
            f"a recording of {seconds:.1f} s: a voice prompt takes {MIN_PROMPT_SECONDS:g} to {MAX_PROMPT_SECONDS:g} s"
        )
    check_clean(samples)
    check_words(text.strip(), seconds)
    if tokenizer is not None:
        check_speakable(tokenizer, text, speaker)
    check_unmarked(samples, key=watermark_key)
    with atomic_folder(folder / name) as partial:
        soundfile.write(partial / SOUND, samples.clip(-1, 1), SAMPLE_RATE, subtype="PCM_16")
        record = VoiceRecord(
            format=1,
            name=name,
            text=text.strip(),
            style=style,
            speaker=speaker,
            seconds=round(seconds, 3),
            sound=digest_of_file(partial / SOUND),
            consent=consent,
            added=datetime.now(UTC),
        )
        write_json(partial / RECORD, record.model_dump(mode="json"))
    return voice_of(record)


def revoke_voice(folder: Path, name: str) -> None:
    """Takes a voice out of use for good: its recording and codes go, its record stays and says when."""
    record = read_record(folder, name)
    if record.revoked is None:
        revoked = record.model_copy(update={"revoked": datetime.now(UTC)})
        write_json(folder / name / RECORD, revoked.model_dump(mode="json"))
    for path in _sounds(folder / name):
        path.unlink(missing_ok=True)


def list_voices(folder: Path, *, use: str | None = None) -> list[tuple[Voice, str]]:
    """Every stored voice and why it may not be used (empty: it may); raises `ArtifactError` for a damaged record."""
    voices = []
    for name in stored_names(folder):
        record = read_record(folder, name)
        try:
            check_consent(name, record.consent, revoked=record.revoked, use=use)
            voices.append((voice_of(record), ""))
        except InputError as error:
            voices.append((voice_of(record), str(error).partition(": ")[2]))
    return voices


def voice_of(record: VoiceRecord) -> Voice:
    """The voice that a record describes."""
    return Voice(
        name=record.name,
        speaker=record.speaker,
        identity=f"voice:{record.name}/{record.sound}",
        text=record.text,
        style=record.style,
        seconds=record.seconds,
        consent=record.consent,
    )


def _sounds(folder: Path) -> Iterator[Path]:
    yield folder / SOUND
    yield from folder.glob("codes-*.npy")
