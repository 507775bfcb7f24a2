"""Text for a stream of another version: handed on, refused as that version refuses it, or known to none."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csm_model.errors import InputError
from csm_serving.server.siblings import Siblings
from csm_serving.wire.errors import ServingError, UnknownStreamError
from csm_serving.wire.protocol import TextPart

Start = Callable[[str, dict[str, list[TextPart]]], Siblings]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a version that speaks some streams."""
    started: list[Siblings] = []
    family = uuid.uuid4().hex

    def version(name: str, streams: dict[str, list[TextPart]]) -> Siblings:
        def take(part: TextPart, caller: str | None) -> None:
            if part.stream_id not in streams:
                raise UnknownStreamError(part.stream_id)
            if part.text == "refuse":
                raise InputError("the stream's text has ended")
            if part.text == "break":
                raise KeyError("model")
            streams[part.stream_id].append(part)

        (tmp_path / name).mkdir()
        started.append(Siblings(tmp_path, name, take, family=family))
        return started[-1]

    yield version
    for siblings in started:
        siblings.close()


def part_of(text: str, stream_id: str = "12345678", *, more: bool = True) -> TextPart:
    return TextPart(stream_id=stream_id, text=text, more=more)


@pytest.mark.parametrize("text", ["and then", "", "Grüße \0 \U0001f600" * 60, "x" * 1_000, "\U0010ffff" * 1_000])
def test_a_part_goes_to_the_version_that_speaks_its_stream(start: Start, text: str) -> None:
    streams: dict[str, list[TextPart]] = {"12345678": []}
    start("1", streams)
    start("2", {})
    newest = start("3", {})
    newest.hand_on(part_of(text, more=False))
    assert streams["12345678"] == [part_of(text, more=False)]


def test_what_the_other_version_says_is_said(start: Start) -> None:
    start("1", {"12345678": []})
    newest = start("2", {})
    with pytest.raises(InputError, match="has ended"):
        newest.hand_on(part_of("refuse"))
    with pytest.raises(ServingError, match="KeyError"):
        newest.hand_on(part_of("break"))
    with pytest.raises(UnknownStreamError, match="'abcdefgh' is not live here"):
        newest.hand_on(part_of("and then", "abcdefgh"))


def test_a_version_that_is_gone_knows_no_stream(start: Start) -> None:
    old = start("1", {"12345678": []})
    newest = start("2", {})
    old.close()
    with pytest.raises(UnknownStreamError):
        newest.hand_on(part_of("and then"))


def test_nonsense_on_the_line_ends_nothing(start: Start) -> None:
    streams: dict[str, list[TextPart]] = {"12345678": []}
    old = start("1", streams)
    newest = start("2", {})
    for nonsense in (b"", b"{", b"[1]", b"\xff" * 100_000, b'["short", "x", true]'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.connect(old._address("1"))
            try:
                line.sendall(nonsense)
                line.shutdown(socket.SHUT_WR)
                line.recv(1_000)
            except ConnectionError:
                pass
    newest.hand_on(part_of("and then"))
    assert streams["12345678"] == [part_of("and then")]
