"""A line for every stream, none of its text in it, none lost; and no stream where it could not be written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from csm_model.inference.narration import Utterance
from csm_model.inference.sampling import Sampling
from csm_serving.server.audit import MAX_KEPT, Audit, FileSink, open_audit
from csm_serving.server.safeguards import warnings_of, who_may_call
from csm_serving.server.source import ResolvedRequest
from csm_serving.server.stored_voices import Voice
from csm_serving.server.stream import Account
from csm_serving.server.tokens import TurnKey
from csm_serving.settings import load_settings
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import Resume, SpeechRequest, Turn

SECRET = "Meet Quentin at the boathouse"


def account(**changes: object) -> Account:
    voice = Voice(name="anna", speaker=1, identity="voice:anna/9c1e")
    request = SpeechRequest(
        text=SECRET,
        voice="anna",
        seed=7,
        encoding="opus",
        stream_id="client-chosen-name",
        context=(Turn(speaker=0, text="Who is Quentin?"),),
        resume=Resume(codes=np.zeros((4, 5), np.int32), token=b"x" * 16, sentences=np.zeros(5, np.int32)),
    )
    utterance = Utterance(text=SECRET, more=False, speaker=1, sampling=Sampling())
    asked = ResolvedRequest(utterance=utterance, voice=voice, chain=TurnKey().begin(voice.identity))
    made = Account(
        request=request,
        asked=asked,
        characters=len(SECRET),
        frames=38,
        outcome="ended",
        waited_s=0.25,
        first_audio_s=0.41234,
        took_s=2.0,
        caller="shop",
    )
    return replace(made, **changes)


def audit_of(path: Path, *, required: bool = True) -> Audit:
    return open_audit(str(path), model="0079aa", watermark="perth:7", required=required)


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_who_spoke_how_much_and_when_but_not_what(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    audit = audit_of(path)
    audit.may_begin()
    before = datetime.now(UTC).replace(microsecond=0)
    audit.over(account())
    audit.over(account(outcome="cancelled", frames=3))
    first, second = lines_of(path)
    assert before <= datetime.fromisoformat(str(first.pop("time"))) <= datetime.now(UTC)
    assert first["stream"] != second["stream"]
    assert len(str(first.pop("stream"))) == 32
    assert first == {
        "caller": "shop",
        "voice": "anna",
        "speaker": 1,
        "identity": "voice:anna/9c1e",
        "model": "0079aa",
        "watermark": "perth:7",
        "characters": len(SECRET),
        "frames": 38,
        "seconds": 3.04,
        "outcome": "ended",
        "error": "",
        "waited_s": 0.25,
        "first_audio_s": 0.412,
        "took_s": 2.0,
        "seed": 7,
        "encoding": "opus",
        "context": 1,
        "resumed_frames": 5,
    }
    assert (second["outcome"], second["seconds"]) == ("cancelled", 0.24)
    written = path.read_text()
    assert not any(word in written for word in ["Meet", "Quentin", "boathouse", "client-chosen-name", "Who"])
    assert path.stat().st_mode & 0o007 == 0


def test_a_request_that_was_never_read_has_a_line_without_the_name_it_gave(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    unread = account(asked=None, frames=0, outcome="failed", error="InputError", waited_s=None, first_audio_s=None)
    audit_of(path).over(replace(unread, request=SpeechRequest(text=SECRET, voice="call me at home")))
    (line,) = lines_of(path)
    assert (line["voice"], line["speaker"], line["identity"], line["error"]) == (None, None, None, "InputError")
    assert (line["waited_s"], line["first_audio_s"]) == (None, None)
    assert "home" not in path.read_text()


def test_a_file_that_cannot_be_written_refuses_streams_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot write its audit") as refused:
        audit_of(tmp_path)  # a folder
    assert "\n" not in str(refused.value)
    assert "does not speak without" in str(refused.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnavailableError, match="cannot write its audit"):
        audit_of(tmp_path / "pipe")


def test_a_setting_lets_streams_begin_all_the_same(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, required=False)
    audit.may_begin()
    audit.over(account())


def test_lines_of_a_full_disk_are_kept_and_written_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.symlink_to("/dev/full")
    audit = audit_of(path)  # an empty write is no error: a full disk shows at the first line
    audit.may_begin()
    audit.over(account(frames=1))
    with pytest.raises(UnavailableError, match="No space left on device"):
        audit.may_begin()
    audit.over(account(frames=2))  # a stream that was live already
    path.unlink()
    audit.may_begin()
    audit.over(account(frames=3))
    assert [line["frames"] for line in lines_of(path)] == [1, 2, 3]


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = audit_of(path)
    audit.over(account(frames=1))
    path.rename(tmp_path / "audit.jsonl.1")
    audit.over(account(frames=2))
    path.unlink()
    audit.over(account(frames=3))
    assert [line["frames"] for line in lines_of(tmp_path / "audit.jsonl.1")] == [1]
    assert [line["frames"] for line in lines_of(path)] == [3]


def test_servers_that_share_a_file_leave_each_line_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    program = (
        "import sys; from pathlib import Path; from csm_serving.server.audit import FileSink\n"
        "sink = FileSink(Path(sys.argv[1]))\n"
        'for n in range(400): sink.write(\'{"who": %s, "n": %d, "fill": "%s"}\' % (sys.argv[2], n, \'x\' * 400))'
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(path), str(who)]) for who in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    lines = lines_of(path)
    for who in range(3):
        assert [line["n"] for line in lines if line["who"] == who] == list(range(400))


def test_what_is_kept_has_a_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = FileSink(tmp_path)  # a folder: nothing is ever written
    logging.getLogger("csm_serving").setLevel(logging.CRITICAL)
    try:
        for number in range(MAX_KEPT + 5):
            sink.write(str(number))
    finally:
        logging.getLogger("csm_serving").setLevel(logging.NOTSET)
    assert len(sink._kept) == MAX_KEPT
    assert sink._kept[0] == b"5\n"
    sink.write("one more")
    assert "has lost a line" in caplog.text
    sink.close()


def test_the_log_takes_lines_too(caplog: pytest.LogCaptureFixture) -> None:
    audit = open_audit("log", model="0079aa", watermark="off")
    audit.may_begin()
    with caplog.at_level(logging.INFO, "csm_serving"):
        audit.over(account())
    (record,) = caplog.records
    assert json.loads(record.getMessage().removeprefix("audit "))["outcome"] == "ended"


def test_off_writes_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    audit = open_audit("off", model="", watermark="perth:0")
    audit.may_begin()
    with caplog.at_level(logging.DEBUG):
        audit.over(account())
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []


def test_what_is_turned_off_is_named(tmp_path: Path) -> None:
    key = "00" * 32
    assert warnings_of(load_settings(turn_key=key)) == []
    assert warnings_of(load_settings(turn_key=key, audit=str(tmp_path / "audit.jsonl"), voices=tmp_path)) == []
    for changes, word in (
        ({"watermark": "off"}, "CSM_SERVING_WATERMARK=off"),
        ({"audit": "off"}, "CSM_SERVING_AUDIT=off"),
        ({"audit_required": False}, "CSM_SERVING_AUDIT_REQUIRED=false"),
        ({"client_voices": "allow"}, "CSM_SERVING_CLIENT_VOICES=allow"),
    ):
        (line,) = warnings_of(load_settings(turn_key=key, **changes))
        assert word in line
    (line,) = warnings_of(load_settings())
    assert "CSM_SERVING_TURN_KEY is not set" in line


@pytest.mark.parametrize(
    ("host", "near"),
    [
        *[("127.0.0.1", True), ("127.8.9.10", True), ("localhost", True), ("::1", True)],
        *[("0.0.0.0", False), ("::", False), ("10.0.0.7", False), ("gpu-1", False), ("127.example.org", False)],
    ],
)
def test_a_server_that_anybody_reaches_says_so_when_it_asks_nobody(host: str, near: bool) -> None:
    given = {"turn_key": "00" * 32, "host": host}
    open_, tokens = load_settings(**given), load_settings(**given, token_file=Path("tokens.json"))
    sealed = load_settings(**given, token_file=Path("t"), tls_cert=Path("c"), tls_key=Path("k"))
    assert [("CSM_SERVING_TOKEN_FILE is not set" in line) for line in warnings_of(open_)] == [True] * (not near)
    assert [("CSM_SERVING_TLS_CERT is not set" in line) for line in warnings_of(tokens)] == [True] * (not near)
    assert warnings_of(sealed) == []
    assert who_may_call(open_).startswith("anybody on this machine" if near else f"ANYBODY who reaches {host}")
    assert who_may_call(tokens) == "those of tokens.json, NOT encrypted"
    assert who_may_call(sealed) == "those of t, encrypted"


def test_secrets_do_not_show_in_settings() -> None:
    settings = load_settings(turn_key="12" * 32, watermark_key="34" * 32)
    assert "1212" not in repr(settings)
    assert "3434" not in repr(settings)
