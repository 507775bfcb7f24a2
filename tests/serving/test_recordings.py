"""A recording that is taken for a voice is whole, clean, of a person, and says its text; others are told why not."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from csm_components.ingest.audio import read_sound, to_model_rate
from csm_model.errors import AudioError, CsmError, InputError
from csm_model.files import digest_of_file
from csm_model.text import PhonemeTokenizer
from csm_model.watermark import open_watermark
from csm_serving.server.recordings import (
    check_clean,
    check_speakable,
    check_unmarked,
    check_whole,
    check_words,
    mixed_down,
)

ROOT = Path(__file__).resolve().parents[2]
CSM = str(Path(sys.executable).with_name("csm"))
RATE = 24_000
CORPUS = sorted((ROOT / "deploy" / "demo" / "corpus" / "audio").glob("*.opus"))
FORMATS = ("wav", "rf64", "aiff", "flac", "ogg", "opus", "mp3")


@functools.cache
def speech(number: int = 0, seconds: float = 6.0) -> np.ndarray:
    samples, rate = read_sound(CORPUS[number])
    return to_model_rate(mixed_down(samples), rate)[: int(seconds * RATE)]


def written(folder: Path, samples: np.ndarray, kind: str) -> Path:
    path = folder / f"recording.{kind}"
    subtype = "OPUS" if kind == "opus" else "VORBIS" if kind == "ogg" else None
    soundfile.write(path, samples, RATE, format="OGG" if kind in ("ogg", "opus") else kind.upper(), subtype=subtype)
    return path


def taken(path: Path) -> np.ndarray:
    """As `csm voice add` takes a file."""
    check_whole(path)
    return read_sound(path)[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_files_are_taken_and_cut_ones_are_not(tmp_path: Path, kind: str) -> None:
    draw, path = random.Random(kind), written(tmp_path, speech(), kind)
    assert len(taken(path)) >= len(speech()) - RATE // 10
    whole = path.read_bytes()
    for share in (0.0, 0.5, 0.999, *(draw.random() for _ in range(20))):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(AudioError) as caught:
            taken(path)
        assert "\n" not in str(caught.value)


def test_a_header_that_promises_nothing_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path, speech(), "wav")
    whole = path.read_bytes()
    at = whole.index(b"data") + 4
    for size in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"):
        path.write_bytes(whole[:at] + size + whole[at + 4 :])
        with pytest.raises(AudioError, match="does not say how long it is"):
            check_whole(path)
    for kind in ("w64", "au", "caf"):
        with pytest.raises(AudioError, match="do not tell whether they are whole"):
            check_whole(written(tmp_path, speech(), kind))


UNCLEAN: list[tuple[str, Callable[[np.ndarray], np.ndarray], str]] = [
    ("20 times", lambda x: np.clip(20 * x, -1, 1), r"is clipped: \d+\.\d% of its samples"),
    ("5 times", lambda x: np.clip(5 * x / np.abs(x).max(), -1, 1), "is clipped"),
    ("clipped, then quieter", lambda x: 0.3 * np.clip(20 * x, -1, 1), "is clipped"),
    ("shifted", lambda x: 0.5 * x + 0.4, r"is shifted by \+0\.40"),
    ("shifted down", lambda x: 0.5 * x - 0.1, r"is shifted by -0\.10"),
    ("quiet", lambda x: 0.009 * x / np.abs(x).max(), r"is too quiet: it reaches 0\.0090"),
    ("silent", lambda x: 0 * x, "is silent"),
    ("not a number", lambda x: np.where(np.arange(len(x)) == 7, np.nan, x), "no numbers"),
]


@pytest.mark.parametrize(("change", "said"), [(c, s) for _, c, s in UNCLEAN], ids=[name for name, _, _ in UNCLEAN])
def test_sound_that_is_not_clean_is_refused_with_the_figure(
    change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    for number in range(3):
        with pytest.raises(AudioError, match=said):
            check_clean(change(speech(number)).astype(np.float32))


def test_all_of_the_corpus_is_clean_and_unmarked() -> None:
    for number in range(0, len(CORPUS), 20):
        check_clean(speech(number))
        check_clean(0.05 * speech(number))
        check_unmarked(speech(number))


@pytest.mark.parametrize("kind", ["wav", "opus", "mp3"])
def test_our_own_speech_is_nobodys_recording(tmp_path: Path, kind: str) -> None:
    mark = open_watermark("perth:4711")
    assert mark is not None
    for number in range(3):
        marked = mark.mark(torch.from_numpy(speech(number))).numpy()
        samples, rate = read_sound(written(tmp_path, marked, kind))
        with pytest.raises(AudioError, match="carries our own watermark"):
            check_unmarked(to_model_rate(mixed_down(samples), rate))


def test_a_part_of_our_own_speech_is_found_wherever_it_is_spliced_in() -> None:
    mark = open_watermark("perth")
    assert mark is not None
    for number, start in enumerate((0.0, 1.5, 3.0)):
        spliced, first = speech(number).copy(), int(start * RATE)
        marked = mark.mark(torch.from_numpy(speech(number))).numpy()
        spliced[first : first + 3 * RATE] = marked[first : first + 3 * RATE]
        with pytest.raises(AudioError, match="carries our own watermark"):
            check_unmarked(spliced)


def test_a_key_of_the_servers_own_is_looked_for_too() -> None:
    mark = open_watermark("perth:9", key="ab" * 16)
    assert mark is not None
    marked = mark.mark(torch.from_numpy(speech())).numpy()
    with pytest.raises(AudioError, match="payload 9"):
        check_unmarked(marked, key="ab" * 16)
    with pytest.raises(AudioError, match="carries our own watermark"):
        check_unmarked(marked)


def test_channels_that_cancel_out_leave_the_loudest() -> None:
    one = speech()
    silence = np.zeros_like(one)
    for channels in ([one, -one], [one, silence], [silence] * 5 + [one], [one, -0.9 * one, silence]):
        np.testing.assert_array_equal(mixed_down(np.stack(channels, axis=1)), one)
    np.testing.assert_allclose(mixed_down(np.stack([one, one], axis=1)), one, atol=1e-7)
    np.testing.assert_allclose(mixed_down(np.stack([one, 0.8 * one], axis=1)), 0.9 * one, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "seconds", "said"),
    [
        ("Good morning, this is how I speak.", 2.0, None),
        ("a " * 60, 2.5, None),
        ("x" * 501, 30.0, "a text of 501 characters"),
        ("word " * 300, 8.0, "a text of 1500 characters"),
        (" ?! ", 2.0, "must be what is said"),
        ("", 2.0, "must be what is said"),
        ("one sentence that was said before the file was cut in two halves", 1.6, "nobody says more than 30"),
        ("Hi.", 8.0, "speech has more"),
    ],
)
def test_words_fit_the_sound(text: str, seconds: float, said: str | None) -> None:
    if said is None:
        check_words(text, seconds)
        return
    with pytest.raises(InputError, match=said):
        check_words(text, seconds)


def test_the_model_can_read_the_prompt() -> None:
    tokenizer = PhonemeTokenizer(num_speakers=2)
    check_speakable(tokenizer, "Good morning.", 1)
    for speaker in (2, 99, -1):
        with pytest.raises(InputError, match=f"speaker {speaker}: the model has speakers 0 to 1"):
            check_speakable(tokenizer, "Good morning.", speaker)
    with pytest.raises(CsmError):
        check_speakable(tokenizer, "你好世界", 0)


def test_the_command_refuses_what_the_functions_do(tmp_path: Path, bundle: Path) -> None:
    def added(path: Path, *options: str, text: str = "I read this aloud for the record.") -> tuple[int, str]:
        consent: dict[str, Any] = {
            "person": "Anna Example",
            "given": str(datetime.now(UTC).date()),
            "witness": "R. Studio",
            "uses": ["assistant"],
            "revoke": "voices@example.com",
            "recording": digest_of_file(path),
        }
        (tmp_path / "consent.json").write_text(json.dumps(consent))
        words = [CSM, "voice", "add", "anna", "--audio", str(path), "--text", text, "--folder", "voices"]
        words += ["--consent", "consent.json", "--bundle", str(bundle), *options]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.returncode, done.stderr

    good = written(tmp_path, speech(), "wav")
    assert added(good)[0] == 0
    assert added(good, "--speaker", "99") == (
        2,
        "error: speaker 99: the model has speakers 0 to 1; give one of them\n",
    )
    assert "a text of 1499 characters" in added(good, text="word " * 300)[1]
    good.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    assert "is cut short" in added(good)[1]
    mark = open_watermark("perth")
    assert mark is not None
    status, said = added(written(tmp_path, mark.mark(torch.from_numpy(speech())).numpy(), "flac"))
    assert (status, "carries our own watermark" in said, said.count("\n")) == (2, True, 1)
    assert "is clipped" in added(written(tmp_path, np.clip(20 * speech(), -1, 1), "flac"))[1]
