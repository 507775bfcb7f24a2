"""What is encoded is what is decoded; what breaks the protocol is named in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csm_model.errors import CsmError, DigestError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_serving import protocol
from csm_serving.errors import BusyError, ServingError
from csm_serving.protocol import Chunk, End, SamplingOptions, SpeechRequest, Turn

CODES = np.arange(8, dtype=np.int32).reshape(4, 2)


def full_request() -> SpeechRequest:
    return SpeechRequest(
        text="Grüße, wie geht's?",
        speaker=1,
        context=(
            Turn(speaker=0, text="first", codes=CODES),
            Turn(speaker=1, text="only text"),
            Turn(speaker=0, text="third", codes=CODES[:, :1] + 8),
        ),
        seed=2**63 - 1,
        sampling=SamplingOptions(temperature=0.7, depth_temperature=0.0, top_k=50, guidance=1.5),
        max_frames=25,
    )


def test_a_request_survives_the_wire() -> None:
    request = full_request()
    again = protocol.decode_request(protocol.encode_request(request))
    assert (again.text, again.speaker, again.seed, again.max_frames) == (request.text, 1, 2**63 - 1, 25)
    assert again.sampling == request.sampling, "exactly: another temperature draws other codes"
    assert [(turn.speaker, turn.text) for turn in again.context] == [(0, "first"), (1, "only text"), (0, "third")]
    first, second, third = (turn.codes for turn in again.context)
    assert first is not None
    assert third is not None
    np.testing.assert_array_equal(first, CODES)
    assert second is None
    np.testing.assert_array_equal(third, CODES[:, :1] + 8)


def test_what_is_left_to_the_model_is_not_sent() -> None:
    tensors = protocol.encode_request(SpeechRequest(text="hello"))
    assert sorted(tensors) == ["SEED", "SPEAKER", "TEXT"]
    again = protocol.decode_request({name: tensors[name] for name in ("TEXT", "SPEAKER")})
    assert (again.seed, again.sampling, again.max_frames, again.context) == (0, SamplingOptions(), None, ())


def test_every_encoded_tensor_is_as_specified() -> None:
    kinds = {
        "BYTES": np.object_,
        "INT32": np.int32,
        "INT64": np.int64,
        "FP32": np.float32,
        "FP64": np.float64,
        "BOOL": np.bool_,
    }
    chunk = Chunk(audio=np.zeros(FRAME_SAMPLES, np.float32), frame_index=3, codes=CODES[:, 0])
    sent = protocol.encode_request(full_request()) | protocol.encode_chunk(chunk) | protocol.encode_end(End(ended=True))
    specs = {spec.name: spec for spec in (*protocol.INPUTS, *protocol.OUTPUTS)}
    assert sorted(sent) == sorted(specs)
    for name, tensor in sent.items():
        assert tensor.dtype == kinds[specs[name].dtype], name
        assert len(tensor.shape) == len(specs[name].shape), name
        assert all(want in (-1, got) for want, got in zip(specs[name].shape, tensor.shape, strict=True)), name


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
        ({"context": tuple(Turn(speaker=0, text="x") for _ in range(65))}, "65 turns"),
        ({"context": (Turn(speaker=0, text="..."),)}, "context turn 0: text"),
        ({"context": (Turn(speaker=0, text="x", codes=np.zeros((4, 2))),)}, "float64"),
        ({"context": (Turn(speaker=0, text="x", codes=CODES - 1),)}, "code -1"),
        ({"context": (Turn(speaker=0, text="x", codes=np.zeros((1, 5000), np.int32)),)}, "5000 frames"),
        (
            {"context": (Turn(speaker=0, text="x", codes=CODES), Turn(speaker=0, text="x", codes=CODES[:2]))},
            "[2, 4] codebooks",
        ),
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
    ],
)
def test_sampling_has_bounds(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        SamplingOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TEXT": None}, "TEXT is missing"),
        ({"TEXT": np.array([b"\xff\xfe"], dtype=object)}, "not UTF-8"),
        ({"TEXT": np.array([b"a", b"b"], dtype=object)}, "shape [2]"),
        ({"SPEAKER": np.zeros((1, 1), np.int32)}, "shape [1, 1]"),
        ({"CONTEXT_TEXT": None}, "at least CONTEXT_TEXT and CONTEXT_SPEAKER"),
        ({"CONTEXT_SPEAKER": np.zeros(2, np.int32)}, "must agree"),
        ({"CONTEXT_FRAMES": np.array([2, 0, 9], np.int32)}, "must be [K, 11]"),
        ({"CONTEXT_FRAMES": np.array([4, 0, -1], np.int32)}, "CONTEXT_CODES"),
        ({"CONTEXT_CODES": np.zeros(3, np.int32)}, "must be [K, 3]"),
    ],
)
def test_tensors_that_break_the_protocol_are_named(change: dict[str, object], message: str) -> None:
    tensors = {
        name: value for name, value in (protocol.encode_request(full_request()) | change).items() if value is not None
    }
    with pytest.raises(InputError, match=re.escape(message)):
        protocol.decode_request(tensors)  # type: ignore[arg-type]


def test_a_response_survives_the_wire() -> None:
    chunk = Chunk(audio=np.linspace(-1, 1, FRAME_SAMPLES, dtype=np.float32), frame_index=3, codes=CODES[:, 0])
    again = protocol.decode_response(protocol.encode_chunk(chunk))
    assert isinstance(again, Chunk)
    assert again.frame_index == 3
    np.testing.assert_array_equal(again.audio, chunk.audio)
    np.testing.assert_array_equal(again.codes, chunk.codes)
    assert protocol.decode_response(protocol.encode_end(End(ended=False))) == End(ended=False)
    with pytest.raises(ServingError, match="no frame of this protocol"):
        protocol.decode_response({"OUT": np.zeros(1)})


@pytest.mark.parametrize("kind", list(protocol.ERROR_CODES.values()))
def test_an_error_keeps_its_type_and_its_line(kind: type[CsmError]) -> None:
    line = 'value "x": the rule; the cure'
    found = protocol.find_error(f"W1122 some log: {protocol.encode_error(kind(line))}")
    assert type(found) is kind
    assert str(found) == line


def test_errors_are_found_in_logs_and_become_one_line() -> None:
    assert protocol.encode_error(KeyError("a\nb")).startswith("[csm:internal] KeyError")
    assert str(protocol.find_error("E1 [csm:digest] bytes differ\\n\\nAt:\\n file")) == "bytes differ"
    assert isinstance(protocol.find_error("[csm:digest] bytes differ"), DigestError)
    assert isinstance(protocol.find_error("[csm:busy] wait"), BusyError)
    assert protocol.find_error("Socket already in use") is None
    assert protocol.find_error("[csm:unheard_of] x") is None


def test_the_page_lists_every_tensor_and_error() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    for spec in (*protocol.INPUTS, *protocol.OUTPUTS):
        assert f"| `{spec.name}` | {spec.dtype} |" in page, spec.name
    for code in protocol.ERROR_CODES:
        assert f"`{code}`" in page, code


def test_the_client_needs_no_torch() -> None:
    code = "import sys, csm_serving.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
