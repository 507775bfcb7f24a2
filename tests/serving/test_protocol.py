"""What is encoded is what is decoded; what breaks the protocol is named in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csm_model.errors import CsmError, DigestError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving.wire import messages
from csm_serving.wire.errors import BusyError, DeadlineError, ServingError
from csm_serving.wire.protocol import Chunk, End, Resume, SamplingOptions, SpeechRequest, TextPart, Turn
from csm_serving.wire.tensors import INPUTS, OUTPUTS

CODES = np.arange(8, dtype=np.int32).reshape(4, 2)


AUDIO = np.linspace(-1, 1, 3_000, dtype=np.float32)


def full_request() -> SpeechRequest:
    return SpeechRequest(
        text="Grüße, wie geht's?",
        voice="Käthe, warm",
        context=(
            Turn(speaker=0, text="first", codes=CODES, token=b"\x00\xff token"),
            Turn(speaker=1, text="only text"),
            Turn(speaker=0, text="third", codes=CODES[:, :1] + 8),
            Turn(speaker=2, text="heard", audio=AUDIO),
            Turn(voice="Käthe, warm", text="heard too", audio=AUDIO[:7]),
        ),
        seed=2**63 - 1,
        sampling=SamplingOptions(
            temperature=0.7, depth_temperature=0.0, top_k=50, guidance=1.5, depth_guidance=2.0, depth_mean=3
        ),
        max_frames=25,
        stream_id="0a-Z_9xyz",
        text_more=True,
        text_length=1_234,
        resume=Resume(codes=CODES, sentences=np.zeros(CODES.shape[1], np.int32), token=b"resume"),
        deadline_s=12.345,
        max_wait_s=1.5,
        priority=9,
        encoding="opus",
    )


def test_a_request_survives_the_wire() -> None:
    request = full_request()
    again = messages.decode_request(messages.encode_request(request))
    assert isinstance(again, SpeechRequest)
    for name in (
        "text",
        "speaker",
        "voice",
        "seed",
        "max_frames",
        "stream_id",
        "text_more",
        "text_length",
        "deadline_s",
        "max_wait_s",
    ):
        assert getattr(again, name) == getattr(request, name), name
    assert (again.priority, again.encoding) == (9, "opus")
    assert again.sampling == request.sampling, "exactly: another temperature draws other codes"
    assert again.resume is not None
    assert again.resume.token == b"resume"
    np.testing.assert_array_equal(again.resume.codes, CODES)
    assert len(again.context) == len(request.context)
    for turn, sent in zip(again.context, request.context, strict=True):
        assert (turn.speaker, turn.voice, turn.text, turn.token) == (sent.speaker, sent.voice, sent.text, sent.token)
        for got, want in ((turn.codes, sent.codes), (turn.audio, sent.audio)):
            assert (got is None) == (want is None)
            if got is not None:
                np.testing.assert_array_equal(got, want)


def test_turns_by_number_alone_send_what_servers_of_before_know() -> None:
    turns = (Turn(speaker=1, text="Hi."), Turn(speaker=0, text="Ho."))
    assert "CONTEXT_VOICE" not in messages.encode_request(SpeechRequest(text="Hello.", context=turns))


@pytest.mark.parametrize("text", ["and then", "", " \n"])
@pytest.mark.parametrize("more", [False, True])
def test_a_later_part_survives_the_wire(text: str, more: bool) -> None:
    part = TextPart(stream_id="12345678", text=text, more=more)
    assert messages.decode_request(messages.encode_request(part)) == part


def test_what_is_left_to_the_model_is_not_sent() -> None:
    tensors = messages.encode_request(SpeechRequest(text="hello"))
    assert sorted(tensors) == ["SEED", "SPEAKER", "TEXT"]
    again = messages.decode_request({name: tensors[name] for name in ("TEXT", "SPEAKER")})
    assert isinstance(again, SpeechRequest)
    assert (again.seed, again.sampling, again.max_frames, again.context) == (0, SamplingOptions(), None, ())
    assert (again.speaker, again.voice, again.encoding, again.resume, again.deadline_s) == (
        0,
        None,
        "float32",
        None,
        None,
    )


def test_every_encoded_tensor_is_as_specified() -> None:
    chunk = Chunk(audio=np.zeros(FRAME_SAMPLES, np.float32), frame_index=3, codes=CODES[:, 0], token=b"t")
    other = SpeechRequest(text="hello", speaker=3, check=True)
    sent = messages.encode_request(full_request()) | messages.encode_request(other)
    sent |= messages.encode_chunk(chunk) | messages.encode_end(End(ended=True))
    specs = {spec.name: spec for spec in (*INPUTS, *OUTPUTS)}
    assert set(specs) - set(sent) == {"AUDIO_INT16", "AUDIO_OPUS"}, "of other encodings"
    for name, tensor in sent.items():
        assert tensor.dtype == specs[name].numpy_dtype, name
        assert len(tensor.shape) == len(specs[name].shape), name
        assert all(want in (-1, got) for want, got in zip(specs[name].shape, tensor.shape, strict=True)), name


def test_a_check_survives_the_wire_and_is_of_a_whole_text() -> None:
    for check in (True, False):
        tensors = messages.encode_request(SpeechRequest(text="Hi.", check=check))
        assert ("CHECK" in tensors) == check, "a server of before is asked nothing new"
        again = messages.decode_request(tensors)
        assert isinstance(again, SpeechRequest)
        assert again.check == check
    for more in ({"text_more": True}, {"text_more": False, "resume": full_request().resume}):
        with pytest.raises(InputError, match="only a whole text that nobody has heard can be checked"):
            SpeechRequest(text="Hi.", stream_id="12345678", check=True, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": ""}, "nothing to say"),
        ({"text": " \n?!"}, "nothing to say"),
        ({"text": "a" * 1001}, "1001 characters"),
        ({"text": "bad \ud800 half"}, "UTF-8"),
        ({"speaker": -1}, "speaker -1"),
        ({"seed": -5}, "seed -5"),
        ({"seed": 2**63}, "seed 9223372036854775808"),
        ({"max_frames": 0}, "max_frames 0"),
        ({"speaker": 0, "voice": "heart"}, "give one of them"),
        ({"voice": ""}, "voice ''"),
        ({"voice": "a\nb"}, "voice 'a\\nb'"),
        ({"voice": "v" * 101}, "1 to 100 characters"),
        ({"stream_id": "short"}, "stream_id 'short'"),
        ({"stream_id": "12345678\n"}, "8 to 64"),
        ({"stream_id": "1234567é"}, "8 to 64"),
        ({"text_more": True}, "text_more without stream_id"),
        ({"deadline_s": 0.0}, "deadline_s 0.0"),
        ({"deadline_s": float("nan")}, "deadline_s nan"),
        ({"max_wait_s": -1.0}, "max_wait_s -1.0"),
        ({"max_wait_s": float("inf")}, "max_wait_s inf"),
        ({"priority": 10}, "priority 10: must be 0 to 9"),
        ({"encoding": "mp3"}, "float32, int16, opus"),
        ({"context": (Turn(speaker=0, text="x", codes=CODES, audio=AUDIO),)}, "both codes and audio"),
        ({"context": (Turn(speaker=0, text="x", token=b"t"),)}, "a token without codes"),
        ({"context": (Turn(speaker=0, text="x", codes=CODES, token=b"t" * 257),)}, "token of 257 bytes"),
        ({"context": (Turn(speaker=0, text="x", audio=AUDIO * np.float32("nan")),)}, "no finite numbers"),
        ({"context": (Turn(speaker=0, text="x", audio=np.full(2, np.inf, np.float32)),)}, "no finite numbers"),
        ({"context": (Turn(speaker=0, text="x", audio=AUDIO * 2),)}, "audio reaches 2"),
        ({"context": (Turn(speaker=0, text="x", audio=AUDIO.astype(np.float64)),)}, "float64[3000], not float32"),
        ({"context": (Turn(speaker=0, text="x", audio=AUDIO[None]),)}, "float32[1, 3000]"),
        ({"context": (Turn(speaker=0, text="x", audio=np.zeros(4097 * 1920, np.float32)),)}, "7866240 samples"),
        (
            {
                "context": (
                    Turn(speaker=0, text="x", audio=np.zeros(4000 * 1920 + 1, np.float32)),
                    Turn(speaker=0, text="x", codes=np.zeros((4, 96), np.int32)),
                )
            },
            "context of 4097 frames",
        ),
        ({"context": (Turn(speaker=0, text="x", codes=np.zeros((65, 1), np.int32)),)}, "65 codebooks"),
        ({"context": (Turn(speaker=0, text="x", codes=np.full((4, 1), 2**31)),)}, "code 2147483648"),
        ({"context": tuple(Turn(speaker=0, text="x") for _ in range(65))}, "65 turns"),
        ({"text_length": 4}, "text_length 4: must be 5 to"),
        ({"context": (Turn(speaker=0, text="x", codes=np.zeros((4, 2))),)}, "float64"),
        ({"context": (Turn(speaker=0, text="x", codes=CODES - 1),)}, "code -1"),
        ({"context": (Turn(speaker=0, text="x", codes=np.zeros((1, 5000), np.int32)),)}, "5000 frames"),
        (
            {"context": (Turn(speaker=0, text="x", codes=CODES), Turn(speaker=0, text="x", codes=CODES[:2]))},
            "[2, 4] codebooks",
        ),
        ({"context": (Turn(voice="a" * 101, text="x"),)}, "context turn 0: voice"),
        ({"context": (Turn(voice="a\n", text="x"),)}, "context turn 0: voice"),
    ],
)
def test_what_cannot_be_said_is_refused_when_it_is_asked(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        SpeechRequest(**{"text": "hello"} | values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1: must be 0 to 5"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"depth_temperature": float("inf")}, "depth_temperature inf"),
        ({"guidance": 11.0}, "guidance 11.0: must be 0 to 10"),
        ({"top_k": -1}, "top_k -1"),
        ({"depth_guidance": -0.5}, "depth_guidance -0.5: must be 0 to 10"),
    ],
)
def test_sampling_has_bounds(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        SamplingOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "token", "message"),
    [
        (CODES, b"", "resume has no token"),
        (CODES, b"t" * 257, "token of 257 bytes"),
        (CODES[:, :0], b"t", "resume has 0 frames"),
        (CODES[0], b"t", "int32[2], not integers"),
        (CODES - 1, b"t", "resume: code -1"),
    ],
)
def test_frames_are_resumed_with_their_token(codes: np.ndarray[Any, Any], token: bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Resume(codes=codes, sentences=np.zeros(codes.shape[-1], np.int32), token=token)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TEXT": None}, "TEXT is missing"),
        ({"VOICE": None}, "SPEAKER and VOICE are missing"),
        ({"SPEAKER": np.zeros(1, np.int32)}, "give one of them"),
        ({"VOICE": np.array([b"\xed\xa0\x80"], dtype=object)}, "VOICE is not UTF-8"),
        ({"TEXT": np.array(["bad \ud800 half"], dtype=object)}, "not UTF-8"),
        ({"TEXT": np.array([b"a" * 5000], dtype=object)}, "5000 bytes"),
        ({"TEXT": np.array([7], dtype=object)}, "holds int"),
        ({"TEXT": np.zeros(1, np.float32)}, "type float32; it must be BYTES"),
        ({"SEED": np.zeros(1, np.int32)}, "type int32; it must be INT64"),
        ({"TEMPERATURE": np.array([np.nan])}, "temperature nan"),
        ({"SURPRISE": np.zeros(1)}, "SURPRISE' is unknown"),
        ({"RESUME_TOKEN": None}, "only some of RESUME_CODES"),
        ({"RESUME_CODES": None}, "only some of RESUME_CODES"),
        ({"RESUME_CODES": np.zeros((4, 16385), np.int32)}, "RESUME_CODES is [4, 16385]"),
        ({"DEADLINE_MS": np.array([0], np.int32)}, "deadline_s 0"),
        ({"MAX_WAIT_MS": np.array([-1], np.int32)}, "max_wait_s -0.001"),
        ({"ENCODING": np.array([b"mp3"], dtype=object)}, "ENCODING is 'mp3'"),
        ({"CONTEXT_AUDIO": AUDIO}, "CONTEXT_AUDIO is [3000]; CONTEXT_SAMPLES"),
        ({"CONTEXT_SAMPLES": np.array([0, 0, 0, -1, 3008], np.int32)}, "CONTEXT_SAMPLES says"),
        ({"CONTEXT_SAMPLES": None}, "CONTEXT_AUDIO"),
        ({"CONTEXT_AUDIO": np.zeros(4096 * 1920 + 1, np.float32)}, "at most 7864320"),
        ({"CONTEXT_TOKEN": np.array([b"t"], dtype=object)}, "CONTEXT_TOKEN 1; they must agree"),
        ({"TEXT": np.array([b"\xff\xfe"], dtype=object)}, "not UTF-8"),
        ({"TEXT": np.array([b"a", b"b"], dtype=object)}, "shape [2]"),
        ({"SPEAKER": np.zeros((1, 1), np.int32)}, "shape [1, 1]"),
        ({"CONTEXT_TEXT": None}, "at least CONTEXT_TEXT and CONTEXT_SPEAKER"),
        ({"CONTEXT_SPEAKER": np.zeros(2, np.int32)}, "CONTEXT_SPEAKER 2; they must agree"),
        (
            {"CONTEXT_FRAMES": np.array([2, 0, 9, 0, 0], np.int32)},
            "CONTEXT_CODES is [4, 3]; CONTEXT_FRAMES says [2, 0, 9, 0, 0]",
        ),
        ({"CONTEXT_FRAMES": np.array([4, 0, -1, 0, 0], np.int32)}, "CONTEXT_CODES"),
        ({"CONTEXT_CODES": np.zeros(3, np.int32)}, "must be [-1, -1]"),
        ({"CONTEXT_VOICE": np.array([b"a"], dtype=object)}, "CONTEXT_VOICE 1; they must agree"),
        ({"CONTEXT_VOICE": np.array([b"a" * 401] * 5, dtype=object)}, "CONTEXT_VOICE has a value of 401 bytes"),
    ],
)
def test_tensors_that_break_the_protocol_are_named(change: dict[str, object], message: str) -> None:
    tensors = {
        name: value for name, value in (messages.encode_request(full_request()) | change).items() if value is not None
    }
    with pytest.raises(InputError, match=re.escape(message)):
        messages.decode_request(tensors)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [b"", b"\x00\xff"])
def test_a_response_survives_the_wire(token: bytes) -> None:
    audio = np.linspace(-1, 1, FRAME_SAMPLES, dtype=np.float32)
    chunk = Chunk(audio=audio, frame_index=25, codes=CODES[:, 0], token=token)
    tensors = messages.encode_chunk(chunk)
    assert tensors["SECONDS"].tolist() == [2.0]
    again = messages.decode_response(tensors)
    assert isinstance(again, Chunk)
    assert (again.frame_index, again.seconds, again.token, again.encoded) == (25, 2.0, token, b"")
    np.testing.assert_array_equal(again.audio, chunk.audio)
    np.testing.assert_array_equal(again.codes, chunk.codes)
    end = End(ended=False, reason="repeat", dropped=3, left_out=100, left_out_text="你好")
    tensors = messages.encode_end(end)
    assert messages.decode_response(tensors) == end
    before = {name: tensor for name, tensor in tensors.items() if not name.startswith("LEFT_OUT")}
    assert messages.decode_response(before) == End(ended=False, reason="repeat", dropped=3), "of an older server"
    assert End(ended=False).reason == "cut"


@pytest.mark.parametrize(
    "change",
    [
        {"AUDIO": None},
        {"AUDIO": np.zeros(3, np.float32)},
        {"CODES": None},
        {"FRAME_INDEX": np.zeros(0, np.int32)},
        {"TOKEN": np.array([7], np.object_)},
        {"ENDED": np.array([True])},
        {"ENDED": np.array([True]), "DROPPED": np.array([0]), "REASON": np.array([b"bored"], np.object_)},
    ],
)
def test_another_server_is_told_from_ours(change: dict[str, object]) -> None:
    tensors = messages.encode_chunk(Chunk(audio=np.zeros(FRAME_SAMPLES, np.float32), frame_index=0, codes=CODES[:, 0]))
    changed = {name: value for name, value in (tensors | change).items() if value is not None}
    with pytest.raises(ServingError, match="no frame of this protocol"):
        messages.decode_response(changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(messages.ERROR_CODES.values()))
def test_an_error_keeps_its_type_and_its_line(kind: type[CsmError]) -> None:
    line = 'value "x": the rule; the cure'
    found = messages.find_error(f"W1122 some log: {messages.encode_error(kind(line))}")
    assert type(found) is kind
    assert str(found) == line


def test_errors_are_found_in_logs_and_become_one_line() -> None:
    assert messages.encode_error(KeyError("a\nb")).startswith("[csm:internal] KeyError")
    assert str(messages.find_error("E1 [csm:digest] bytes differ\\n\\nAt:\\n file")) == "bytes differ"
    assert isinstance(messages.find_error("[csm:digest] bytes differ"), DigestError)
    assert isinstance(messages.find_error("[csm:busy] wait"), BusyError)
    assert messages.find_error("Socket already in use") is None
    assert messages.encode_error(DeadlineError("late")) == "[csm:deadline] late"
    assert messages.find_error("[csm:unheard_of] x") is None


@pytest.mark.parametrize("after", [None, 0.0, 1.25, 90.0])
def test_a_busy_server_says_when_to_come_again(after: float | None) -> None:
    found = messages.find_error(messages.encode_error(BusyError("no room", retry_after_s=after)))
    assert isinstance(found, BusyError)
    assert (str(found), found.retry_after_s) == ("no room", after)


def test_the_page_lists_every_tensor_and_error() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    for spec in (*INPUTS, *OUTPUTS):
        assert f"| `{spec.name}` | {spec.dtype} |" in page, spec.name
    for code in messages.ERROR_CODES:
        assert f"`{code}`" in page, code


def test_the_client_needs_no_torch() -> None:
    code = "import sys, csm_serving.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
