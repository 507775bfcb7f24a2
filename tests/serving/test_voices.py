"""A voice speaks only with a consent that holds; what changes on disk counts from the next stream on."""

from __future__ import annotations

import random
import threading
from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from csm_model.bundle import load_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.errors import ArtifactError, AudioError, DigestError, InputError
from csm_model.files import digest_of_file, read_json, write_json
from csm_model.inference.generator import Generator
from csm_serving.server.consent import Consent, check_consent, now, read_consent
from csm_serving.server.stored_voices import Voice, add_voice, list_voices, read_record, revoke_voice
from csm_serving.server.voices import VoiceRegistry

TEXT = "Good morning, this is how I speak."
DIGEST = "ab" * 32


def consent(**changes: Any) -> Consent:
    values = {
        "person": "Anna Example",
        "given": now().date() - timedelta(days=3),
        "witness": "R. Studio, Example Ltd",
        "uses": ("assistant", "reading"),
        "revoke": "voices@example.com",
        "recording": DIGEST,
    }
    return Consent.model_validate(values | changes)


def sound(seconds: float = 1.5, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 24_000))).astype(np.float32)


def add(folder: Path, name: str = "anna", *, seed: int = 0, **changes: Any) -> Voice:
    values: dict[str, Any] = {
        "samples": sound(seed=seed),
        "recording_digest": DIGEST,
        "text": TEXT,
        "consent": consent(),
        "speaker": 1,
    }
    return add_voice(folder, name, **(values | changes))


@pytest.fixture(scope="module")
def codec() -> RvqCodec:
    torch.manual_seed(3)
    return RvqCodec(RvqConfig.debug()).eval()


class CountingCodec:
    """The codec, and how often it was asked to encode."""

    def __init__(self, codec: RvqCodec) -> None:
        self.encoded = 0
        self._codec = codec

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        return self._codec.encode(audio)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)


def test_a_voice_is_its_recording_through_the_codec(tmp_path: Path, codec: RvqCodec) -> None:
    added = add(tmp_path, style="continue")
    registry = VoiceRegistry.load(tmp_path)
    voice = registry.get("anna")
    assert voice == added
    assert (voice.speaker, voice.style, voice.trained, voice.seconds) == (1, "continue", False, 1.5)
    assert voice.consent == consent()
    prompt = registry.prompt("anna", codec)
    assert prompt is not None
    assert (prompt.speaker, prompt.text, prompt.style) == (1, TEXT, "continue")
    stored, rate = soundfile.read(tmp_path / "anna" / "prompt.wav", dtype="float32")
    assert rate == 24_000
    assert np.abs(stored - sound()).max() <= 1 / 32_768
    with torch.inference_mode():
        assert torch.equal(prompt.codes, codec.encode(torch.from_numpy(stored)[None, None])[0])


def test_the_voice_is_heard(tmp_path: Path, bundle: Path) -> None:
    """With a voice prompt the same seed says something else than without, and the same thing each time."""
    add(tmp_path)
    loaded = load_bundle(bundle)
    registry = VoiceRegistry.load(tmp_path, speakers=loaded.speakers)
    prompt = registry.prompt("anna", loaded.codec)
    speak = Generator(loaded).speak
    with_voice, again, without = (speak("Hello.", 1, voice=voice, max_frames=8) for voice in (prompt, prompt, None))
    assert torch.equal(with_voice.codes, again.codes)
    assert not torch.equal(with_voice.codes, without.codes)


def test_codes_are_made_once_and_kept_for_the_next_start(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    counting = CountingCodec(codec)
    registry = VoiceRegistry.load(tmp_path)
    first = registry.prompt("anna", counting)
    assert registry.prompt("anna", counting) is first
    restarted = VoiceRegistry.load(tmp_path).prompt("anna", counting)
    assert counting.encoded == 1
    assert torch.equal(restarted.codes, first.codes)


def test_codes_of_another_codec_or_damaged_ones_are_not_taken(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    codes = VoiceRegistry.load(tmp_path).prompt("anna", codec).codes
    torch.manual_seed(4)
    other = RvqCodec(RvqConfig.debug()).eval()
    assert not torch.equal(VoiceRegistry.load(tmp_path).prompt("anna", other).codes, codes)
    for cache in (tmp_path / "anna").glob("codes-*.npy"):
        cache.write_bytes(cache.read_bytes()[:100])
    assert torch.equal(VoiceRegistry.load(tmp_path).prompt("anna", codec).codes, codes)


def test_a_registry_that_cannot_be_written_speaks_all_the_same(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    expected = VoiceRegistry.load(tmp_path).prompt("anna", codec).codes
    (made,) = (tmp_path / "anna").glob("codes-*.npy")
    made.unlink()
    made.mkdir()  # a folder in its place: the rename fails, as root may write where others may not
    assert torch.equal(VoiceRegistry.load(tmp_path).prompt("anna", codec).codes, expected)
    assert made.is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expires": now().date() - timedelta(days=2)}, "its consent ended on"),
        ({"given": now().date() + timedelta(days=2)}, "still to come"),
    ],
)
def test_a_consent_that_does_not_hold_is_not_taken_in(tmp_path: Path, changes: dict[str, date], message: str) -> None:
    with pytest.raises(InputError, match=message):
        add(tmp_path, consent=consent(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_consent_that_runs_out_takes_the_voice_away(tmp_path: Path, codec: RvqCodec) -> None:
    day = now().date()
    add(tmp_path, consent=consent(expires=day))
    end = datetime.combine(day + timedelta(days=1), time(12), UTC)  # midnight in UTC-12
    at = [end - timedelta(seconds=1)]
    registry = VoiceRegistry(tmp_path, clock=lambda: at[0])
    assert registry.prompt("anna", codec) is not None
    at[0] = end
    for ask in (lambda: registry.get("anna"), lambda: registry.prompt("anna", codec)):
        with pytest.raises(InputError, match=rf"^voice 'anna': its consent ended on {day}; add it with a new one$"):
            ask()
    assert registry.names == []


def test_dates_of_a_consent_hold_anywhere_on_earth() -> None:
    """Whoever writes today's date, by the clock on their wall, has written one that holds."""
    draw = random.Random(0)
    for _ in range(2_000):
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=draw.randrange(366 * 86_400))
        wall = timezone(timedelta(minutes=draw.randrange(-12 * 60, 14 * 60 + 1, 15)))
        here = at.astimezone(wall).date()
        check_consent("anna", consent(given=here, expires=here), at=at)
        check_consent("anna", consent(given=date(2020, 1, 1), expires=here), at=at.astimezone(wall))
        first = at.astimezone(timezone(timedelta(hours=14))).date()
        last = at.astimezone(timezone(timedelta(hours=-12))).date()
        with pytest.raises(InputError, match="still to come"):
            check_consent("anna", consent(given=first + timedelta(days=1)), at=at)
        with pytest.raises(InputError, match="its consent ended on"):
            check_consent("anna", consent(given=date(2020, 1, 1), expires=last - timedelta(days=1)), at=at)


def test_a_server_of_one_use_takes_only_voices_that_allow_it(tmp_path: Path) -> None:
    add(tmp_path)
    assert VoiceRegistry.load(tmp_path, use="reading").get("anna").speaker == 1
    with pytest.raises(InputError, match="is for assistant, reading, not for 'advertising'"):
        VoiceRegistry.load(tmp_path, use="advertising").get("anna")


def test_revoking_counts_for_the_next_stream_and_leaves_no_recording(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    registry = VoiceRegistry.load(tmp_path)
    registry.prompt("anna", codec)
    revoke_voice(tmp_path, "anna")
    with pytest.raises(InputError, match=rf"its consent was revoked on {now().date()}"):
        registry.prompt("anna", codec)
    assert [path.name for path in (tmp_path / "anna").iterdir()] == ["voice.json"]
    ((_, why),) = list_voices(tmp_path)
    assert why.startswith("its consent was revoked on")
    before = read_record(tmp_path, "anna")
    revoke_voice(tmp_path, "anna")
    assert read_record(tmp_path, "anna") == before, "the first revocation stays the date"


def test_a_voice_that_is_added_or_replaced_is_there_at_once(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    registry = VoiceRegistry.load(tmp_path)
    old, heard = registry.get("anna"), registry.prompt("anna", codec)
    add(tmp_path, "berta", seed=1)
    assert registry.names == ["anna", "berta"]
    new = add(tmp_path, seed=2, text="Another day.")
    assert registry.get("anna") == new
    assert new.identity != old.identity, "tokens of the old recording are not the new one's"
    prompt = registry.prompt("anna", codec)
    assert prompt.text == "Another day."
    assert not torch.equal(prompt.codes, heard.codes)


def test_while_voices_are_replaced_every_prompt_is_whole(tmp_path: Path, codec: RvqCodec) -> None:
    """Text and codes are of one recording, whichever it is."""
    texts = {f"Recording number {number}.": number for number in range(3)}
    expected = {}
    for text, number in texts.items():
        add(tmp_path, seed=number, text=text)
        expected[text] = VoiceRegistry.load(tmp_path).prompt("anna", codec).codes
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for text, number in texts.items():
                add(tmp_path, seed=number, text=text)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        registry, seen, looks = VoiceRegistry.load(tmp_path), set(), 0
        while looks < 60 or len(seen) < 2:
            looks += 1
            prompt = registry.prompt("anna", codec)
            assert torch.equal(prompt.codes, expected[prompt.text])
            seen.add(prompt.text)
    finally:
        stop.set()
        thread.join()


def test_the_bundles_own_speakers_are_voices_by_number_and_by_name(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    registry = VoiceRegistry.load(tmp_path, speakers={0: "heart", 4: "kumo"})
    assert registry.names == ["heart", "kumo", "anna"]
    kumo = registry.get("kumo")
    assert kumo == registry.speaker(4)
    assert (kumo.speaker, kumo.trained, kumo.identity) == (4, True, "speaker:4")
    assert registry.prompt("kumo", codec) is None
    with pytest.raises(InputError, match=r"speaker 1 is unknown: this bundle speaks as 0 \(heart\), 4 \(kumo\)"):
        registry.speaker(1)
    with pytest.raises(InputError, match="voice 'otto' is unknown; this server has: heart, kumo, anna"):
        registry.get("otto")


def test_a_bundle_that_names_no_speakers_speaks_as_any_number(tmp_path: Path) -> None:
    registry = VoiceRegistry.load(None)
    assert registry.speaker(7).identity == "speaker:7"
    with pytest.raises(InputError, match="this server has: none"):
        registry.get("anna")
    with pytest.raises(InputError, match="no folder of voices"):
        VoiceRegistry.load(tmp_path / "absent")


def test_a_name_stands_for_one_voice(tmp_path: Path) -> None:
    add(tmp_path, "heart")
    with pytest.raises(InputError, match=r"'heart' of .* has the name of a speaker of the bundle"):
        VoiceRegistry.load(tmp_path, speakers={0: "heart"})


@pytest.mark.parametrize("name", ["", "../anna", "anna/../anna", "Anna", "a" * 65, "-x", "anna\n", ".", "é"])
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "voices"
    add(folder)
    registry = VoiceRegistry.load(folder)
    with pytest.raises(InputError, match="unknown"):
        registry.get(name)
    with pytest.raises(InputError, match="a name is 1 to 64"):
        add(folder, name)
    with pytest.raises(InputError, match="has no such voice"):
        revoke_voice(folder, name)
    assert [path.name for path in tmp_path.iterdir()] == ["voices"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recording_digest": "cd" * 32}, r"the consent is for the recording abab.*, the file is cdcd"),
        ({"text": " ?! "}, "must be what is said in the recording"),
        ({"speaker": -1}, "speaker -1"),
        ({"samples": sound(0.5)}, "of 0.5 s: a voice prompt takes 1 to 30 s"),
        ({"samples": sound(31)}, "of 31.0 s"),
        ({"samples": np.zeros(48_000, np.float32)}, "silent"),
        ({"samples": np.full(48_000, np.nan, np.float32)}, "no numbers"),
    ],
)
def test_what_is_no_voice_is_not_taken_in(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, AudioError), match=message):
        add(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_another_recording_in_the_file_is_refused(tmp_path: Path, codec: RvqCodec) -> None:
    add(tmp_path)
    soundfile.write(tmp_path / "anna" / "prompt.wav", sound(seed=9), 24_000)
    registry = VoiceRegistry.load(tmp_path)
    with pytest.raises(DigestError, match=r"is not what voice\.json names"):
        registry.prompt("anna", codec)
    assert "is not what voice.json names" in registry.prepare(codec)[0]


@pytest.mark.parametrize("field", ["person", "given", "witness", "uses", "revoke", "recording"])
def test_a_consent_has_all_that_it_needs(tmp_path: Path, field: str) -> None:
    path = tmp_path / "consent.json"
    values = consent().model_dump(mode="json", exclude_none=True)
    write_json(path, values)
    assert read_consent(path) == consent()
    write_json(path, {name: value for name, value in values.items() if name != field})
    with pytest.raises(InputError, match=rf"consent.json: {field}: field required; docs/voices.md"):
        read_consent(path)
    write_json(path, values | {field: " "})
    with pytest.raises(InputError, match=rf"consent.json: {field}"):
        read_consent(path)


def test_a_consent_takes_no_field_that_it_does_not_know(tmp_path: Path) -> None:
    """A misspelt `expires` would be a consent without an end."""
    path = tmp_path / "consent.json"
    write_json(path, consent().model_dump(mode="json", exclude_none=True) | {"expire": "2026-01-01"})
    with pytest.raises(InputError, match="expire: extra inputs are not permitted"):
        read_consent(path)
    path.write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_consent(path)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}'])
def test_a_damaged_record_takes_only_its_own_voice_away(tmp_path: Path, codec: RvqCodec, damage: str) -> None:
    add(tmp_path)
    add(tmp_path, "berta")
    (tmp_path / "anna" / "voice.json").write_text(damage)
    registry = VoiceRegistry.load(tmp_path)
    with pytest.raises(ArtifactError, match=r"voice\.json"):
        registry.get("anna")
    assert registry.names == ["berta"]
    (line,) = registry.prepare(codec)
    assert "anna/voice.json" in line


def test_a_record_cannot_be_lent_to_another_voice(tmp_path: Path) -> None:
    add(tmp_path)
    (tmp_path / "anna").rename(tmp_path / "otto")
    with pytest.raises(ArtifactError, match="is the record of 'anna'"):
        VoiceRegistry.load(tmp_path).get("otto")


def test_a_kill_while_a_voice_is_written_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("csm_serving.server.stored_voices.write_json", die)
    with pytest.raises(KeyboardInterrupt):
        add(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert VoiceRegistry.load(tmp_path).names == []


def test_the_record_on_disk_says_what_was_allowed(tmp_path: Path) -> None:
    add(tmp_path, consent=consent(expires=now().date() + timedelta(days=365), evidence="binder 7"))
    record = read_json(tmp_path / "anna" / "voice.json")
    assert record["consent"]["person"] == "Anna Example"
    assert record["consent"]["uses"] == ["assistant", "reading"]
    assert record["sound"] == digest_of_file(tmp_path / "anna" / "prompt.wav")
    assert record["revoked"] is None
