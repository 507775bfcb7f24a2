"""`csm say` through a real Triton: text whole and in parts, voices, files, and a server that it starts itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from ports import free_port

from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings

Csm = Callable[..., Any]
TEXT = "Hello there. How are you? It is sunny today, and we go out to the lake."


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    settings = load_settings(grpc_port=0, http_port=0, metrics_port=0, slots=2, frame_budget=0, ready_timeout_s=300)
    with LocalTriton(bundle, settings=settings) as triton:
        yield triton.url


def test_text_in_parts_is_heard_as_the_whole(csm: Csm, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = csm("say", TEXT, "--url", url, "--speaker", 1, "--seed", 3, "--out", "whole.wav")
    assert (said.status, said.err) == (0, "")
    assert "first audio" in said.out
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert (
        csm("say", "--text-from", "-", "--url", url, "--voice", "kumo", "--seed", 3, "--out", "parts.wav").status == 0
    )
    whole, parts = (soundfile.read(name)[0] for name in ("whole.wav", "parts.wav"))
    assert whole.size > 24_000
    # Lanes of one step may be summed in another order; 16 bits hide most of it.
    np.testing.assert_allclose(parts, whole, atol=2 / 32_768)


@pytest.mark.parametrize("encoding", ["float32", "opus"])
def test_an_opus_file(csm: Csm, url: str, encoding: str) -> None:
    said = csm("say", "Hello there.", "--url", url, "--encoding", encoding, "--out", "said.opus")
    assert (said.status, said.err) == (0, "")
    info = soundfile.info("said.opus")
    assert (info.format, info.subtype) == ("OGG", "OPUS")
    assert info.duration == pytest.approx(float(said.out.split()[0]), abs=0.011)


def test_the_turns_before_reach_the_server(csm: Csm, url: str) -> None:
    for speaker, status in ((1, 0), (0, 2)):
        soundfile.write("asked.wav", np.zeros(24_000), 24_000)
        turn = {"speaker": speaker, "text": "Where do we go?", "audio": "asked.wav"}
        Path("turns.json").write_text(json.dumps([turn]))
        said = csm("say", "To the lake.", "--url", url, "--context", "turns.json", "--out", "said.wav")
        assert said.status == status, said
    assert "context turn 0 brings sound of speaker 0, who is asked for" in said.err
    Path("turns.json").write_text(json.dumps([{"speaker": 1, "text": "..."}, {"speaker": 1, "text": "Where to?"}]))
    said = csm("say", "To the lake.", "--url", url, "--context", "turns.json", "--out", "said.wav")
    assert said.err.startswith("left out: 1 turn of the context: the oldest, ")


def test_a_dialogue_through_a_server_hears_its_own_turns(csm: Csm, url: str, bundle: Path) -> None:
    """Turns of the asked speaker are taken as context, since the server spoke them; the sound is that of no server."""
    pauses = ("<break time='200ms'/> ", "")
    rows = (f"{(0, 'kumo')[number % 2]}: {pauses[number % 2]}Good day, my friend.\n" for number in range(5))
    Path("talk.txt").write_text("".join(rows))
    heard = []
    for name, *where in (("served.wav", "--url", url), ("own.wav", "--bundle", bundle)):
        said = csm("say", "--dialogue", "talk.txt", *where, "--seed", 3, "--hears", 4, "--out", name)
        assert said.status == 0, said
        heard.append([line.partition("; ")[2] for line in said.err.splitlines()])
    assert heard[0] == heard[1]
    served, own = (soundfile.read(name)[0] for name in ("served.wav", "own.wav"))
    assert served.shape == own.shape


def test_a_dialogue_that_a_server_refuses_is_refused_before_it_is_spoken(csm: Csm, url: str) -> None:
    for rows, words in (
        ("0: Hello.\n7: Hi.", "talk.txt, line 2: speaker 7 is unknown"),
        ("0: Hello.\n1: 你好。", "talk.txt, line 2: text '你好。' has nothing to say"),
        ("0: Hello.\nanna: Hi.", "talk.txt, line 2: voice 'anna' is unknown; this server has: heart, kumo"),
    ):
        Path("talk.txt").write_text(rows)
        said = csm("say", "--dialogue", "talk.txt", "--url", url, "--out", "talk.wav")
        assert said.status == 2, said
        assert words in said.err
        assert said.err.count("\n") == 1
        assert not Path("talk.wav").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "must be a list of turns"),
        ('[{"speaker": "0", "text": "hi"}]', "turn 0 must have speaker, a number, text"),
        ('[{"speaker": 0, "text": "hi"}, {"speaker": 0}]', "turn 1 must have"),
        ('[{"speaker": 0, "text": "hi", "audio": "none.wav"}]', "none.wav: cannot be read as sound"),
        ('[{"speaker": 0, "text": "hi", "audio": "slow.wav"}]', "slow.wav: 8000 Hz; a context has 24000 Hz"),
        ("[", "not valid JSON"),
    ],
)
def test_turns_of_another_form_are_refused(csm: Csm, content: str, words: str) -> None:
    soundfile.write("slow.wav", np.zeros(80), 8_000)
    Path("turns.json").write_text(content)
    said = csm("say", "hello", "--context", "turns.json")
    assert said.status == 2
    assert words in said.err
    assert said.err.count("\n") == 1


def test_where_no_server_answers_one_is_started(csm: Csm, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_SERVING_GRPC_PORT", str(free_port()))
    (Path("runs") / "latest").mkdir(parents=True)
    (Path("runs") / "latest" / "bundle").symlink_to(bundle)
    said = csm("say", "Hello there.", "--out", "said.wav")
    assert said.status == 0
    assert "no server at 127.0.0.1" in said.err
    assert "starting Triton" in said.err
    assert soundfile.info("said.wav").duration > 0.1


def test_what_is_left_out_is_told_and_nothing_left_is_refused(csm: Csm, url: str) -> None:
    said = csm("say", "Hello there. 你好世界。 And so on.", "--url", url, "--out", "said.wav")
    assert said.status == 0, said
    assert "left out: 4 characters of the text that cannot be said: '你好世界'" in said.err
    said = csm("say", "你好。", "--url", url, "--out", "nothing.wav")
    assert said.status == 2
    assert "has nothing to say" in said.err
    assert not Path("nothing.wav").exists()


def test_a_text_too_long_is_refused_before_its_first_sound(csm: Csm, url: str) -> None:
    Path("long.txt").write_text("It is sunny. " * 1_000)
    said = csm("say", "--text-from", "long.txt", "--url", url, "--out", "long.wav")
    assert said.status == 2
    assert "the text has 13000 characters: at most 10000 go into a stream" in said.err
    assert "csm say --go-on" in said.err
    assert not Path("long.wav").exists()


def test_a_turn_before_without_a_word_is_no_hindrance(csm: Csm, url: str) -> None:
    Path("turns.json").write_text(json.dumps([{"speaker": 1, "text": "👍"}, {"speaker": 1, "text": "..."}]))
    said = csm("say", "Hello there.", "--url", url, "--context", "turns.json", "--out", "said.wav")
    assert said.status == 0, said
