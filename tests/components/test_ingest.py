"""Ingest as a whole: every layout in, 24 kHz conversations out, restartable, and one clear line for bad input."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console
from waiting import eventually

from csm_components.ingest.conversations import Conversation, read_conversations
from csm_components.ingest.step import IngestResult, ingest
from csm_components.tree_list import MADE
from csm_model.errors import DigestError, InputError

Writers = dict[str, Callable[..., Path]]


def quiet(corpus: Path, out: Path, **options: object) -> IngestResult:
    return ingest(corpus, out, workers=1, console=Console(quiet=True), **options)  # type: ignore[arg-type]


def rejected(out: Path) -> dict[str, str]:
    """Reason of each record that was left out, by turn (or file, where there is no turn)."""
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return {row["turn"] or row["audio"]: row["reason"] for row in rows}


@pytest.mark.parametrize("packed", [False, True])
def test_lhotse(tmp_path: Path, write_corpus: Writers, packed: bool) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus", packed=packed)
    result = quiet(corpus, tmp_path / "out")
    assert (result.conversations, result.turns, result.rejected) == (4, 9, 0)
    assert result.speakers == {"0": "anna", "1": "ben"}
    first = next(read_conversations(tmp_path / "out"))
    assert [(turn.speaker, turn.text) for turn in first.turns][:2] == [(0, "Good morning."), (1, "Hello, how are you?")]
    original, _ = soundfile.read(corpus / "audio/talk-1.flac", dtype="float32")
    np.testing.assert_array_equal(first.audio(), original)  # 24 kHz, 16 bits: nothing to convert
    turn = first.turns[1]
    start = round(turn.start * 24_000)
    np.testing.assert_array_equal(first.audio(turn), original[start : start + round(turn.duration * 24_000)])
    assert [len(audio) for audio in first.turn_audios()] == [turn.samples for turn in first.turns]


def test_librispeech(tmp_path: Path, write_corpus: Writers, say: Callable[..., np.ndarray]) -> None:
    corpus = write_corpus["librispeech"](tmp_path / "corpus")
    result = quiet(corpus, tmp_path / "out")
    assert result.speakers == {"0": "Ann Lee", "1": "1089"}
    found = {item.id: item for item in read_conversations(tmp_path / "out")}
    assert sorted(found) == ["1089-101", "1089-102", "84-101", "84-102"]
    assert {item.split for item in found.values()} == {"train"}  # the folder is called train-clean-5
    chapter = found["84-101"]
    assert [turn.text for turn in chapter.turns] == ["Chapter one", "The rain had stopped and I went out"]
    assert {turn.license for turn in chapter.turns} == {"CC-BY-4.0"}  # the LICENSE.TXT names it
    second = chapter.turns[1]
    at_16k = say("THE RAIN HAD STOPPED AND I WENT OUT", 84, 16_000)
    assert second.samples == math.ceil(len(at_16k) * 3 / 2)
    assert _alike(chapter.audio(second), say("THE RAIN HAD STOPPED AND I WENT OUT", 84)) > 0.99


def test_jsonl(tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    stereo = np.stack([say("Good morning to you."), say("Good evening to you.", 1)], axis=1)
    soundfile.write(corpus / "call.wav", stereo, 24_000)
    soundfile.write(corpus / "a.mp3", say("One more for the road."), 24_000)
    soundfile.write(corpus / "b.ogg", say("And one for you."), 24_000, format="OGG", subtype="VORBIS")
    rows = [
        {"audio": "call.wav", "text": "Good morning to you.", "speaker": "ann", "channel": 0, "split": "train"},
        {"audio": "call.wav", "text": "Good evening to you.", "speaker": "bob", "channel": 1, "split": "train"},
        {"audio": "a.mp3", "text": "One more for the road.", "speaker": "bob", "conversation": "bar", "split": "test"},
        {"audio": "b.ogg", "text": "And one for you.", "speaker": "ann", "conversation": "bar", "split": "test"},
    ]
    (corpus / "data.jsonl").write_text("".join(json.dumps({**row, "license": "CC0-1.0"}) + "\n" for row in rows))
    result = quiet(corpus, tmp_path / "out", speakers={"ann": 7, "bob": 3})
    assert result.speakers == {"3": "bob", "7": "ann"}
    bar, call = read_conversations(tmp_path / "out")
    assert (bar.split, call.split) == ("test", "train")
    for turn, channel in zip(call.turns, (0, 1), strict=True):
        assert _alike(call.audio(turn), stereo[:, channel]) > 0.99
    assert _alike(bar.audio(bar.turns[0]), say("One more for the road.")) > 0.9
    assert [item.id for item in read_conversations(tmp_path / "out", split="test")] == ["bar"]


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two sounds of about one length."""
    length = min(len(a), len(b))
    assert abs(len(a) - len(b)) < 3000
    return float(np.corrcoef(a[:length], b[:length])[0, 1])


def test_each_bad_record_is_left_out_with_its_reason(tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    good = say("A good and honest sentence.")
    sounds = {
        "good": good,
        "empty": good[:100],
        "silent": good * 1e-5,
        "clipped": np.clip(good * 20, -1, 1),
        "fast": good,
        "slow": np.tile(good, 8),
        "wordless": good,
        "unlicensed": good,
        "outside": good,
        "orphan": good,
    }
    for name, sound in sounds.items():
        soundfile.write(corpus / f"{name}.wav", sound, 24_000, subtype="PCM_16")
    (corpus / "damaged.flac").write_bytes(b"fLaC" + os.urandom(500))
    soundfile.write(corpus / "cut.flac", np.tile(good, 8), 24_000)
    whole = (corpus / "cut.flac").read_bytes()
    (corpus / "cut.flac").write_bytes(whole[: len(whole) // 2])
    special = {
        "fast": {"text": "A very long sentence. " * 20},
        "wordless": {"text": " ... "},
        "unlicensed": {"license": "All rights reserved"},
        "outside": {"start": 1.0, "duration": 60.0},
    }
    names = [f"{name}.wav" for name in sounds if name != "orphan"] + ["damaged.flac", "cut.flac", "absent.wav"]
    with (corpus / "turns.jsonl").open("w") as file:
        for name in names:
            row = {"audio": name, "text": "A good and honest sentence.", "speaker": "ann", "license": "cc by 4.0"}
            file.write(json.dumps({**row, "id": name, **special.get(Path(name).stem, {})}) + "\n")
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    result = ingest(corpus, tmp_path / "out", workers=1, console=console)
    console.file.close()
    assert result.turns == 1
    assert rejected(tmp_path / "out") == {
        "empty.wav": "empty",
        "silent.wav": "silent",
        "clipped.wav": "clipped",
        "fast.wav": "text does not fit",
        "slow.wav": "text does not fit",
        "wordless.wav": "no text",
        "unlicensed.wav": "unknown licence",
        "outside.wav": "outside its recording",
        "orphan.wav": "no text",
        "damaged.flac": "unreadable",
        "cut.flac": "unreadable",
        "absent.wav": "unreadable",
    }
    table = console.export_text()
    assert "Left out: 12 records" in table
    assert "at least -55 dB are needed" in table
    assert str(tmp_path) not in (tmp_path / "out/rejected.jsonl").read_text()


def test_a_left_out_turn_is_not_heard(tmp_path: Path, lhotse_corpus: Path) -> None:
    rows = [json.loads(line) for line in (lhotse_corpus / "supervisions.jsonl").read_text().splitlines()]
    rows[1]["custom"]["license"] = "Proprietary"
    (lhotse_corpus / "supervisions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet(lhotse_corpus, tmp_path / "out")
    first = next(read_conversations(tmp_path / "out"))
    assert [turn.id for turn in first.turns] == ["talk-1-0", "talk-1-2"]
    start = round(rows[1]["start"] * 24_000)
    assert not first.audio()[start : start + round(rows[1]["duration"] * 24_000)].any()
    assert first.audio(first.turns[1]).any()


def test_the_digest_depends_on_content_alone(tmp_path: Path, lhotse_corpus: Path) -> None:
    first = quiet(lhotse_corpus, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(lhotse_corpus, moved)
    second = quiet(moved, tmp_path / "two")
    assert first.digest == second.digest
    assert _snapshot(tmp_path / "one") == _snapshot(tmp_path / "two")
    text = (moved / "supervisions.jsonl").read_text()
    (moved / "supervisions.jsonl").write_text(text.replace("raining", "snowing"))
    assert quiet(moved, tmp_path / "two").digest != first.digest


def test_a_second_run_takes_the_first_one(tmp_path: Path, lhotse_corpus: Path) -> None:
    out = tmp_path / "out"
    first = quiet(lhotse_corpus, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = quiet(lhotse_corpus, out)
    assert second.reused
    assert not first.reused
    assert second.digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    next((out / "audio").iterdir()).unlink()
    third = quiet(lhotse_corpus, out)
    assert not third.reused
    assert third.digest == first.digest


def test_a_conversation_that_is_gone_leaves_nothing(tmp_path: Path, lhotse_corpus: Path) -> None:
    out = tmp_path / "out"
    quiet(lhotse_corpus, out)
    for name in ("recordings", "supervisions"):
        path = lhotse_corpus / f"{name}.jsonl"
        path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "talk-2" not in line))
    (lhotse_corpus / "audio/talk-2.flac").unlink()
    assert quiet(lhotse_corpus, out).conversations == 3
    assert sorted(path.stem for path in (out / "audio").iterdir()) == ["talk-1", "talk-3", "talk-4"]


def test_killed_and_started_again_equals_uninterrupted(tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with (corpus / "turns.jsonl").open("w") as file:
        for number in range(40):
            text = f"Sentence number {number} of a long evening, and of a longer night."
            soundfile.write(corpus / f"{number}.wav", say(text, number, 48_000), 48_000)
            file.write(json.dumps({"audio": f"{number}.wav", "text": text, "speaker": str(number % 2)}) + "\n")
    code = (
        "import signal, sys; from pathlib import Path; from csm_components.ingest import step\n"
        "convert, corpus, out = step.convert, Path(sys.argv[1]), Path(sys.argv[2])\n"
        "def held(task):\n"
        "    return convert(task) if len(list((out / 'parts').glob('*.json'))) < 5 else signal.pause()\n"
        "step.convert = held\n"
        "if __name__ == '__main__': step.ingest(corpus, out, default_license='MIT', workers=2)"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, script, corpus, out], stderr=subprocess.DEVNULL, start_new_session=True)
    eventually(lambda: process.poll() is not None or len(list((out / "parts").glob("*.json"))) >= 5)
    process.kill()
    process.wait()
    done = len(list((out / "parts").glob("*.json")))
    assert 5 <= done < 40, "the kill must come in the middle"
    assert not (out / "manifest.json").exists()
    with pytest.raises(InputError, match="no such file"):
        list(read_conversations(out))
    _await_group_end(process.pid)

    resumed = quiet(corpus, out, default_license="MIT")
    whole = quiet(corpus, tmp_path / "whole", default_license="MIT")
    assert resumed.digest == whole.digest
    assert _snapshot(out) == _snapshot(tmp_path / "whole")


def _await_group_end(group: int) -> None:
    """Waits for the workers of a killed process: they must leave by themselves."""

    def gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    try:
        eventually(gone, "the workers outlived their parent")
    except AssertionError:
        os.killpg(group, signal.SIGKILL)
        raise


def _snapshot(folder: Path) -> dict[str, bytes]:
    """What a folder holds; the record of how it was made is no part of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MADE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_changed_sound_is_refused(tmp_path: Path, lhotse_corpus: Path) -> None:
    quiet(lhotse_corpus, tmp_path / "out")
    first: Conversation = next(read_conversations(tmp_path / "out"))
    pcm, rate = soundfile.read(first.path, dtype="int16")
    pcm[1000] += 1
    soundfile.write(first.path, pcm, rate)
    with pytest.raises(DigestError, match=r"talk-1\.flac"):
        first.audio()
    (tmp_path / "out/cuts.jsonl.gz").write_bytes(b"")
    with pytest.raises(DigestError, match=r"cuts\.jsonl\.gz"):
        list(read_conversations(tmp_path / "out"))


class TestBadInput:
    """Each is one line that names the value and the cure."""

    def check(self, corpus: Path, out: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            quiet(corpus, out)
        assert "\n" not in str(caught.value)
        assert not (out / "manifest.json").exists()

    def test_no_such_folder(self, tmp_path: Path) -> None:
        self.check(tmp_path / "nowhere", tmp_path / "out", "nowhere: no such folder")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        self.check(tmp_path / "file", tmp_path / "out", "is not a folder")

    def test_no_audio(self, tmp_path: Path) -> None:
        (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus/notes.txt").write_text("nothing here")
        self.check(tmp_path / "corpus", tmp_path / "out", "holds no audio")

    def test_audio_without_text(self, tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
        (tmp_path / "corpus").mkdir()
        soundfile.write(tmp_path / "corpus/a.wav", say("Hello."), 24_000)
        self.check(tmp_path / "corpus", tmp_path / "out", "1 audio files, but no texts")

    def test_nothing_but_a_corrupt_file(self, tmp_path: Path) -> None:
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        (corpus / "a.flac").write_bytes(b"this is no sound")
        (corpus / "t.jsonl").write_text('{"audio": "a.flac", "text": "Hello.", "speaker": "x", "license": "MIT"}\n')
        self.check(corpus, tmp_path / "out", r"no record can be used \(1 left out.*a\.flac: cannot be read as sound")

    def test_no_licence_at_all(self, tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        soundfile.write(corpus / "a.wav", say("Hello."), 24_000)
        (corpus / "t.jsonl").write_text('{"audio": "a.wav", "text": "Hello.", "speaker": "x"}\n')
        self.check(corpus, tmp_path / "out", "put a LICENSE file into the corpus")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("not json", r"t\.jsonl:2: not valid JSON"),
            ('{"audio": "a.wav", "text": "Hi."}', r"t\.jsonl:2: speaker: Field required"),
            ('{"audio": "a.wav", "text": "Hi.", "speaker": "x", "start": -1}', r"t\.jsonl:2: start: Input should be"),
            ("[1]", r"t\.jsonl:2: the line: "),
        ],
    )
    def test_a_bad_line(self, tmp_path: Path, say: Callable[..., np.ndarray], line: str, message: str) -> None:
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        soundfile.write(corpus / "a.wav", say("Hello."), 24_000)
        good = '{"audio": "a.wav", "text": "Hello.", "speaker": "x", "license": "MIT"}\n'
        (corpus / "t.jsonl").write_text(good + line + "\n")
        assert quiet(corpus, tmp_path / "out").turns == 1  # it costs itself
        (row,) = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
        assert row["reason"] == "damaged record"
        assert re.match(message, row["detail"])

    def test_a_bad_manifest(self, tmp_path: Path, lhotse_corpus: Path) -> None:
        (lhotse_corpus / "recordings.jsonl").write_text('{"id": "x"}\n')
        self.check(lhotse_corpus, tmp_path / "out", r"no record can be used \(.*recordings\.jsonl:1: torn line")

    def test_given_splits_that_leak(self, tmp_path: Path, write_corpus: Writers) -> None:
        splits = {"talk-1": "train", "talk-2": "train", "talk-3": "train", "talk-4": "test"}
        corpus = write_corpus["lhotse"](tmp_path / "corpus", splits=splits)
        text = (corpus / "supervisions.jsonl").read_text()
        text = text.replace("Is it raining?", "over the bridge!")  # said by everybody
        text = text.replace("Where is the station?", "No, THE sun is out")
        (corpus / "supervisions.jsonl").write_text(text)
        assert quiet(corpus, tmp_path / "out").turns == 8
        assert rejected(tmp_path / "out") == {"talk-4-0": "held-out sentence"}

    def test_turns_of_one_id(self, tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        soundfile.write(corpus / "a.wav", say("Hello."), 24_000)
        line = '{"audio": "a.wav", "text": "Hello.", "speaker": "x", "id": "same", "license": "MIT"}\n'
        (corpus / "t.jsonl").write_text(line * 2)
        assert quiet(corpus, tmp_path / "out").turns == 1
        assert rejected(tmp_path / "out") == {"same": "twice"}
