"""`csm verify-audio` and `csm voice`: what they say, and the status they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from csm_model.files import digest_of_file, read_json, write_json
from csm_model.watermark import open_watermark

Csm = Callable[..., Any]
CORPUS = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus" / "audio"


def speech(seconds: float, payload: int | None = None, *, number: int = 0, key: str | None = None) -> np.ndarray:
    samples, rate = soundfile.read(sorted(CORPUS.glob("*.opus"))[number], dtype="float32")
    assert rate == 24_000
    sound = samples[: int(seconds * rate)]
    if payload is None:
        return sound
    return open_watermark(f"perth:{payload}", key=key).mark(torch.from_numpy(sound)).numpy()


def refused(outcome: Any, message: str) -> None:
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_marked_sound_is_known_and_read(csm: Csm) -> None:
    soundfile.write("marked.flac", speech(4.0, 4711), 24_000)
    outcome = csm("verify-audio", "marked.flac")
    assert outcome.status == 0
    assert outcome.out.startswith("marked.flac: marked (4.0 s)\n")
    assert "payload   4711, by chance" in outcome.out
    assert "where" not in outcome.out


def test_an_unmarked_one_has_status_1(csm: Csm) -> None:
    soundfile.write("plain.wav", speech(4.0), 24_000)
    outcome = csm("verify-audio", "plain.wav")
    assert outcome.status == 1
    assert outcome.out.startswith("plain.wav: no mark found (4.0 s)\n")
    assert "none that can be read" in outcome.out


def test_stereo_of_another_rate_is_read_as_well(csm: Csm) -> None:
    marked = speech(4.0, 4711)
    doubled = np.fft.irfft(np.fft.rfft(marked), 2 * len(marked)) * 2
    soundfile.write("stereo.wav", np.stack([doubled * 0.4, doubled * 0.2], axis=1), 48_000)
    outcome = csm("verify-audio", "stereo.wav", "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["payload"] == 4711


def test_where_in_a_long_sound(csm: Csm) -> None:
    parts = [speech(10.0), speech(10.0, 9, number=1), speech(10.0, number=2)]
    soundfile.write("long.wav", np.concatenate(parts), 24_000)
    outcome = csm("verify-audio", "long.wav", "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    assert (found["file"], found["marked"], found["payload"], found["seconds"]) == ("long.wav", True, 9, 30.0)
    begins = {window["begin"] for window in found["windows"] if window["marked"]}
    assert {10.0, 12.5, 15.0} <= begins
    assert not begins & {0.0, 2.5, 5.0, 20.0, 22.5, 25.0}
    shown = csm("verify-audio", "long.wav").out
    assert f"{len(begins)} of {len(found['windows'])} parts" in shown
    assert (
        shown.splitlines()[-1].strip()
        == "0.0 s  |" + "".join("█" if window["marked"] else " " for window in found["windows"]) + "|"
    )


def test_a_payload_of_another_key_is_read_with_that_key_only(csm: Csm) -> None:
    soundfile.write("marked.wav", speech(5.0, 300, key="5a" * 16), 24_000)
    with_key = csm("verify-audio", "marked.wav", "--json", "--key", "5a" * 16)
    without = csm("verify-audio", "marked.wav", "--json")
    assert json.loads(with_key.out)["payload"] == 300
    assert json.loads(without.out)["payload"] is None
    assert json.loads(without.out)["marked"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav"], "none.wav: no such file"),
        (["text.wav"], "text.wav"),
        (["short.wav"], "a mark is looked for in 0.25 s or more"),
        (["sound.wav", "--watermark", "off"], "nothing to find"),
        (["sound.wav", "--watermark", "silentcipher:none"], "none: no weights of silentcipher"),
        (["sound.wav", "--key", "12"], "must be 32 hexadecimal digits"),
    ],
)
def test_what_cannot_be_said_has_status_2(csm: Csm, arguments: list[str], message: str) -> None:
    Path("text.wav").write_text("no sound")
    soundfile.write("short.wav", speech(0.1), 24_000)
    soundfile.write("sound.wav", speech(1.0), 24_000)
    refused(csm("verify-audio", *arguments), message)


def write_consent(recording: Path, **changes: object) -> None:
    consent = {
        "person": "Anna Example",
        "given": str(datetime.now(UTC).date()),
        "witness": "R. Studio",
        "uses": ["assistant", "reading"],
        "revoke": "voices@example.com",
        "recording": digest_of_file(recording),
    }
    write_json(Path("consent.json"), consent | changes)


def test_a_voice_comes_is_listed_and_goes(csm: Csm, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write("anna.wav", np.stack([speech(3.0)] * 2, axis=1), 24_000)
    write_consent(Path("anna.wav"), expires="2999-12-31")
    added = csm("voice", "add", "anna", "--audio", "anna.wav", "--text", "Hello.", "--consent", "consent.json")
    assert (added.status, added.out) == (0, "voices/anna: 3.0 s of Anna Example, until 2999-12-31\n")
    assert read_json(Path("voices/anna/voice.json"))["consent"]["expires"] == "2999-12-31"
    line = "anna: Anna Example, speaker 0, segment, 3.0 s, for assistant, reading until 2999-12-31"
    assert csm("voice", "list").out == line + "\n"
    (row,) = json.loads(csm("voice", "list", "--json").out)
    assert (row["name"], row["uses"], row["expires"]) == ("anna", ["assistant", "reading"], "2999-12-31")
    monkeypatch.setenv("CSM_SERVING_VOICES", "voices")
    assert csm("voice", "list").out == csm("voice", "list", "--folder", "voices").out
    assert csm("voice", "revoke", "anna").status == 0
    assert csm("voice", "list").out.startswith(line + "; may not speak: its consent was revoked on ")
    assert not Path("voices/anna/prompt.wav").exists()


def test_no_voice_without_a_consent_to_this_recording(csm: Csm) -> None:
    soundfile.write("anna.wav", speech(3.0), 24_000)
    soundfile.write("other.wav", speech(3.0, number=1), 24_000)
    words = ["--text", "Hello.", "--consent", "consent.json"]
    refused(csm("voice", "add", "anna", "--audio", "anna.wav", *words), "consent.json: no such file")
    write_consent(Path("other.wav"))
    refused(csm("voice", "add", "anna", "--audio", "anna.wav", *words), "give the file that the person agreed to")
    write_consent(Path("anna.wav"), expires="2020-01-01")
    refused(csm("voice", "add", "anna", "--audio", "anna.wav", *words), "its consent ended on 2020-01-01")
    write_consent(Path("anna.wav"), person="")
    refused(csm("voice", "add", "anna", "--audio", "anna.wav", *words), "consent.json: person")
    write_consent(Path("anna.wav"))
    refused(csm("voice", "add", "anna", "--audio", "none.wav", *words), "none.wav: no such file")
    refused(csm("voice", "add", "anna", "--audio", "anna.wav", *words, "--style", "x"), "style 'x'")
    assert not Path("voices").exists()
    refused(csm("voice", "list"), "voices: no folder of voices")
    refused(csm("voice", "revoke", "anna"), "has no such voice")


def test_presence_alone_is_called_a_hint(csm: Csm) -> None:
    """Perth's network takes a steady tone for marked; no payload can be read from it."""
    tone = 0.3 * np.sin(np.arange(3 * 24_000) * 2 * np.pi * 440 / 24_000)
    soundfile.write("tone.wav", tone, 24_000)
    outcome = csm("verify-audio", "tone.wav")
    assert outcome.status == 0
    assert "payload   none that can be read; presence alone is a hint" in outcome.out
