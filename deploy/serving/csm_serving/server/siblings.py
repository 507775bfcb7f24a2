"""More text for a stream that another version of the model speaks.

While one version is swapped for another, the old one still speaks its streams, but Triton sends every request to the
new one, the parts of their text too. So the new one hands on what it does not know: each version listens on a socket
that only processes of the same user and the same Triton find.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from csm_serving.wire import messages
from csm_serving.wire.errors import ServingError, UnavailableError, UnknownStreamError
from csm_serving.wire.protocol import MAX_TEXT_CHARACTERS, TextPart

Take = Callable[[TextPart, str | None], None]
"""Adds a part, of a caller where the server knows who, to a stream of this version; raises `UnknownStreamError` where
there is none of that name."""

_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 16 * MAX_TEXT_CHARACTERS
"""Of a message: a character is 12 bytes of JSON at most."""

log = logging.getLogger(__name__)


class Siblings:
    """This version among those of one Triton.

    Args:
        repository: the folder of the model's versions.
        version: this one.
        take: adds a part to one of its streams.
        family: what the versions have in common; by default the process that started them, Triton.
    """

    def __init__(self, repository: Path, version: str, take: Take, *, family: str | None = None) -> None:
        self._repository = repository
        self._version = version
        self._take = take
        self._family = family or str(os.getppid())
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self._address(version))
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, name="csm-siblings", daemon=True)
        self._thread.start()

    def hand_on(self, part: TextPart, caller: str | None = None) -> None:
        """Gives a part, of a caller where the server knows who, to the version that speaks its stream.

        Raises:
            UnknownStreamError: none does.
            CsmError: the one that does refuses it.
        """
        others = [path.name for path in self._repository.iterdir() if path.name.isdecimal()]
        for version in sorted(others, key=int, reverse=True):
            if version == self._version:
                continue
            with contextlib.suppress(UnknownStreamError, ConnectionRefusedError):
                self._ask(version, part, caller)
                return
        raise UnknownStreamError(part.stream_id)

    def close(self) -> None:
        """Listens no more."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _address(self, version: str) -> str:
        return f"\0csm-{self._family}-{version}"  # of Linux's own name space: it is gone with its process

    def _ask(self, version: str, part: TextPart, caller: str | None) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(_TIMEOUT_S)
            line.connect(self._address(version))
            try:
                if not _same_user(line):
                    raise ConnectionRefusedError
                line.sendall(json.dumps([part.stream_id, part.text, part.more, caller]).encode())
                line.shutdown(socket.SHUT_WR)
                said = json.loads(_all_of(line))
            except (TimeoutError, ConnectionResetError, BrokenPipeError, ValueError) as error:
                raise UnavailableError(
                    f"version {version} of the model does not answer: {error or 'cut off'}"
                ) from None
        if said == ["unknown"]:
            raise UnknownStreamError(part.stream_id)
        if said != ["taken"]:
            raise messages.find_error(str(said[0])) or ServingError(f"version {version} of the model answers {said}")

    def _run(self) -> None:
        while not self._closed:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            with line:
                try:
                    self._answer(line)
                except Exception:
                    log.exception("another version could not be answered")

    def _answer(self, line: socket.socket) -> None:
        line.settimeout(_TIMEOUT_S)
        if not _same_user(line):
            return
        stream_id, text, more, caller = json.loads(_all_of(line))
        try:
            self._take(TextPart(stream_id=stream_id, text=text, more=more), caller)
            said = "taken"
        except UnknownStreamError:
            said = "unknown"
        except Exception as error:
            said = messages.encode_error(error)
        line.sendall(json.dumps([said]).encode())


def _all_of(line: socket.socket) -> bytes:
    """What comes until the other side has said all."""
    said = b""
    while piece := line.recv(_MOST_BYTES):
        said += piece
        if len(said) > _MOST_BYTES:
            raise ValueError("too much")
    return said


def _same_user(line: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())
