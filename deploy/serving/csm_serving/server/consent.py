"""A record of consent: whose voice, for what, until when, and how it is taken back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json

Words = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


_FIRST: Final = timezone(timedelta(hours=14))
"""Where a day begins first: the Line Islands."""
_LAST: Final = timezone(timedelta(hours=-12))
"""Where it ends last: "anywhere on earth"."""


def now() -> datetime:
    """The instant at which consents are looked at."""
    return datetime.now(UTC)


class Consent(BaseModel):
    """What a person allowed; written by hand as JSON, and kept with the voice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    person: Words
    """Whose voice it is."""
    given: date
    """The day on which the person allowed it; it holds from its beginning, wherever that is."""
    witness: Words
    """Who took the consent, and answers for it."""
    uses: Annotated[tuple[Words, ...], Field(min_length=1)]
    """What the voice may be used for; a server that names its use takes only voices that allow it."""
    revoke: Words
    """How the person takes the consent back: an address, a number."""
    recording: Sha256
    """SHA-256 of the recording file that the person agreed to (`sha256sum FILE`)."""
    expires: date | None = None
    """The last day on which it holds, until it is over everywhere; None: until it is revoked."""
    evidence: str | None = Field(default=None, max_length=500)
    """Where the signed paper or the recorded agreement lies."""


def read_consent(path: Path) -> Consent:
    """Reads a consent that was written by hand; raises `InputError` in one line where it is incomplete."""
    try:
        return Consent.model_validate(read_json(path))
    except (ValidationError, ArtifactError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else "is not valid JSON"
        raise InputError(f"{path}: {reason}; docs/voices.md has an example of a consent") from None


def check_consent(
    name: str, consent: Consent, *, revoked: datetime | None = None, use: str | None = None, at: datetime | None = None
) -> None:
    """Raises `InputError` where the consent to the voice `name` does not hold at that instant (now), or not for `use`.

    A date has no time zone: it counts from its beginning where it begins first to its end where it ends last.
    """
    at = at or now()
    if revoked is not None:
        raise InputError(f"voice {name!r}: its consent was revoked on {revoked.date()}; take another voice")
    if consent.given > at.astimezone(_FIRST).date():
        raise InputError(
            f"voice {name!r}: its consent is dated {consent.given}, which is still to come; check the date"
        )
    if consent.expires is not None and at.astimezone(_LAST).date() > consent.expires:
        raise InputError(f"voice {name!r}: its consent ended on {consent.expires}; add it with a new one")
    if use is not None and use not in consent.uses:
        raise InputError(f"voice {name!r}: its consent is for {', '.join(consent.uses)}, not for {use!r}")


def first_error(error: ValidationError) -> str:
    """What is wrong with the first field that is, in a few words."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].lower()}"
