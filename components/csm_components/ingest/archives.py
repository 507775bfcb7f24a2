"""Sound that lies in a tar file: `ARCHIVE.tar::MEMBER`, read where it lies.

A member may be named without its suffix where the texts do not say which kind of sound it is. A plain `.tar` is read by
place; a packed one (`.tar.gz`) is unpacked from its beginning up to the member, but only once by a process that reads
members in the order in which they lie.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath

from csm_model.errors import AudioError

MARK = "::"
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


@lru_cache(maxsize=4)
def _opened(archive: Path, _size: int, _changed: int) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    """An archive that stays open, and its members by name, and by name without suffix."""
    tar = tarfile.open(archive)  # noqa: SIM115
    members: dict[str, tarfile.TarInfo] = {}
    for info in tar:
        if info.isfile():
            name = info.name.removeprefix("./")
            members[name] = info
            if PurePosixPath(name).suffix not in (".json", ".txt"):
                members.setdefault(str(PurePosixPath(name).with_suffix("")), info)
                members.setdefault(PurePosixPath(name).stem, info)
    return tar, members


def open_member(path: str) -> io.BytesIO:
    """The bytes of a sound in an archive; raises `AudioError` where there is none or the archive is damaged.

    Args:
        path: `ARCHIVE::MEMBER`.
    """
    archive, member = Path(file_of(path)), str(member_of(path)).removeprefix("./")
    try:
        state = archive.stat()
        tar, members = _opened(archive, state.st_size, state.st_mtime_ns)
        info = members.get(member)
        data = tar.extractfile(info) if info is not None else None
        if data is None:
            raise AudioError(f"{archive}: holds no {member}")
        return io.BytesIO(data.read())
    except FileNotFoundError:
        raise AudioError(f"{archive}: no such file") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise AudioError(f"{archive}: cannot be read as a tar file ({error})") from None
