"""Who calls: the token file, what each of its callers may, and how much of it they use now.

The file is JSON, written by `csm token` or by hand:

    {"format": 1, "tokens": [{"name": "shop", "sha256": "9c1e...", "voices": ["anna"], "streams": 4,
                              "characters_a_minute": 6000}]}

It holds no token, only the SHA-256 of each. It is read again when it changes, for the next request; a change that
cannot be read leaves what was read before in force, and is told in the log.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json, stamp_of, write_json
from csm_serving.server.consent import Sha256, Words, first_error
from csm_serving.wire.errors import AccessError, QuotaError
from csm_serving.wire.protocol import SpeechRequest

STREAM_RETRY_S: Final = 1.0
"""When to come again for one who has as many streams as allowed: when one of them ends, which nobody knows."""
_MINUTE_S: Final = 60.0
_PREFIX: Final = "csm_"
"""How our tokens begin, so that who finds one knows what it is."""

log = logging.getLogger(__name__)


class Caller(BaseModel):
    """One who may call, and what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """As the audit has it."""
    sha256: Sha256
    """Of the token."""
    voices: tuple[Words, ...] | None = None
    """Voices and speakers, by name; a speaker without a name by its number. None: all."""
    streams: Annotated[int, Field(ge=1)] | None = None
    """Streams at once, at each server; None: as many as fit."""
    characters_a_minute: Annotated[int, Field(ge=1)] | None = None
    """Characters of text in a minute, at each server; None: no bound."""


class TokenFile(BaseModel):
    """All who may call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    tokens: tuple[Caller, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for values in ([caller.name for caller in self.tokens], [caller.sha256 for caller in self.tokens]):
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"{twice[0]} stands there twice")
        return self


def read_tokens(path: Path) -> TokenFile:
    """The token file at `path`; raises `InputError` where there is none, `ArtifactError` where it is damaged."""
    try:
        return TokenFile.model_validate(read_json(path))
    except ValidationError as error:
        raise ArtifactError(f"{path}: {first_error(error)}; docs/callers.md has an example") from None
    except OSError as error:
        raise InputError(f"{path}: the token file cannot be read ({error.strerror})") from None


def write_tokens(path: Path, callers: Iterable[Caller]) -> None:
    """Writes the token file, for this user alone to read."""
    write_json(path, TokenFile(tokens=tuple(callers)).model_dump(mode="json", exclude_none=True), private=True)


def draw_token() -> str:
    """A new token: 256 bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of_token(token: str) -> str:
    """What the file keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Grant:
    """A stream that a caller was allowed; it counts until it is given back, once."""

    def __init__(self, give_back: Callable[[bool], None]) -> None:
        self._give_back: Callable[[bool], None] | None = give_back

    def end(self, *, unused: bool = False) -> None:
        """The stream is over; `unused`: it never began, and its text does not count."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(unused)


class Callers:
    """The callers of a server; its methods may be called from any thread.

    Args:
        path: the token file.
        speakers: names of the bundle's speakers by number.
        clock: seconds.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is damaged.
    """

    def __init__(self, path: Path, *, speakers: Mapping[int, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._speakers = speakers
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = stamp_of(path)
        self._known = read_tokens(path).tokens
        self._streams: Counter[str] = Counter()
        self._budgets: dict[str, tuple[float, float]] = {}
        """Characters that are left to a caller, and when they were."""

    def identify(self, header: str | None) -> Caller:
        """Whose token an `Authorization` header brings; raises `AccessError` where it is nobody's."""
        kind, _, token = (header or "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise AccessError("this server asks who calls: give a token, token= or CSM_SERVING_TOKEN")
        asked = digest_of_token(token.strip())
        found = None
        for caller in self._callers():  # all of them, so that the time says nothing about where it stands
            if hmac.compare_digest(caller.sha256, asked):
                found = caller
        if found is None:
            raise AccessError("the token is not known to this server, or not any more; ask its operator for another")
        return found

    def admit(self, caller: Caller, request: SpeechRequest) -> Grant:
        """Lets a stream begin.

        Raises:
            AccessError: the voice is not one of the caller's, or the text is longer than a minute's.
            QuotaError: the caller has as many streams as allowed, or has said too much for now.
        """
        name = request.voice
        if name is None:
            name = self._speakers.get(request.speaker or 0, str(request.speaker or 0))
        if caller.voices is not None and name not in caller.voices:
            allowed = ", ".join(caller.voices) or "none"
            raise AccessError(f"{caller.name} may not speak as {name[:64]!r}; its voices are: {allowed}")
        with self._lock:
            if caller.streams is not None and self._streams[caller.name] >= caller.streams:
                raise QuotaError(
                    f"{caller.name} has {caller.streams} streams, as many as it may have at once; try again when one "
                    "of them is over",
                    retry_after_s=STREAM_RETRY_S,
                )
            self._charge(caller, len(request.text))
            self._streams[caller.name] += 1
        return Grant(lambda unused: self._give_back(caller, len(request.text) if unused else 0))

    def charge(self, caller: Caller, characters: int) -> None:
        """Counts more text of a stream that is live; raises as `admit`."""
        with self._lock:
            self._charge(caller, characters)

    def _charge(self, caller: Caller, characters: int) -> None:
        """Takes characters off what a caller has left, which fills up evenly to a minute's worth."""
        most = caller.characters_a_minute
        if most is None:
            return
        if characters > most:
            raise AccessError(f"a text of {characters} characters: {caller.name} may say {most} a minute; send less")
        now = self._clock()
        left, at = self._budgets.get(caller.name, (float(most), now))
        left = min(float(most), left + (now - at) * most / _MINUTE_S)
        if characters > left:
            self._budgets[caller.name] = left, now
            raise QuotaError(
                f"{caller.name} may say {most} characters a minute, and {left:.0f} are left now, not {characters}",
                retry_after_s=(characters - left) * _MINUTE_S / most,
            )
        self._budgets[caller.name] = left - characters, now

    def _give_back(self, caller: Caller, characters: int) -> None:
        with self._lock:
            self._streams[caller.name] -= 1
            if caller.name in self._budgets:
                left, at = self._budgets[caller.name]
                self._budgets[caller.name] = left + characters, at

    def _callers(self) -> tuple[Caller, ...]:
        """Those of the file as it is now."""
        stamp = stamp_of(self._path)
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._known = read_tokens(self._path).tokens
                    log.info("%s was read again: %d tokens", self._path, len(self._known))
                except (InputError, ArtifactError) as error:
                    log.error("%s; the %d tokens that were read before stay in force", error, len(self._known))
            return self._known
