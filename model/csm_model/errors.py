"""The errors that a caller can act on. A command line prints one in one line and exits with 2.

CsmError
├── InputError            a value given by the user: text, speaker, path, setting
│   ├── AudioError        sound that cannot be read or used
│   └── NotFoundError     an object or a tree that is not in the storage
├── ArtifactError         a stored thing is damaged or of the wrong kind
│   ├── DigestError       its bytes are not those that its manifest names
│   └── CheckpointError   a checkpoint that cannot be resumed from
├── MachineError          the machine would not: a disk that is full or read-only, a folder of others
└── MissingDependencyError  something outside is missing: a package, a server, a port
"""

from __future__ import annotations

import reprlib


class CsmError(Exception):
    """Base of all; its message names the value, the rule and the cure, in one line."""


class InputError(CsmError):
    """A value given by the user breaks a rule."""


class AudioError(InputError):
    """Sound that cannot be read or used."""


class NotFoundError(InputError):
    """An object or a tree is not in the storage."""


class ArtifactError(CsmError):
    """A stored artefact is damaged, incomplete or of another kind."""


class MachineError(CsmError):
    """The machine would not do what was needed: its disk is full or read-only, or others own the folder."""


class DigestError(ArtifactError):
    """The bytes of an artefact are not those that its manifest names."""


class CheckpointError(ArtifactError):
    """A checkpoint that cannot be resumed from."""


class MissingDependencyError(CsmError):
    """Something outside this program is missing: a package, a server, a port, a shared library."""


LONGEST = 160
"""Characters of a stranger's words that an error repeats."""


def shown(text: object) -> str:
    """A stranger's text, or the first line of an exception, in at most `LONGEST` printable characters of one line."""
    words = str(text)
    if isinstance(text, BaseException):
        words = next((line.strip() for line in words.splitlines() if line.strip()), type(text).__name__)
    words = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words[: LONGEST + 1])
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"


def quoted(value: object) -> str:
    """A stranger's value as Python writes it, as short and printable as `shown`."""
    return shown(_REPR.repr(value))


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def words_of(error: BaseException) -> str:
    """What an error says; nothing where it cannot even say that."""
    try:
        return legible(str(error))
    except Exception:
        return ""


def legible(text: str) -> str:
    """A text that may name files, whose names may be no UTF-8 or were not taken for it, as it can be written."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
