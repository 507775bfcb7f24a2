"""The token file, and what its callers have left: streams at once, characters a minute."""

from __future__ import annotations

import json
import random
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from csm_model.errors import ArtifactError, InputError
from csm_serving.server.callers import Caller, Callers, digest_of_token, draw_token, read_tokens, write_tokens
from csm_serving.wire import messages
from csm_serving.wire.errors import AccessError, BusyError, QuotaError
from csm_serving.wire.protocol import SpeechRequest

CSM = str(Path(sys.executable).with_name("csm"))
SPEAKERS = {0: "heart", 1: "kumo"}


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def callers(path: Path, clock: Clock | None = None, **shop: object) -> Callers:
    write_tokens(path, [Caller(name="shop", sha256=digest_of_token("t"), **shop)])  # type: ignore[arg-type]
    return Callers(path, speakers=SPEAKERS, clock=clock or Clock())


def asked(text: str = "Good morning.", **values: object) -> SpeechRequest:
    return SpeechRequest(text=text, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("header", ["Bearer t", "bearer t", "BEARER  t "])
def test_a_caller_is_known_by_the_token(tmp_path: Path, header: str) -> None:
    assert callers(tmp_path / "tokens.json").identify(header).name == "shop"


@pytest.mark.parametrize(
    "header", [None, "", "t", "Basic t", "Bearer", "Bearer ", "Bearer T", "Bearer t t", "Bearer ü"]
)
def test_all_else_is_nobody(tmp_path: Path, header: str | None) -> None:
    with pytest.raises(AccessError):
        callers(tmp_path / "tokens.json").identify(header)


def test_among_many_each_is_found_and_no_other(tmp_path: Path) -> None:
    tokens = [draw_token() for _ in range(50)]
    assert all(re.fullmatch(r"csm_[0-9A-Za-z_-]{43}", token) for token in tokens)
    rows = [Caller(name=f"caller-{n}", sha256=digest_of_token(token)) for n, token in enumerate(tokens)]
    write_tokens(tmp_path / "tokens.json", rows)
    known = Callers(tmp_path / "tokens.json", speakers={})
    assert [known.identify(f"Bearer {token}").name for token in tokens] == [row.name for row in rows]
    for row in rows:
        with pytest.raises(AccessError):
            known.identify(f"Bearer {row.sha256}")


@pytest.mark.parametrize(
    ("voices", "request_", "may"),
    [
        (None, {"speaker": 7}, True),
        (None, {"voice": "anna"}, True),
        (("heart",), {}, True),
        (("heart",), {"speaker": 0}, True),
        (("heart",), {"voice": "heart"}, True),
        (("heart",), {"speaker": 1}, False),
        (("heart",), {"voice": "kumo"}, False),
        (("anna",), {"voice": "anna"}, True),
        (("anna",), {"speaker": 0}, False),
        (("0",), {"speaker": 0}, False),  # the bundle names it
        (("7",), {"speaker": 7}, True),
        ((), {"speaker": 0}, False),
    ],
)
def test_voices_are_allowed_by_name(
    tmp_path: Path, voices: tuple[str, ...] | None, request_: dict[str, object], may: bool
) -> None:
    known = callers(tmp_path / "tokens.json", voices=voices)
    shop = known.identify("Bearer t")
    if may:
        known.admit(shop, asked(**request_)).end()
    else:
        with pytest.raises(AccessError, match="shop may not speak as"):
            known.admit(shop, asked(**request_))


def test_so_many_streams_at_once_whatever_order_they_end_in(tmp_path: Path) -> None:
    draw = random.Random(0)
    known = callers(tmp_path / "tokens.json", streams=5)
    shop = known.identify("Bearer t")
    live = []
    for _ in range(2_000):
        if draw.random() < 0.55:
            if len(live) == 5:
                with pytest.raises(QuotaError) as caught:
                    known.admit(shop, asked())
                assert caught.value.retry_after_s == 1.0
            else:
                live.append(known.admit(shop, asked()))
        elif live:
            ended = live.pop(draw.randrange(len(live)))
            ended.end(unused=draw.random() < 0.5)
            ended.end()  # an end that comes twice counts once
    assert len(live) <= 5


def test_characters_of_any_minute_are_bounded_and_come_back_evenly(tmp_path: Path) -> None:
    """Whatever is asked for, and when: in no span of time more passes than the bucket and its inflow."""
    draw, clock = random.Random(1), Clock()
    known = callers(tmp_path / "tokens.json", clock, characters_a_minute=600)
    shop = known.identify("Bearer t")
    passed: list[tuple[float, int]] = []
    for _ in range(1_000):
        clock.now += draw.expovariate(0.3)
        text = "a" * draw.randint(1, 300)
        try:
            known.admit(shop, asked(text)).end()
        except QuotaError as error:
            clock.now += (error.retry_after_s or 0.0) + 1e-6  # who comes when told is let in
            known.admit(shop, asked(text)).end()
        passed.append((clock.now, len(text)))
    for first in range(0, len(passed), 25):
        total = 0
        for at, characters in passed[first:]:
            total += characters
            assert total <= 600 + (at - passed[first][0]) * 10 + 1


def test_what_was_not_spoken_does_not_count(tmp_path: Path) -> None:
    known = callers(tmp_path / "tokens.json", characters_a_minute=100)
    shop = known.identify("Bearer t")
    for _ in range(20):
        known.admit(shop, asked("a" * 90)).end(unused=True)
    known.admit(shop, asked("a" * 90)).end()
    with pytest.raises(QuotaError):
        known.charge(shop, 11)
    known.charge(shop, 10)
    with pytest.raises(AccessError, match="a text of 101 characters"):
        known.admit(shop, asked("a" * 101))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ([], "token"),
        ({"tokens": []}, None),
        ({"format": 2, "tokens": []}, "format"),
        ({"tokens": [{"name": "shop"}]}, "sha256"),
        ({"tokens": [{"name": "shop", "sha256": "A" * 64}]}, "sha256"),
        ({"tokens": [{"name": "a b", "sha256": "0" * 64}]}, "name"),
        ({"tokens": [{"name": "a", "sha256": "0" * 64, "stream": 4}]}, "stream"),
        ({"tokens": [{"name": "a", "sha256": "0" * 64, "streams": 0}]}, "streams"),
        ({"tokens": [{"name": "a", "sha256": "0" * 64}, {"name": "a", "sha256": "1" * 64}]}, "twice"),
        ({"tokens": [{"name": "a", "sha256": "0" * 64}, {"name": "b", "sha256": "0" * 64}]}, "twice"),
    ],
)
def test_a_file_that_says_something_else_is_one_line(tmp_path: Path, content: object, message: str | None) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if message is None:
        assert read_tokens(path).tokens == ()
        return
    with pytest.raises(ArtifactError, match=message) as caught:
        read_tokens(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_tokens(tmp_path / "missing.json")


def test_errors_travel_with_their_type_and_hint() -> None:
    for error in (AccessError("who?"), QuotaError("too much", retry_after_s=2.5), BusyError("full", retry_after_s=1.0)):
        found = messages.find_error(messages.encode_error(error))
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert getattr(found, "retry_after_s", None) == getattr(error, "retry_after_s", None)
    assert messages.encode_error(QuotaError("too much", retry_after_s=2.5)) == "[csm:quota retry_after=2.500] too much"


def test_the_command_prints_a_token_once_and_keeps_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CSM, "token", *command, "--file", str(path)], capture_output=True, text=True, check=False
        )

    added = run("add", "shop", "--voice", "anna", "--streams", "4", "--characters-a-minute", "6000")
    token = added.stdout.strip()
    assert re.fullmatch(r"csm_[0-9A-Za-z_-]{43}", token)
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["tokens"] == [
        {
            "name": "shop",
            "sha256": digest_of_token(token),
            "voices": ["anna"],
            "streams": 4,
            "characters_a_minute": 6000,
        }
    ]
    assert run("add", "clinic").returncode == 0
    again = run("add", "shop")
    assert (again.returncode, "has a token already" in again.stderr) == (2, True)
    assert run("list").stdout.splitlines() == [
        "shop: as anna, 4 streams at once, 6000 characters a minute",
        "clinic: all voices",
    ]
    assert run("remove", "shop").returncode == 0
    assert [caller.name for caller in read_tokens(path).tokens] == ["clinic"]
    assert run("remove", "shop").returncode == 2
    for bad in (("add", "a b"), ("add", "x", "--streams", "0"), ("list", "x")):
        failed = run(*bad)
        assert failed.returncode == 2
        assert "Traceback" not in failed.stderr
