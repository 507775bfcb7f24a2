"""A server's folder under a name that any program takes, whatever its own name is.

Triton starts a model's process by a line for the shell in which paths stand as they are: a space ends one, a `;` or a
quote is run. A colon ends an entry of PATH, and what is not ASCII depends on the locale. So Triton is told of nothing
but a link of plain letters, which leads to the folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from csm_model.errors import MissingDependencyError

SHARED: Final = Path("/dev/shm")  # noqa: S108
"""Where Triton shares memory with its models: it cannot do without, and its name is plain."""


class PlainPlace:
    """A link to `folder`, for as long as its server runs; `name` begins the names of all that it keeps in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.path = SHARED / f"{name}home"

    def make(self) -> None:
        """Makes the link; raises `MissingDependencyError` where that cannot be."""
        try:
            self.path.unlink(missing_ok=True)
            self.path.symlink_to(self._folder, target_is_directory=True)
        except OSError as error:
            raise MissingDependencyError(
                f"{SHARED}: {error.strerror}; Triton shares memory with its models there: mount it, with 256 MiB"
            ) from None

    def remove(self) -> None:
        """Removes it."""
        self.path.unlink(missing_ok=True)

    def of(self, path: Path, name: str) -> Path:
        """A path whose own name stays out of sight: as a link `name` in the folder, seen through this one.

        What lies in the folder needs no link.
        """
        if path.is_relative_to(self._folder):
            return self.path / path.relative_to(self._folder)
        link = self._folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return self.path / name


def is_plain(path: str) -> bool:
    """Whether a path means the same to a shell, to PATH, and in every locale."""
    return path.isascii() and all(letter.isalnum() or letter in "/._-+" for letter in path)


def joined(*paths: str) -> str:
    """Entries of PATH and its like, in order, without empty ones."""
    return os.pathsep.join(path for path in paths if path)
