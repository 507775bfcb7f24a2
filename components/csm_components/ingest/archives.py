"""Sound that lies in a tar file: `ARCHIVE.tar::MEMBER`, read where it lies.

A member may be named without its suffix where the texts do not say which kind of sound it is. A plain `.tar` is read by
place; a packed one (`.tar.gz`) is unpacked from its beginning up to the member, but only once by a process that reads
members in the order in which they lie.
"""

from __future__ import annotations

import atexit
import gzip
import io
import os
import re
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath

from csm_model.errors import AudioError

MARK = "::"
_NO_SOUND = (".json", ".txt", ".nodata", ".nometa")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_ADDRESS = re.compile(r"(.*?\.(?:tar|tar\.gz|tgz))::(.+)", re.IGNORECASE | re.DOTALL)


def is_archive(name: str) -> bool:
    """Whether a file name is that of a tar file."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def in_archive(archive: str, member: str) -> str:
    """The address of a member."""
    return f"{archive}{MARK}{member}"


def file_of(audio: str) -> str:
    """The file that holds a sound: the sound file, or the archive."""
    found = _ADDRESS.fullmatch(audio)
    return found.group(1) if found else audio


def member_of(audio: str) -> str | None:
    """The member of an archive that a sound is; none where it is a file of its own."""
    found = _ADDRESS.fullmatch(audio)
    return found.group(2) if found else None


_State = tuple[int, int]
"""Size and time of change of a file."""


@lru_cache(maxsize=8)
def _members(archive: Path, _state: _State) -> dict[str, tuple[int, int]]:
    """Place and length of each member by its name, and of each sound by its name without suffix or folder too."""
    members: dict[str, tuple[int, int]] = {}
    with tarfile.open(archive) as tar:
        for info in tar:
            if not info.isfile():
                continue
            name, place = PurePosixPath(info.name.removeprefix("./")), (info.offset_data, info.size)
            members[str(name)] = place
            if name.suffix not in _NO_SOUND:
                members.setdefault(str(name.with_suffix("")), place)
                members.setdefault(name.stem, place)
    return members


_unpacking: dict[tuple[Path, _State, int], gzip.GzipFile] = {}
"""The one packed archive that stays open in a process, so that members in their order cost one pass."""


@atexit.register
def _close() -> None:
    for key in list(_unpacking):
        _unpacking.pop(key).close()


def _read(archive: Path, state: _State, offset: int, size: int) -> bytes:
    if archive.suffix == ".tar":
        with archive.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    key = (archive, state, os.getpid())  # a forked worker would move the place in its parent's file
    if key not in _unpacking:
        _close()
        _unpacking[key] = gzip.open(archive)  # noqa: SIM115
    packed = _unpacking[key]
    packed.seek(offset)
    return packed.read(size)


def open_member(path: str) -> io.BytesIO:
    """The bytes of a sound in an archive; raises `AudioError` where there is none or the archive is damaged.

    Args:
        path: `ARCHIVE::MEMBER`.
    """
    archive, member = Path(file_of(path)), str(member_of(path)).removeprefix("./")
    try:
        found = archive.stat()
        state = (found.st_size, found.st_mtime_ns)
        place = _members(archive, state).get(member)
        if place is None:
            raise AudioError(f"{archive}: holds no {member}")
        return io.BytesIO(_read(archive, state, *place))
    except FileNotFoundError:
        raise AudioError(f"{archive}: no such file") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise AudioError(f"{archive}: cannot be read as a tar file ({error})") from None
