"""Thousands of requests that nobody should send: each is a sound request, or one clear line."""

from __future__ import annotations

from typing import Any

import numpy as np

from csm_model.errors import InputError
from csm_serving.wire import messages
from csm_serving.wire.protocol import Resume, SamplingOptions, SpeechRequest, Turn
from csm_serving.wire.tensors import INPUTS

CODES = np.arange(8, dtype=np.int32).reshape(4, 2)


def full_request() -> SpeechRequest:
    """One in which no input is missing but SPEAKER."""
    return SpeechRequest(
        text="word",
        voice="heart",
        context=(
            Turn(speaker=0, text="first", codes=CODES, token=b"token"),
            Turn(speaker=2, text="heard", audio=np.zeros(3_000, np.float32)),
        ),
        sampling=SamplingOptions(temperature=0.7, depth_temperature=0.0, top_k=50, guidance=1.5),
        max_frames=25,
        stream_id="12345678",
        text_more=True,
        resume=Resume(codes=CODES, sentences=np.zeros(CODES.shape[1], np.int32), token=b"resume"),
        deadline_s=12.345,
        max_wait_s=1.5,
        priority=9,
        encoding="opus",
    )


def _random_tensor(rng: np.random.Generator, wanted: np.dtype[Any], rank: int) -> Any:
    """An array of any kind, most often of the type and rank that are asked for."""
    kinds: list[Any] = [
        np.int32,
        np.int64,
        np.float32,
        np.float64,
        np.bool_,
        np.object_,
        "S3",
        "U3",
        np.complex64,
        ">i4",
    ]
    kind = wanted if rng.random() < 0.7 else np.dtype(kinds[rng.integers(len(kinds))])
    rank = rank if rng.random() < 0.8 else int(rng.integers(4))
    shape = [int(size) for size in rng.choice([0, 1, 1, 1, 2, 3, 5, 70], rank)]
    if rank and rng.random() < 0.01:
        shape[-1] = 70_000
    if kind.kind == "O":
        values: list[Any] = [
            b"word", b"", b"12345678", "word", "\ud800", b"\xff\xfe", b"\xed\xa0\x80", b"a" * 5000, b"\0", b"opus",
            None, 7, 10**30, -1, float("nan"), (), [b"x"], {}, object(), np.zeros(2), bytearray(b"word"),
        ]  # fmt: skip
        array = np.empty(shape, np.object_)
        flat = array.reshape(-1)
        for place in range(flat.size):
            flat[place] = values[rng.integers(9) if rng.random() < 0.8 else rng.integers(len(values))]
        return array
    if kind.kind in "SU":
        return np.full(shape, "ab", kind)
    special: list[Any] = [0, 1, 1, 1, 2, 9]
    if kind.kind in "fc":
        special += [0.5, -0.5, float("nan"), float("inf"), -float("inf"), 1e300]
    elif kind.kind == "i":
        special += [-1, np.iinfo(kind).max, np.iinfo(kind).min]
    with np.errstate(over="ignore"):
        return np.array(rng.choice(np.array(special, np.complex128 if kind.kind == "c" else None), shape)).astype(kind)


def _random_request(rng: np.random.Generator) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    if rng.random() < 0.7:  # mostly a sound request, of which something is broken
        tensors |= messages.encode_request(full_request())
        for name in rng.choice(list(tensors), rng.integers(4), replace=False):
            del tensors[str(name)]
    share = rng.choice([0.02, 0.05, 0.2])
    for spec in INPUTS:
        if rng.random() < share:
            tensors[spec.name] = _random_tensor(rng, spec.numpy_dtype, len(spec.shape))
    if rng.random() < 0.02:
        tensors[str(rng.choice(["TEXT", "SEED", "X\n\ud800"]))] = None
    return tensors


def _line_of(tensors: dict[str, Any]) -> str | None:
    """What is said against the request, or None where it is sound. Any other error is the test's failure."""
    try:
        request = messages.decode_request(tensors)
    except InputError as error:
        return str(error)
    again = messages.encode_request(request)
    assert messages.encode_request(messages.decode_request(again)).keys() == again.keys()
    return None


def test_whatever_comes_is_a_request_or_one_clear_line() -> None:
    rng = np.random.default_rng(20261125)
    refused, sound = 0, 0
    for _ in range(4_000):
        tensors = _random_request(rng)
        line = _line_of(tensors)
        if line is None:
            sound += 1
        else:
            refused += 1
            assert 0 < len(line) < 1_000, line
            assert line.isprintable(), line
    assert refused > 1_000
    assert sound > 100
