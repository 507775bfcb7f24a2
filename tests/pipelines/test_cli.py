"""The command `csm`: what a person can put right is one line on standard error and exit status 2."""

from __future__ import annotations

import io
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from csm_model.files import write_json

Csm = Callable[..., Any]


def refused(outcome: Any, words: str) -> None:
    """One line that says `words`, and exit status 2."""
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--corpus", "nowhere"], "no such folder; a corpus is a folder of audio and text"),
        (["run", "--corpus", __file__], "is not a folder; a corpus is a folder of audio and text"),
        (["plan", "--preset", "csm-1b", "--hours", "nan"], "--hours nan: must be a finite number"),
        (["scale-sim", "--manifest", "-", "--max-refused", "nan"], "--max-refused nan: must be a finite number"),
        (["bench-serve", "--rate", "inf"], "--rate inf: must be a finite number"),
        (["run", "--preset", "debug", "--set", "train.recipe.stepz=3", "--show"], "stepz: there is no such setting"),
        (["run", "--preset", "x"], "preset 'x': there are demo, demo-base, debug"),
        (["run", "--set", "gate.max_wer"], "write it as key=value"),
        (["run", "--corpus", ".", "--set", "data.codec=nowhere"], "nowhere: no codec there"),
        (
            ["run", "--corpus", ".", "--set", "data.codec=random", "--set", "data.base=nowhere"],
            "nowhere: no base there",
        ),
        (["run", "--preset", "debug", "--corpus", ".", "--set", "train.nodes=2"], "must be AGENTSxWORKERS"),
        (["run", "--preset", "debug", "--corpus", ".", "--set", "judge.recogniser=huge"], "'huge' is not one of"),
        (["run", "--preset", "debug", "--corpus", ".", "--set", "release.precision=int3"], "'int3' is not one of"),
        (["run", "--preset", "debug", "--corpus", ".", "--set", "release.say=..."], "has nothing to say"),
        (["run", "--preset", "debug", "--corpus", ".", "--set", "data.tokenizer=bpe:512"], "needs a prompt format"),
        (["run", "--preset", "debug", "--corpus", ".", "--set", "data.tokenizer=x.json"], "x.json: no such file"),
        (
            ["run", "--corpus", ".", "--set", "data.tokenizer=bpe:512", "--set", "data.prompt_format=sesame"],
            "leave the setting out, or train without a base",
        ),
        (
            ["run", "--preset", "debug", "--corpus", ".", "--set", "release.dialogue=none.txt"],
            "none.txt: no such file; give a text with a turn a line",
        ),
        (
            ["run", "--preset", "debug", "--corpus", ".", "--set", f"release.dialogue={__file__}"],
            "test_cli.py, line 3: ",
        ),
        (["say", "..."], "nothing to say"),
        (["say", ""], "nothing to say"),
        (["say", "hello", "--speaker", "-1"], "speaker -1"),
        (["say"], "give either what to say or --text-from, or a --dialogue"),
        (["say", "hello", "--dialogue", "talk.txt"], "give either what to say or --text-from, or a --dialogue"),
        (["say", "--dialogue", "talk.txt"], "talk.txt: no such file; give a text with a turn a line"),
        (["say", "--dialogue", "talk.txt", "--speaker", "0"], "leave out --speaker and --voice"),
        (["say", "--dialogue", "talk.txt", "--pause", "20"], "pause 20.0: must be 0 to 10 seconds"),
        (["say", "--dialogue", "talk.txt", "--hears", "-1"], "hears -1: must be 0"),
        (["say", "hello", "--takes", "17"], "takes 17: must be 1 to 16"),
        (["say", "hello", "--takes", "0"], "takes 0: must be 1 to 16"),
        (["say", "hello", "--pause", "1"], "--pause 1.0: is for a dialogue"),
        (["say", "hello", "--text-from", "-"], "give either what to say or --text-from"),
        (["say", "hello", "--voice", "kumo", "--speaker", "1"], "give one of them"),
        (["say", "hello", "--encoding", "mp3"], "must be one of float32, int16, opus"),
        (["say", "hello", "--deadline", "0"], "deadline_s 0"),
        (["say", "hello", "--wait", "-1"], "max_wait_s -1"),
        (["say", "hello", "--retries", "-1"], "attempts -1: must be 0 or more"),
        (["say", "hello", "--context", "none.json"], "none.json: no such file"),
        (["say", "hello"], "no run has released a bundle yet; start one with: csm run"),
        (["say", "hello", "--seed", "-1"], "seed -1"),
        (["say", "hello", "--local"], "no run has released a bundle yet; start one with: csm run"),
        (["say", "hello", "--url", "127.0.0.1:1"], "or speak without one: csm say --local"),
        (["serve", "nowhere"], "not a bundle"),
        (["report"], "no finished run there; start one with: csm run"),
        (["codec", "train", "--corpus", "nowhere", "--out", "c"], "no such folder"),
        (["codec", "train", "--corpus", ".", "--out", "c", "--stage", "x"], "stage 'x'"),
        (["run", "--corpus", ".", "--set", "data.replay=nowhere"], "nowhere: no replay there (no manifest.json)"),
        (["run", "--corpus", ".", "--set", "data.replay=deploy/demo/base"], "no token shards to replay; give a folder"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(csm: Csm, arguments: list[str], words: str) -> None:
    refused(csm(*arguments), words)


def test_a_folder_without_audio_is_refused_by_the_step_that_looks(csm: Csm, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("hello")
    refused(csm("run", "--preset", "debug", "--corpus", "texts"), "no audio")


def test_an_unknown_speaker_names_those_there_are(csm: Csm, bundle: Path) -> None:
    outcome = csm("say", "hello", "--bundle", bundle, "--speaker", "7", "--out", "x.wav")
    refused(outcome, "speaker 7")
    assert not Path("x.wav").exists()


def test_a_bundle_whose_digest_does_not_match_is_refused(csm: Csm, bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    refused(csm("say", "hello", "--bundle", damaged, "--out", "x.wav"), "digest")


def test_a_port_in_use_names_the_option(csm: Csm, bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = csm("serve", bundle, "--grpc-port", port, "--http-port", 0, "--metrics-port", 0)
    refused(outcome, f"port {port}")
    assert "--grpc-port" in outcome.err


def test_without_triton_the_cure_is_named_and_local_speech_works(
    csm: Csm, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytriton", None)
    refused(csm("serve", bundle), "csm say --local")
    spoken = csm("say", "Hello there.", "--local", "--bundle", bundle, "--speaker", 1, "--out", "hello.wav")
    assert (spoken.status, spoken.err) == (0, "")
    assert "first audio" in spoken.out
    assert "hello.wav" in spoken.out
    info = soundfile.info("hello.wav")
    assert (info.samplerate, info.channels) == (24_000, 1)


def test_long_text_and_text_that_comes_in_parts_are_spoken_sentence_by_sentence(
    csm: Csm, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Hello there. How are you? " + "It is sunny, and we go out to the lake. " * 2
    said = csm("say", text, "--bundle", bundle, "--out", "whole.wav")
    assert (said.status, said.err) == (0, "")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert csm("say", "--text-from", "-", "--bundle", bundle, "--out", "parts.wav").status == 0
    Path("text.txt").write_text(text, encoding="utf-8")
    assert csm("say", "--text-from", "text.txt", "--bundle", bundle, "--out", "file.wav").status == 0
    assert Path("whole.wav").read_bytes() == Path("parts.wav").read_bytes() == Path("file.wav").read_bytes()
    assert soundfile.info("whole.wav").duration > 1
    refused(csm("say", "--text-from", "none.txt", "--bundle", bundle, "--out", "x.wav"), "none.txt: cannot be read")
    Path("latin.txt").write_bytes("caf\u00e9. ".encode("latin-1"))
    refused(csm("say", "--text-from", "latin.txt", "--bundle", bundle, "--out", "x.wav"), "latin.txt: is not UTF-8")
    assert not Path("x.wav").exists()


def test_a_dialogue_is_spoken_turn_by_turn_into_one_file(csm: Csm, bundle: Path) -> None:
    Path("talk.txt").write_text("heart: Hello there.\n\n1: Good morning to you.\nheart: 你好 my friend.\n")
    said = csm("say", "--dialogue", "talk.txt", "--bundle", bundle, "--seed", 3, "--out", "talk.wav")
    assert said.status == 0, said
    told = said.err.splitlines()
    assert [line.split(":")[0] for line in told] == ["1/3  heart", "2/3  1", "3/3  heart", "left out"]
    assert "left out: 2 characters of talk.txt, line 4 that cannot be said: '你好'" in told[3]
    assert "hears none before it" in told[0]
    assert "s of dialogue, 3 turns" in said.out
    assert soundfile.info("talk.wav").duration == pytest.approx(float(said.out.split()[0]), abs=0.01)
    again = csm("say", "--dialogue", "talk.txt", "--bundle", bundle, "--seed", 3, "--pause", 0, "--out", "joined.wav")
    seconds = float(said.out.split()[0]) - float(again.out.split()[0])
    assert seconds == pytest.approx(2 * 0.24, abs=0.02)


def test_the_best_of_several_takes_is_kept_and_told(csm: Csm, bundle: Path) -> None:
    said = csm("say", "Hello there.", "--bundle", bundle, "--takes", 2, "--out", "best.wav")
    assert said.status == 0, said
    assert re.fullmatch(r"take [12] of 2 is kept: \d+ of 2 words misheard by Whisper tiny\n", said.err)
    assert soundfile.info("best.wav").duration == pytest.approx(float(said.out.split()[0]), abs=0.01)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("heart: Hello.\nanna: Hi.", "talk.txt, line 2: voice 'anna' is unknown; this server has: heart, kumo"),
        ("0: Hello.\n7: Hi.", "talk.txt, line 2: speaker 7 is unknown: this bundle speaks as 0 (heart), 1 (kumo)"),
        ("0: Hello.\n1:", "talk.txt, line 2: the turn is empty: nothing to say"),
        ("0: Hello.\n1: 你好。", "talk.txt, line 2: text '你好。' has nothing to say"),
        ("0: Hello.\nGoodbye.", "talk.txt, line 2: 'Goodbye.' has no colon; write who speaks, a colon"),
        ("", "talk.txt: has no turn; write who speaks, a colon"),
        ("0: Hello.\n" * 66, "talk.txt, line 66: this is turn 66; a dialogue has at most 65"),
    ],
)
def test_a_dialogue_with_a_fault_is_refused_before_it_is_spoken(csm: Csm, bundle: Path, rows: str, words: str) -> None:
    Path("talk.txt").write_text(rows)
    refused(csm("say", "--dialogue", "talk.txt", "--bundle", bundle, "--out", "talk.wav"), words)
    assert not Path("talk.wav").exists()


def test_the_bundle_of_the_last_run_is_the_champion_else_the_candidate(bundle: Path, tmp_path: Path) -> None:
    from csm_cli.released import find_bundle

    run = tmp_path / "runs" / "demo-1"
    shutil.copytree(bundle, run / "bundle")
    (tmp_path / "runs" / "latest").symlink_to("demo-1")
    assert find_bundle(None, tmp_path / "runs") == (run / "bundle").resolve()
    write_json(run / "register" / "result.json", {"champion_bundle": None, "bundle": str(run / "bundle")})
    assert find_bundle(None, tmp_path / "runs") == run / "bundle"
    write_json(run / "register" / "result.json", {"champion_bundle": str(bundle), "bundle": str(run / "bundle")})
    assert find_bundle(None, tmp_path / "runs") == bundle


@pytest.mark.parametrize("arguments", [[], ["run"], ["say"], ["serve"], ["report"], ["codec", "train"]])
def test_help_shows_examples(csm: Csm, arguments: list[str]) -> None:
    outcome = csm(*arguments, "--help")
    assert outcome.status == 0
    assert "csm " in outcome.out
    assert not arguments or "Examples" in outcome.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, csm_cli.cli;"
        "heavy = ('torch', 'kfp', 'mlflow', 'tritonclient', 'lhotse', 'matplotlib');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version(csm: Csm) -> None:
    outcome = csm("--version")
    assert outcome.status == 0
    assert outcome.out.startswith("csm-foundry ")


def test_show_prints_the_configuration(csm: Csm) -> None:
    import json

    outcome = csm("run", "--preset", "debug", "--set", "train.recipe.steps=9", "--show")
    assert json.loads(outcome.out)["train"]["recipe"]["steps"] == 9
