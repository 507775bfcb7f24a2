"""Voices that may be spoken with: those that the bundle has learnt, and those of a registry with a record of consent.

A registry is a folder, a voice a folder in it:

    anna/voice.json             name, text, style, speaker, digests, the consent; written last
    anna/prompt.wav             the recording, 24 kHz mono
    anna/codes-<digest>.npy     its codes, by the codec's digest: a cache

A voice whose consent has run out, was revoked, or does not name what the server is for is refused when it is asked for.
What changes on disk counts from the next stream on. The voices that a bundle was trained with are there by number and
by name; their record is the bundle's manifest, which names the data.

Shapes: K codebooks, F frames, S samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import soundfile

from csm_model.errors import ArtifactError, CsmError, DigestError, InputError
from csm_model.files import atomic_path, stamp_of
from csm_serving.server.consent import check_consent, now
from csm_serving.server.stored_voices import (
    NAME,
    RECORD,
    SOUND,
    Voice,
    VoiceRecord,
    read_record,
    stored_names,
    voice_of,
)

if TYPE_CHECKING:
    from csm_model.codec import AudioCodec
    from csm_model.inference.context import VoicePrompt

_RENAME_S: Final = 0.02
"""A folder that replaces another is away for less."""

log = logging.getLogger(__name__)


class VoiceRegistry:
    """The voices of a server. Its methods may be called from any thread.

    Args:
        folder: the registry; None has only the bundle's own voices.
        speakers: names of the bundle's speakers by number (`Bundle.speakers`); none known: any number may speak.
        use: what this server is for; voices whose consent does not name it are refused. None takes any use.
        clock: the instant at which consents are looked at.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        speakers: Mapping[int, str] | None = None,
        use: str | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._folder = folder
        self._speakers = dict(speakers or {})
        self._numbers: dict[str, int] = {}
        for number, speaker in sorted(self._speakers.items()):
            self._numbers.setdefault(speaker, number)
        self._use = use
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, tuple[object, VoiceRecord]] = {}
        self._prompts: dict[tuple[str, str], VoicePrompt] = {}

    @classmethod
    def load(
        cls, folder: Path | None, *, speakers: Mapping[int, str] | None = None, use: str | None = None
    ) -> VoiceRegistry:
        """The registry in `folder`; raises `InputError` where there is none or a name is a speaker's of the bundle."""
        registry = cls(folder, speakers=speakers, use=use)
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no folder of voices; csm voice add makes one, or leave the setting out")
        for name in stored_names(folder):
            if name in registry._numbers:
                raise InputError(
                    f"voice {name!r} of {folder} has the name of a speaker of the bundle; add it under another name"
                )
        return registry

    @property
    def names(self) -> list[str]:
        """Names that may be asked for now: the bundle's speakers, then the registry's voices."""
        return [*self._numbers, *(name for name in stored_names(self._folder) if self._usable(name))]

    def get(self, name: str) -> Voice:
        """The voice of that name.

        Raises:
            InputError: there is none, or its consent does not allow it.
            ArtifactError: its record is damaged.
        """
        if name in self._numbers:
            return self.speaker(self._numbers[name])
        record = self._read(name)
        if record is None:
            known = ", ".join(self.names) or "none"
            raise InputError(f"voice {name[:64]!r} is unknown; this server has: {known}")
        check_consent(record.name, record.consent, revoked=record.revoked, use=self._use, at=self._clock())
        return voice_of(record)

    def speaker(self, number: int) -> Voice:
        """The bundle's own speaker of that number; raises `InputError` where the bundle names others only."""
        if self._speakers and number not in self._speakers:
            known = ", ".join(f"{known} ({name})" for known, name in sorted(self._speakers.items()))
            raise InputError(f"speaker {number} is unknown: this bundle speaks as {known}")
        name = self._speakers.get(number, str(number))
        return Voice(name=name, speaker=number, identity=f"speaker:{number}")

    def prompt(self, name: str, codec: AudioCodec) -> VoicePrompt | None:
        """What is read before `name` speaks: its text and codes [K, F] of `codec`; None for a speaker of the bundle.

        The first call for a recording and a codec encodes it, unless the codes lie in the cache.

        Raises:
            InputError: as `get`.
            DigestError: the recording is not the one that the record names.
        """
        voice = self.get(name)
        if voice.trained:
            return None
        key = (voice.identity, codec.digest)
        with self._lock:
            prompt = self._prompts.get(key)
        if prompt is None or (prompt.text, prompt.speaker, prompt.style) != (voice.text, voice.speaker, voice.style):
            prompt = self._make_prompt(voice, codec)
            while prompt is None:  # another recording: the voice was replaced since its record was read, or is damaged
                voice, read = self.get(name), voice
                prompt = self._make_prompt(voice, codec)
                if prompt is None and voice == read:
                    raise DigestError(f"{self._folder}/{name}/{SOUND}: is not what {RECORD} names; add the voice again")
            with self._lock:
                self._prompts[voice.identity, codec.digest] = prompt
        return prompt

    def is_at_hand(self, name: str, codec: AudioCodec) -> bool:
        """Whether `prompt` has nothing to encode: a speaker of the bundle, or a voice whose codes are in memory.

        So it is for a name that it refuses.
        """
        try:
            voice = self.get(name)
        except CsmError:
            return True
        return voice.trained or (voice.identity, codec.digest) in self._prompts

    def prepare(self, codec: AudioCodec) -> list[str]:
        """Makes the prompts of all voices that may be used; returns a line for each stored voice that may not."""
        refused = []
        for name in stored_names(self._folder):
            try:
                self.prompt(name, codec)
            except (InputError, ArtifactError, OSError) as error:
                refused.append(str(error))
        return refused

    def _usable(self, name: str) -> bool:
        try:
            self.get(name)
        except (InputError, ArtifactError):
            return False
        return True

    def _read(self, name: str) -> VoiceRecord | None:
        """The record of that name, read again where it changed on disk; None where there is none."""
        if self._folder is None or not NAME.fullmatch(name):
            return None
        path = self._folder / name / RECORD
        with self._lock:
            known = self._records.get(name)
        stamp = stamp_of(path)
        if stamp is None and known is not None:  # is it gone, or between its old folder and its new one?
            time.sleep(_RENAME_S)
            stamp = stamp_of(path)
        if stamp is None or known is None or known[0] != stamp:
            record = None if stamp is None else read_record(self._folder, name)
            with self._lock:
                self._records.pop(name, None)
                if record is not None:
                    self._records[name] = (stamp, record)
                for key in [key for key in self._prompts if key[0].startswith(f"voice:{name}/")]:
                    del self._prompts[key]  # a revoked voice does not stay in memory
            return record
        return known[1]

    def _make_prompt(self, voice: Voice, codec: AudioCodec) -> VoicePrompt | None:
        """The prompt of `voice`, from the cache or its recording; None where another recording lies there."""
        import torch

        from csm_model.inference.context import VoicePrompt

        assert self._folder is not None
        folder = self._folder / voice.name
        digest = voice.identity.partition("/")[2]
        cache = folder / f"codes-{codec.digest[:16]}-{digest[:16]}.npy"
        codes = _cached_codes(cache, codec)
        if codes is None:
            try:
                sound = (folder / SOUND).read_bytes()
            except FileNotFoundError:
                return None
            if hashlib.sha256(sound).hexdigest() != digest:
                return None
            samples, _ = soundfile.read(io.BytesIO(sound), dtype="float32")
            with torch.inference_mode():
                codes = codec.encode(torch.from_numpy(samples)[None, None])[0].numpy().astype(np.int32)
            with contextlib.suppress(OSError), atomic_path(cache) as partial, partial.open("wb") as file:
                np.save(file, codes)  # a registry that is mounted for reading has no cache on disk
        return VoicePrompt(
            speaker=voice.speaker, text=voice.text, codes=torch.from_numpy(codes.astype(np.int64)), style=voice.style
        )


def _cached_codes(path: Path, codec: AudioCodec) -> npt.NDArray[Any] | None:
    try:
        codes: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s: is damaged (%s); the recording is encoded again", path, error)
        return None
    fits = codes.ndim == 2 and codes.shape[0] == codec.num_codebooks and np.issubdtype(codes.dtype, np.integer)
    return codes if fits and codes.size and 0 <= codes.min() <= codes.max() < codec.codebook_size else None
