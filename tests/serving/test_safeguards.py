"""The safeguards at work in an engine that was loaded from settings: mark, voices, tokens, audit."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import HANG_S

from csm_model.errors import CsmError, InputError
from csm_model.watermark import open_watermark
from csm_serving.server.consent import Consent, now
from csm_serving.server.engine import Engine
from csm_serving.server.loading import load_engine
from csm_serving.server.metrics import MemoryMetrics
from csm_serving.server.stored_voices import add_voice, revoke_voice
from csm_serving.settings import load_settings
from csm_serving.wire.errors import UnavailableError
from csm_serving.wire.protocol import Chunk, End, Resume, SamplingOptions, SpeechRequest, Turn

GREEDY = SamplingOptions(temperature=0.0, depth_temperature=0.0)
DIGEST = "ab" * 32
Load = Callable[..., Engine]


class Caller:
    """Keeps what a stream brings."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.answer: End | Exception | None = None
        self.over = threading.Event()

    def chunk(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def end(self, end: End) -> None:
        self.answer = end
        self.over.set()

    def fail(self, error: Exception) -> None:
        self.answer = error
        self.over.set()

    def drop(self) -> None:
        self.over.set()

    def cancelled(self) -> bool:
        return False

    @property
    def codes(self) -> np.ndarray:
        return np.stack([chunk.codes for chunk in self.chunks], axis=1)

    @property
    def sound(self) -> np.ndarray:
        return np.concatenate([chunk.audio for chunk in self.chunks])


@pytest.fixture
def load(bundle: Path, tmp_path: Path) -> Iterator[Load]:
    engines = []

    def loaded(**changes: Any) -> Engine:
        given = {"audit": str(tmp_path / "audit.jsonl"), "voices": tmp_path / "voices", "turn_key": "12" * 32}
        (tmp_path / "voices").mkdir(exist_ok=True)
        settings = load_settings(bundle=bundle, slots=2, frame_budget=0.0, **(given | changes))
        engines.append(load_engine(settings, MemoryMetrics()))
        return engines[-1]

    yield loaded
    for engine in engines:
        engine.close(0.0)


def ask(engine: Engine, **changes: Any) -> Caller:
    values: dict[str, Any] = {"text": "Quentin sleeps.", "speaker": 1, "sampling": GREEDY, "max_frames": 9}
    values |= changes
    if values.get("voice") is not None:
        values["speaker"] = None
    caller = Caller()
    engine.submit(SpeechRequest(**values), caller)
    assert caller.over.wait(HANG_S)
    return caller


def refused(caller: Caller, message: str) -> None:
    assert isinstance(caller.answer, CsmError)
    assert message in str(caller.answer)
    assert not caller.chunks


def add(folder: Path, *, seed: int = 0, name: str = "anna", uses: tuple[str, ...] = ("assistant",)) -> None:
    consent = Consent(
        person="Anna", given=now().date(), witness="R. Studio", uses=uses, revoke="a@example.com", recording=DIGEST
    )
    samples = (0.1 * np.random.default_rng(seed).standard_normal(30_000)).astype(np.float32)
    add_voice(folder, name, samples=samples, recording_digest=DIGEST, text="Good morning.", consent=consent, speaker=1)


def lines_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


def test_every_chunk_that_leaves_is_marked(load: Load) -> None:
    marked = ask(load(watermark="perth:300", watermark_key="5a" * 16))
    plain = ask(load(watermark="off"))
    assert np.array_equal(marked.codes, plain.codes)
    expected = open_watermark("perth:300", key="5a" * 16).mark(torch.from_numpy(plain.sound)).numpy()
    assert np.abs(marked.sound - expected).max() < 1e-5
    assert np.abs(marked.sound - plain.sound).max() > 1e-4


def test_a_watermark_that_cannot_mark_live_streams_does_not_serve(load: Load, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights of silentcipher"):
        load(watermark=f"silentcipher:{tmp_path}")
    with pytest.raises(InputError, match="watermark 'on'"):
        load(watermark="on")


def test_a_voice_of_the_registry_speaks_until_it_is_revoked(load: Load, tmp_path: Path) -> None:
    engine = load()
    refused(ask(engine, voice="anna"), "voice 'anna' is unknown; this server has: heart, kumo")
    add(tmp_path / "voices")
    spoken = ask(engine, voice="anna")
    assert len(spoken.chunks) == 9
    assert not np.array_equal(spoken.codes, ask(engine).codes), "the same number without the recording"
    revoke_voice(tmp_path / "voices", "anna")
    refused(ask(engine, voice="anna"), "its consent was revoked on")


def test_a_server_of_another_use_does_not_speak_with_it(load: Load, tmp_path: Path) -> None:
    add(tmp_path / "voices", uses=("reading",))
    refused(ask(load(voice_use="advertising"), voice="anna"), "is for reading, not for 'advertising'")


def test_what_was_spoken_here_may_come_back_and_nothing_else(load: Load, tmp_path: Path) -> None:
    add(tmp_path / "voices")
    engine = load()
    said = ask(engine, voice="anna")
    token = said.chunks[-1].token

    def turn(**changes: Any) -> Turn:
        values: dict[str, Any] = {"speaker": 1, "text": "Quentin sleeps.", "codes": said.codes, "token": token}
        return Turn(**(values | changes))

    assert len(ask(engine, voice="anna", context=(turn(),)).chunks) == 9
    changed = said.codes.copy()
    changed[0, 0] = (changed[0, 0] + 1) % 32
    for foreign in (turn(codes=changed), turn(token=b""), turn(codes=None, token=b"", audio=said.sound)):
        refused(ask(engine, voice="anna", context=(foreign,)), "that this service has not spoken")
    assert len(ask(engine, voice="anna", context=(turn(speaker=0, token=b""),)).chunks) == 9, "the other side"
    with pytest.raises(InputError, match="has not spoken"):
        ask(engine, context=(turn(),))  # as speaker 1 of the bundle, who is not anna
    add(tmp_path / "voices", seed=5)
    refused(ask(engine, voice="anna", context=(turn(),)), "has not spoken")
    other = load(turn_key="34" * 32)
    refused(ask(other, voice="anna", context=(turn(),)), "has not spoken")


def test_a_stream_goes_on_only_from_what_this_service_spoke(load: Load) -> None:
    whole = ask(load())
    half = Resume(codes=whole.codes[:, :5], token=whole.chunks[4].token, sentences=np.zeros(5, np.int32))
    rest = ask(load(), resume=half)
    assert np.array_equal(rest.codes, whole.codes[:, 5:])
    assert [chunk.token for chunk in rest.chunks] == [chunk.token for chunk in whole.chunks[5:]]
    with pytest.raises(InputError, match="were not spoken by this service"):
        ask(load(turn_key="34" * 32), resume=half)


def test_every_stream_leaves_a_line_without_its_text(load: Load, tmp_path: Path) -> None:
    add(tmp_path / "voices")
    engine = load(watermark="perth:7")
    assert (tmp_path / "audit.jsonl").read_text() == "", "nobody asked for the one that warms up"
    ask(engine, seed=3, encoding="int16")
    ask(engine, voice="anna", max_frames=4)
    ask(engine, voice="otto")
    engine.close(HANG_S)
    first, second, third = lines_of(tmp_path)
    assert (first["voice"], first["speaker"], first["frames"], first["outcome"]) == ("kumo", 1, 9, "cut")
    assert (first["watermark"], first["seed"], first["encoding"]) == ("perth:7", 3, "int16")
    assert first["characters"] == len("Quentin sleeps.")
    assert 0 <= first["waited_s"] <= first["first_audio_s"] <= first["took_s"]
    assert (second["voice"], second["frames"]) == ("anna", 4)
    assert second["identity"].startswith("voice:anna/")
    assert (third["voice"], third["error"], third["frames"]) == (None, "InputError", 0)
    assert "Quentin" not in (tmp_path / "audit.jsonl").read_text()


def test_a_server_that_cannot_audit_does_not_speak(load: Load, tmp_path: Path) -> None:
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    engine = load(audit=str(full))
    assert len(ask(engine).chunks) == 9, "that the disk is full is known at its first line"
    with pytest.raises(UnavailableError, match=r"cannot write its audit \(No space left on device\)"):
        ask(engine)
    full.unlink()
    full.touch()
    assert len(ask(engine).chunks) == 9
    engine.close(HANG_S)
    assert len(full.read_text().splitlines()) == 2
    with pytest.raises(UnavailableError, match="cannot write its audit"):
        load(audit=str(tmp_path))


def test_what_is_off_is_named_when_the_server_starts(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "csm_serving"):
        load()
        assert not caplog.records
        load(watermark="off", audit="off", client_voices="allow")
    said = caplog.text
    for name in ("CSM_SERVING_WATERMARK=off", "CSM_SERVING_AUDIT=off", "CSM_SERVING_CLIENT_VOICES=allow"):
        assert name in said
