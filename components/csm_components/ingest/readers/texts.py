"""Text of a corpus, decoded as it was written or refused by file and byte: nothing is replaced by U+FFFD.

UTF-8, with or without a byte order mark, and UTF-16 and UTF-32 with one, are told apart by their first bytes. Whatever
else is no guess: XML and HTML name theirs, all others are refused. A line that cannot be decoded costs itself.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csm_components.ingest.records import Reason
from csm_model.errors import InputError

_MARKS = (  # those of 32 bits first: they begin like those of 16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""(?:encoding|charset)\s*=\s*["']?([A-Za-z0-9._-]+)""")
_XML_HEADING = re.compile(r"^\s*<\?xml[^>]*\?>")
_LINES_OF_A_ROW = 50
"""Lines that a quoted cell may go over; an unbalanced quote must not take the rest of the table."""


class EncodingError(InputError):
    """Bytes that are not text in the encoding that the file has."""


@dataclass(frozen=True)
class Line:
    """One line of a file, without its end."""

    number: int
    """From 1."""
    text: str
    problem: str | None = None
    """Why there is no text."""
    reason: Reason = "wrong encoding"
    """What ingest calls that problem."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table with a header."""

    number: int
    """Of its first line, from 1."""
    cells: dict[str, str]
    problem: str | None = None
    """Why there are no cells."""
    reason: Reason = "damaged record"
    """What ingest calls that problem."""


def _decoded(raw: bytes, encoding: str, offset: int = 0) -> str:
    """`raw` as text; raises `EncodingError` with the byte, counted from `offset`."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        byte, place = raw[error.start], offset + error.start
        raise EncodingError(
            f"byte {place} (0x{byte:02x}) is not {encoding.upper()}; convert the file, such as by "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def _wide(head: bytes) -> str | None:
    """The encoding of 16 or 32 bits whose mark a file begins with."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def read_text(path: Path) -> str:
    """A whole file as text; for one that declares an encoding (XML, HTML), in that.

    Raises:
        EncodingError: with file and byte.
    """
    raw = path.read_bytes()
    encoding = _wide(raw)
    if encoding is None:
        declared = _DECLARED.search(raw[:1024]) if path.suffix.lower() in (".xml", ".rss", ".html", ".htm") else None
        encoding = declared.group(1).decode() if declared and not raw.startswith(codecs.BOM_UTF8) else "utf-8-sig"
    try:
        return _decoded(raw, encoding)
    except LookupError:
        raise EncodingError(f"{path}: declares the encoding {encoding!r}, which nothing here knows") from None
    except EncodingError as error:
        raise EncodingError(f"{path}: {error}") from None


def parse_xml(path: Path) -> ET.Element:
    """The root of an XML file, in the encoding that it declares.

    Raises:
        EncodingError: with file and byte.
        ElementTree.ParseError: it is not well-formed.
    """
    # expat bounds what entities grow to, and fetches nothing
    return ET.fromstring(_XML_HEADING.sub("", read_text(path)))  # noqa: S314


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, packed (`.gz`) or not, one after another; what cannot be read is a line with a problem."""
    number = offset = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            wide = _wide(file.peek(4)[:4])
            if wide is not None:
                try:
                    text = _decoded(file.read(), wide)
                except EncodingError as error:
                    yield Line(1, "", str(error))
                    return
                yield from (Line(at, line) for at, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1))
                return
            for number, raw in enumerate(file, 1):
                try:
                    text = _decoded(raw, "utf-8", offset)
                    yield Line(number, text.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n"))
                except EncodingError as error:
                    yield Line(number, "", str(error))
                offset += len(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Line(number + 1, "", f"the packed file ends early or is damaged ({error})", "damaged record")


def first_line(path: Path) -> str:
    """The first line of a file; empty where there is none, or it cannot be read."""
    try:
        return next((line.text for line in read_lines(path)), "")
    except OSError:
        return ""


def read_table(path: Path, delimiter: str, *, quoted: bool) -> Iterator[TableRow]:
    """The rows of a table whose first line names its columns; a row of another width is torn and has a problem.

    Args:
        path: the table.
        delimiter: what stands between cells.
        quoted: whether a cell may stand in double quotes, over several lines too; else quotes are text.
    """
    lines = [line for line in read_lines(path) if line.problem or line.text.strip()]
    if not lines:
        return
    if lines[0].problem:
        yield TableRow(1, {}, lines[0].problem, lines[0].reason)
        return
    header = _cells(lines[0].text, delimiter, quoted) or []
    at = 1
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.problem:
            yield TableRow(line.number, {}, line.problem, line.reason)
            continue
        cells, used = _cells(line.text, delimiter, quoted), 0
        if quoted and cells is None:
            cells, used = _joined(lines[at - 1 : at + _LINES_OF_A_ROW], delimiter, len(header))
        if cells is None or len(cells) != len(header):
            found = "a quote without its end" if cells is None else f"{len(cells)} cells"
            yield TableRow(line.number, {}, f"torn line: {found}, the header names {len(header)}")
            continue
        at += used
        yield TableRow(line.number, dict(zip(header, cells, strict=True)))


def _cells(text: str, delimiter: str, quoted: bool) -> list[str] | None:
    """The cells of one line; none where a quote does not end in it."""
    if not quoted:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None


def _joined(lines: Sequence[Line], delimiter: str, width: int) -> tuple[list[str] | None, int]:
    """Cells of a row that goes over several lines, and how many more than one; none where no number of lines fits."""
    for more in range(1, len(lines)):
        if lines[more].problem:
            break
        cells = _cells("\n".join(line.text for line in lines[: more + 1]), delimiter, quoted=True)
        if cells is not None:
            return (cells, more) if len(cells) == width else (None, 0)
    return None, 0
