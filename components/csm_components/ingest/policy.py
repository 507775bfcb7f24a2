"""The policy of a data set: which licences it takes and for what, whose consent it needs, and the bounds of its checks.

It is one TOML file, which the setting data.policy names; `csm data policy` prints the one in force, to begin one's own
from. A section that the file leaves out is as it is without a file; `[licenses]` is the whole list::

    [licenses]
    "CC0-1.0" = ["train", "evaluate", "research"]
    "CC-BY-NC-4.0" = ["research"]

    [licenses.LicenseRef-LDC]
    document = "ldc-agreement.pdf"
    sha256 = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
    approver = "J. Doe, legal"
    uses = ["train", "evaluate"]

    [rights]
    consent = "required"

A licence that has no public name is a `LicenseRef-NAME` with the document that somebody has approved: where that is
missing, or is another, nothing of a corpus is read.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StringConstraints, ValidationError, model_validator

from csm_components.ingest.bounds import FigureBounds, TextPolicy
from csm_components.ingest.licenses import FREE_LICENSES, KNOWN_LICENSES, canonical
from csm_components.ingest.section import Section
from csm_components.settings import Settings
from csm_components.storage import local_folder
from csm_model.errors import InputError, quoted
from csm_model.files import copy_file, digest_of, digest_of_file, write_bytes
from csm_model.rules import LISTED, broken, by, nearest, problems, refuse

Use = Literal["train", "evaluate", "research"]
"""What a record may be used for: to learn from and judge with, to judge with alone, or both in research alone."""
USES: tuple[Use, ...] = get_args(Use)
FILE = "policy.toml"
"""Name of a policy's file where a folder holds it with its documents."""
PRIVATE = "LicenseRef-"
_PRIVATE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


def _check_digest(text: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise InputError(f"{quoted(text)} is no SHA-256 (64 digits of 0-9, a-f); sha256sum FILE prints it")


class Rules(Section):
    """Bounds of the checks that each turn goes through."""

    min_seconds: float = Field(default=0.2, ge=0)
    """A turn shorter than this is empty."""
    min_level_db: float = Field(default=-55.0, le=0)
    """A turn whose root mean square is below this (dB of full scale) is silent."""
    max_clipped: float = Field(default=0.002, ge=0, le=1)
    """A turn with a larger share of its samples cut off at full scale is clipped."""
    max_chars_per_second: float = Field(default=32.0, gt=0)
    """Letters and digits that nobody says in a second; common speech has 12 to 18."""
    min_chars_per_second: float = Field(default=2.5, gt=0)
    """Fewer than this, after slack_seconds, and the recording holds something that the text does not."""
    slack_seconds: float = Field(default=2.0, ge=0)
    """Silence and hesitation that any turn may have."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_chars_per_second >= self.max_chars_per_second:
            at_most = f"must be less than max_chars_per_second, {self.max_chars_per_second:g}"
            raise broken([f".min_chars_per_second {self.min_chars_per_second:g}: {at_most}"])
        return self


class Rights(Section):
    """What a record must say of the person who is heard in it."""

    consent: Literal["optional", "required"] = "optional"
    """required: a record that names no consent is left out."""
    expired: Literal["refuse", "take"] = "refuse"
    """Whether a record is left out from the day on after which it expires."""
    days_left: int = Field(default=0, ge=0)
    """Days that a record must be good for at least, from the day of the run on."""
    blocklist: str | None = None
    """File with more that is never taken, beside the one of the storage; as csm data forget writes it."""


class PrivateLicense(Section):
    """A licence without a public name, by the document that says it."""

    document: Annotated[str, StringConstraints(min_length=1)]
    """Path of the document, from the policy's folder."""
    sha256: Annotated[str, by(_check_digest)]
    """Its SHA-256, in hexadecimal."""
    approver: Annotated[str, StringConstraints(min_length=1)]
    """Who has read it, and says what it allows."""
    uses: Annotated[tuple[Use, ...], LISTED, Field(min_length=1)]
    """What it allows."""


class _PublicLicense(Section):
    uses: Annotated[tuple[Use, ...], LISTED, Field(min_length=1)]


class Policy(Section):
    """A whole policy."""

    licenses: Mapping[str, tuple[Use, ...]] = Field(default_factory=lambda: dict.fromkeys(FREE_LICENSES, USES))
    """Uses that each licence allows, by its SPDX name; those of private ones by LicenseRef-NAME."""
    private: Mapping[str, PrivateLicense] = Field(default_factory=dict)
    """Documents of the private ones."""
    rights: Rights = Field(default_factory=Rights)
    checks: Rules = Field(default_factory=Rules)
    text: TextPolicy = Field(default_factory=TextPolicy)
    figures: FigureBounds = Field(default_factory=FigureBounds)

    @property
    def documents(self) -> dict[str, str]:
        """The private licences by the SHA-256 of their documents."""
        return {row.sha256: name for name, row in self.private.items()}

    def known(self, name: str) -> str | None:
        """The spelling of the licence in the policy; none where it is not in it."""
        return canonical(name, tuple(self.licenses))

    def check_license(self, name: str) -> None:
        """Raises `InputError` for a licence that no record is taken under."""
        if self.known(name) is None:
            listed = ", ".join(self.licenses)
            raise InputError(f"license {quoted(name)} is not one of {listed}{nearest(name, self.licenses)}")

    @property
    def digest(self) -> str:
        """Of all that it says, wherever it lies."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As the file has it, section by section."""
        licenses = {
            name: self.private[name].model_dump(mode="json") if name in self.private else list(uses)
            for name, uses in self.licenses.items()
        }
        sections = {name: getattr(self, name).model_dump(mode="json", exclude_none=True) for name in sections_of()}
        return {"licenses": licenses, **sections}

    def to_toml(self) -> str:
        """As a file, with the meaning of each field."""
        lines = ["# The policy of a data set (data.policy). A section that is left out is as it is without a file.", ""]
        lines += ["# What records under each licence may be used for:", f"# {', '.join(USES)}.", "[licenses]"]
        for name, uses in self.licenses.items():
            if name not in self.private:
                lines.append(f"{_value(name)} = {_value(uses)}")
        for name, row in self.private.items():
            lines += ["", f"[licenses.{_key(name)}]", *_fields(row)]
        for name in sections_of():
            lines += ["", f"[{name}]", *_fields(getattr(self, name), explained=True)]
        return "\n".join(lines) + "\n"


def sections_of() -> dict[str, type[Section]]:
    """The sections beside the licences: the policy's fields that are one."""
    kinds = {name: field.annotation for name, field in Policy.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def parse_policy(text: str, name: str, folder: Path) -> Policy:
    """The policy that a file's text is.

    Args:
        text: TOML.
        name: what to call it in an error.
        folder: where its documents lie.

    Raises:
        InputError: all that is wrong with it, a line each: the place in the file, the value, the rule.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML ({error})") from None
    kinds = sections_of()
    known = ("licenses", *kinds)
    lines = [f"{key}: there is no such section{nearest(key, known)}" for key in given if key not in known]
    values: dict[str, Any] = {}
    if "licenses" in given:
        values |= _licenses(given["licenses"], folder, lines)
    for key, kind in kinds.items():
        if key in given:
            values[key] = _part(kind, given[key], key, lines)
    if lines:
        refuse([f"{name}: {'; '.join(dict.fromkeys(lines))}"])
    return Policy(**values)


def _part(kind: type[Section], given: object, at: str, lines: list[str]) -> Any:
    """A section, or none and what is wrong with it."""
    if not isinstance(given, Mapping):
        lines.append(f"{at} {quoted(given)}: must be a section, [{at}]")
        return None
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        lines += problems(error, at=at, known=kind.model_fields)
    return None


def _licenses(given: object, folder: Path, lines: list[str]) -> dict[str, Any]:
    """The licences and the private ones among them; what is wrong goes to `lines`."""
    if not isinstance(given, Mapping):
        lines.append(f"licenses {quoted(given)}: must be a section, [licenses]")
        return {}
    if not given:
        lines.append("licenses: allows none, so every record would be left out; allow at least one")
    licenses: dict[str, tuple[Use, ...]] = {}
    private: dict[str, PrivateLicense] = {}
    for name, value in given.items():
        at = f"licenses.{_key(name)}"
        if name.startswith(PRIVATE):
            if not _PRIVATE.fullmatch(name):
                lines.append(f"{at}: a private licence is {PRIVATE}NAME, of letters, digits, dots and dashes")
            elif not isinstance(value, Mapping):
                lines.append(f"{at} {quoted(value)}: a private licence needs document, sha256, approver and uses")
            elif (row := _part(PrivateLicense, value, at, lines)) is not None:
                lines += _of_document(row, folder, at)
                licenses[name], private[name] = row.uses, row
            continue
        spelt = canonical(name, KNOWN_LICENSES)
        if spelt is None:
            cure = nearest(name, KNOWN_LICENSES) or f"; one of your own is {PRIVATE}NAME with its document"
            lines.append(f"{at}: no SPDX name of a licence that is known here{cure}")
        elif spelt in licenses:
            lines.append(f"{at}: is there twice")
        else:
            wrong: list[str] = []
            if (one := _part(_PublicLicense, {"uses": value}, at, wrong)) is not None:
                licenses[spelt] = one.uses
            lines += [line.replace(f"{at}.uses", at, 1) for line in wrong]
    return {"licenses": licenses, "private": private}


def _of_document(row: PrivateLicense, folder: Path, at: str) -> list[str]:
    """What is wrong with a private licence's document."""
    try:
        found = digest_of_file(folder / row.document)
    except OSError:
        return [f"{at}.document {quoted(row.document)}: no such file; without its document no licence is approved"]
    if found != row.sha256:
        return [f"{at}.sha256 {row.sha256[:12]}...: {row.document} has {found}; have it approved anew"]
    return []


def load_policy(path: Path | None) -> Policy:
    """The policy in a file, or in a folder with its documents; the packaged one where none is named.

    Raises:
        InputError: there is none, or what `parse_policy` raises.
    """
    if path is None:
        return Policy()
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such policy; csm data policy prints one to begin with") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}; a policy is a TOML file") from None
    return parse_policy(text, str(file), file.parent)


@contextmanager
def open_policy(place: str | None, settings: Settings | None = None) -> Iterator[tuple[Policy, Path | None]]:
    """The policy of a setting and the folder of its documents: a file or folder, or an address of the storage.

    Args:
        place: of the setting; none is the packaged policy.
        settings: of the storage.
    """
    if place is None:
        yield Policy(), None
        return
    with local_folder(place, settings) as path:
        yield load_policy(path), path if path.is_dir() else path.parent


def pack_policy(path: Path, folder: Path) -> None:
    """Puts a policy into a new folder with all that it names, so that it may travel: `policy.toml`, `documents/`."""
    policy, here = load_policy(path), path if path.is_dir() else path.parent
    private = {}
    for name, row in policy.private.items():
        packed = f"documents/{name}{Path(row.document).suffix}"
        copy_file(here / row.document, folder / packed)
        private[name] = row.model_copy(update={"document": packed})
    rights = policy.rights
    if rights.blocklist is not None:
        copy_file(here / rights.blocklist, folder / "blocklist.jsonl")
        rights = rights.model_copy(update={"blocklist": "blocklist.jsonl"})
    packed_policy = policy.model_copy(update={"private": private, "rights": rights})
    write_bytes(folder / FILE, packed_policy.to_toml().encode())


def _fields(section: Section, *, explained: bool = False) -> Iterator[str]:
    """The lines of a section; a field that is not set is a comment."""
    for name, field in type(section).model_fields.items():
        if explained and field.description:
            yield f"# {' '.join(field.description.split())}"
        value = getattr(section, name)
        yield f"# {name} =" if value is None else f"{name} = {_value(value)}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
