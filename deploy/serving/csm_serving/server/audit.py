"""The audit: one line about every stream, without its text; a server that cannot write it does not speak.

A line is JSON, written when the stream is over, however it ended. It holds nothing that the text could be guessed from:
no part of it and no digest, only how many characters it had.

    {"time": "2026-11-25T09:30:01.123+00:00", "stream": "5f0c...", "caller": "shop", "voice": "anna", "speaker": 1,
     "identity": "voice:anna/9c1e...", "model": "0079...", "watermark": "perth:7", "characters": 42, "frames": 38,
     "seconds": 3.04, "outcome": "ended", "error": "", "waited_s": 0.0, "first_audio_s": 0.18, "took_s": 1.9,
     "seed": 0, "encoding": "float32", "context": 2, "resumed_frames": 0}
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from csm_model.frames import seconds_of
from csm_serving.wire.errors import UnavailableError

if TYPE_CHECKING:
    from csm_serving.server.stream import Account

MAX_KEPT: Final = 10_000
"""Lines that are kept while the file cannot be written; streams that were live may be so many."""

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe nobody reads: an error

log = logging.getLogger(__name__)


class AuditSink(Protocol):
    """Where lines go."""

    def check(self) -> None:
        """Raises `OSError` where the next line could not be written."""
        ...

    def write(self, line: str) -> None:
        """Writes a line, or keeps it and lets the next `check` say so."""
        ...


class LogSink:
    """The server's own log, whose failing it does not hear of."""

    def check(self) -> None:
        """See `AuditSink`."""

    def write(self, line: str) -> None:
        """See `AuditSink`."""
        log.info("audit %s", line)


class FileSink:
    """A file that lines are appended to, each in one write, so that several servers may share it.

    The file is opened anew where it was moved away (logrotate) or where a write failed. What could not be written is
    kept, and written first when the file can be written again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        self._kept: deque[bytes] = deque(maxlen=MAX_KEPT)

    def check(self) -> None:
        """See `AuditSink`."""
        with self._lock:
            self._flush()

    def write(self, line: str) -> None:
        """See `AuditSink`."""
        with self._lock:
            if len(self._kept) == MAX_KEPT:
                log.error("the audit %s has lost a line: it cannot be written, and %d are kept", self._path, MAX_KEPT)
            self._kept.append(line.encode() + b"\n")
            try:
                self._flush()
            except OSError as error:
                log.error("the audit %s cannot be written (%s): no stream begins", self._path, error.strerror or error)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._release()

    def _flush(self) -> None:
        """Writes what is kept; raises `OSError` where it cannot be."""
        try:
            file = self._opened()
            while self._kept:
                written = os.write(file, self._kept[0])
                if written < len(self._kept[0]):  # the disk is full; the line comes again, whole, on a line of its own
                    self._kept[0] = b"\n" + self._kept[0].lstrip(b"\n")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._kept.popleft()
        except OSError:
            self._release()
            raise

    def _opened(self) -> int:
        if self._file is not None:
            ours = os.fstat(self._file)
            try:
                there = self._path.stat()
            except FileNotFoundError:
                there = None
            if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                self._release()
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, _APPEND, 0o640)
        return self._file

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Audit:
    """What a server writes of its streams; its two methods are the engine's `Watchers`.

    Args:
        sink: where lines go; None writes none.
        model: digest of the bundle that speaks.
        watermark: kind of the mark that the sound carries.
        required: whether no stream may begin while lines cannot be written.
    """

    def __init__(self, sink: AuditSink | None, *, model: str, watermark: str, required: bool = True) -> None:
        self._sink = sink
        self._model = model
        self._watermark = watermark
        self._required = required

    def may_begin(self) -> None:
        """Raises `UnavailableError` where the stream to come could not be audited."""
        if self._sink is None or not self._required:
            return
        try:
            self._sink.check()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnavailableError(
                f"the server cannot write its audit ({reason}), and does not speak without; ask another one"
            ) from None

    def over(self, account: Account) -> None:
        """Writes the line of a stream that is over."""
        if self._sink is not None:
            self._sink.write(json.dumps(self._line(account), ensure_ascii=False))

    def _line(self, account: Account) -> dict[str, Any]:
        request, asked = account.request, account.asked
        resumed = 0 if request.resume is None else int(request.resume.codes.shape[1])
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stream": secrets.token_hex(16),
            "caller": account.caller,
            "voice": None if asked is None else asked.voice.name,
            "speaker": request.speaker if asked is None else asked.voice.speaker,
            "identity": None if asked is None else asked.voice.identity,
            "model": self._model,
            "watermark": self._watermark,
            "characters": account.characters,
            "frames": account.frames,
            "seconds": round(seconds_of(account.frames), 2),
            "outcome": account.outcome,
            "error": account.error,
            "waited_s": _rounded(account.waited_s),
            "first_audio_s": _rounded(account.first_audio_s),
            "took_s": _rounded(account.took_s),
            "seed": request.seed,
            "encoding": request.encoding,
            "context": len(request.context),
            "resumed_frames": resumed,
        }


def open_audit(spec: str, *, model: str, watermark: str, required: bool = True) -> Audit:
    """The audit that a setting names: `log`, the path of a file, or `off`.

    A file is tried at once, and raises `UnavailableError` where it cannot be written and `required`.
    """
    sink: AuditSink | None = None if spec == "off" else LogSink() if spec == "log" else FileSink(Path(spec))
    audit = Audit(sink, model=model, watermark=watermark, required=required)
    audit.may_begin()
    return audit


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
