"""Requests that nobody should send, drawn from a seed. Each says what may become of it.

An attack is a number of messages in one call. What happens with the call, `served.hostile` says: most are read to the
end, others are cancelled, left unread, or cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from csm_serving.client import calls
from csm_serving.wire.protocol import Resume, SpeechRequest, TextPart, Turn
from csm_serving.wire.tensors import INPUTS

from .listeners import Taken
from .raw import Message, copy_of, empty_message

Rng = np.random.Generator
INVALID: Final = frozenset({"invalid_input"})
REFUSED: Final = frozenset({"invalid_input", "triton", "rpc"})
"""By the model, or by Triton before it."""
ANY: Final = frozenset({"spoken", "invalid_input", "triton", "busy", "rpc", "deadline"})
_DATATYPES: Final = (
    "BYTES",
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "",
    "X",
)
_UTF8_BROKEN: Final = (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"good \x80 day", b"\xe2\x82")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A call that nobody should make."""

    kind: str
    messages: list[Message]
    may: frozenset[str]
    """Outcomes that are right, beside being refused for lack of capacity."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What attacks are made from."""

    speakers: Sequence[int]
    heard: Taken
    """A stream that was spoken in truth, with its token."""

    def request(self, **given: Any) -> SpeechRequest:
        """A short sound request."""
        return SpeechRequest(**{"text": "No.", "speaker": self.speakers[0], "max_frames": 3} | given)

    def message(self, **given: Any) -> Message:
        """The same as a message."""
        return calls.message_of(self.request(**given), "0")


def _input(message: Message, name: str) -> int:
    return next(number for number, tensor in enumerate(message.inputs) if tensor.name == name)


def _put(message: Message, name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Message:
    """Adds an input, or replaces it."""
    for number, tensor in enumerate(message.inputs):
        if tensor.name == name:
            tensor.datatype = datatype
            tensor.ClearField("shape")
            tensor.shape.extend(shape)
            message.raw_input_contents[number] = raw
            return message
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)
    return message


def _bytes(*values: bytes) -> bytes:
    """A BYTES tensor as it travels."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _some(rng: Rng, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _full(ground: Ground, rng: Rng) -> Message:
    """A sound request with many inputs."""
    context = (Turn(speaker=10**6, text="first"),)
    return ground.message(
        context=context if rng.random() < 0.2 else (), deadline_s=30.0, priority=int(rng.integers(10))
    )


def wrong_type(ground: Ground, rng: Rng) -> Attack:
    message = _full(ground, rng)
    tensor = _some(rng, message.inputs)
    tensor.datatype = _some(rng, [kind for kind in _DATATYPES if kind != tensor.datatype])
    return Attack(kind="wrong type", messages=[message], may=REFUSED)


def wrong_shape(ground: Ground, rng: Rng) -> Attack:
    message = _full(ground, rng)
    tensor = _some(rng, message.inputs)
    shape = _some(rng, [[], [0], [2], [1, 1], [1, 1, 1, 1], [-1], [2**31], [2**62], [2**62, 4], [0, 2**40], [1] * 40])
    tensor.ClearField("shape")
    tensor.shape.extend(shape)
    return Attack(kind="wrong shape", messages=[message], may=REFUSED)


def wrong_bytes(ground: Ground, rng: Rng) -> Attack:
    """The raw contents are not what shape and type say."""
    message = _full(ground, rng)
    number = int(rng.integers(len(message.inputs)))
    raw = message.raw_input_contents[number]
    if message.inputs[number].datatype == "BYTES":
        broken: list[bytes] = [
            b"", b"\x01", raw[:-1], raw + b"\x00", struct.pack("<I", 2**32 - 1) + b"word", struct.pack("<I", 2**31),
            raw + raw, struct.pack("<I", 5) + b"word", struct.pack("<I", 3) + b"word",
        ]  # fmt: skip
    else:
        broken = [b"", raw[:-1], raw + b"\x00", raw * 2, raw * 1000]
    message.raw_input_contents[number] = _some(rng, broken)
    return Attack(kind="wrong bytes", messages=[message], may=REFUSED)


def wrong_message(ground: Ground, rng: Rng) -> Attack:
    """Triton's own fields."""
    message = _full(ground, rng)
    choice = int(rng.integers(16))
    if choice == 0:
        message = empty_message()
    elif choice == 1:
        message.model_name = _some(rng, ["", "csm2", "../csm", "c" * 5_000, "csm\x00"])
    elif choice == 2:
        message.model_version = _some(rng, ["0", "2", "-1", "99999999999999999999", "one", "1/../1"])
    elif choice == 3:
        message.ClearField("inputs")
        message.ClearField("raw_input_contents")
    elif choice == 4:
        del message.raw_input_contents[-1]
    elif choice == 5:
        message.raw_input_contents.append(b"more")
    elif choice == 6:
        copied = message.inputs.add()
        copied.CopyFrom(message.inputs[0])
        message.raw_input_contents.append(message.raw_input_contents[0])
    elif choice == 7:
        message.inputs.add(name=_some(rng, ["X", "", "TEXT2", "T" * 10_000, "text"]), datatype="INT32", shape=[1])
        message.raw_input_contents.append(b"\0\0\0\0")
    elif choice == 8:
        number = _input(message, _some(rng, ["TEXT"]))
        del message.inputs[number]
        del message.raw_input_contents[number]
    elif choice == 9:
        message.outputs.add(name=_some(rng, ["NOTHING", "", "AUDIO2"]))
    elif choice == 10:
        message.ClearField("raw_input_contents")
        for tensor in message.inputs:
            tensor.contents.int_contents.append(1)
    elif choice == 11:
        tensor = message.inputs[0]
        tensor.parameters["shared_memory_region"].string_param = "nobody"
        tensor.parameters["shared_memory_byte_size"].int64_param = 2**40
    elif choice == 12:
        message.parameters["sequence_id"].int64_param = -1
        message.parameters["sequence_start"].string_param = "yes"
    elif choice == 13:
        message.parameters["timeout"].int64_param = -(2**62)
        message.parameters["priority"].uint64_param = 2**63
    elif choice == 14:
        message.parameters["triton_enable_empty_final_response"].string_param = "perhaps"
        message.id = "i" * 100_000
    else:
        message.inputs[0].name = "\x00"
    return Attack(kind="wrong message", messages=[message], may=REFUSED | {"spoken"})


_FLOATS: Final = (float("nan"), float("inf"), -float("inf"), -0.1, -1e308, 1e308, 11.0)
_INTS: Final = (-1, -(2**31))
_BAD: Final[dict[str, tuple[str, Sequence[Any]]]] = {
    "TEMPERATURE": ("<d", _FLOATS),
    "DEPTH_TEMPERATURE": ("<d", _FLOATS),
    "GUIDANCE": ("<d", _FLOATS),
    "DEPTH_GUIDANCE": ("<d", _FLOATS),
    "DEPTH_MEAN": ("<i", _INTS),
    "TOP_K": ("<i", _INTS),
    "SEED": ("<q", (-1, -(2**63))),
    "MAX_FRAMES": ("<i", (0, *_INTS)),
    "DEADLINE_MS": ("<i", (0, *_INTS)),
    "MAX_WAIT_MS": ("<i", _INTS),
    "PRIORITY": ("<i", (10, 2**31 - 1, *_INTS)),
    "SPEAKER": ("<i", (1, 999, 2**31 - 1, *_INTS)),
}
_TYPES: Final = {spec.name: spec.dtype for spec in INPUTS}


def wrong_values(ground: Ground, rng: Rng) -> Attack:
    """Numbers of the right kind and shape that mean nothing."""
    name = _some(rng, sorted(_BAD))
    form, values = _BAD[name]
    value = _some(rng, [value for value in values if name != "SPEAKER" or value not in ground.speakers])
    message = _put(ground.message(), name, _TYPES[name], [1], struct.pack(form, value))
    return Attack(kind="wrong values", messages=[message], may=INVALID)


def wrong_text(ground: Ground, rng: Rng) -> Attack:
    word = bytes(rng.integers(0, 256, int(rng.integers(1, 40)), np.uint8))
    text = _some(
        rng,
        [
            b"", b" ", b"\0", b"...", b"\n\n", "\u200b\u202e".encode(), "\U0001f600".encode(), *_UTF8_BROKEN, word,
            b"a" * 1_001, b"word " * 400, b"a" * 200_000, "\u00e9".encode() * 1_001, b"\xff" * 5_000,
        ],
    )  # fmt: skip
    message = _put(ground.message(), "TEXT", "BYTES", [1], _bytes(text))
    return Attack(kind="wrong text", messages=[message], may=INVALID | ({"spoken"} if text is word else set()))


def odd_text(ground: Ground, rng: Rng) -> Attack:
    """Text that may be said, if it is strange."""
    pool = "aAbz019 .,!?'\"-<>{}[]()\\/\t\n\u00e9\u00df\u4e2d\u0627\U0001f600\u0301\u200d&;%$#@^~`|"
    text = "".join(_some(rng, pool) for _ in range(int(rng.integers(1, 200))))
    message = _put(ground.message(), "TEXT", "BYTES", [1], _bytes(text.encode()))
    return Attack(kind="odd text", messages=[message], may=INVALID | {"spoken"})


_DIGITS: Final = "1234567890" * 9
_POISON: Final = (
    "1" * 37,
    "1," * 40,
    _DIGITS,
    f"-{_DIGITS}.{_DIGITS}",
    f"${_DIGITS}",
    f"1.{'0' * 300}1",
    "1e400",
    f"{_DIGITS}th",
    "9" * 400,
    "1/0",
    "0" * 60,
    f"10:{_DIGITS}",
    f"{_DIGITS}%",
    "Call 777777777, 888888888, 999999999, 777777777.",
    "1-2-3-" * 60,
    "\u4f60\u597d\u4e16\u754c\u3002",
    "\u0645\u0631\u062d\u0628\u0627.",
    "\u05e9\u05dc\u05d5\u05dd.",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440.",
    "[word](/x/)",
    "[1](/1/)",
    "![img](/a.png) here",
    "<break time='500ms'/>Hi",
    "[](/h\u02c8\u025bl/)",
    "[a](/" + "x" * 500 + "/)",
    "cafe\u0301 nai\u0308ve",
    "Hel\u00adlo \u200bthere \ufeff",
    "\u2212\u0665 \u216b \u00bd \u2075",
    "\u0600" * 50,
    "\u202e\u0301" * 60,
    "a" * 600,
    "A" * 300,
    "x." * 300,
    "www." * 100,
    "Dr. Mr. " * 60,
    "MMMMCMXCIX" * 20,
    "#" * 500,
    "!?" * 200,
    "\ud7ff\uffff",
    "\U0001f600" * 100 + " a",
    "(((" * 150 + "a",
    "\t\n\r\x0b\x0c a",
    "100,000,000,000,000,000,000,000,000,000,000,000,000,000",
)
"""What a reader of text has broken on, somewhere: numbers without end, other scripts, markup, signs without letters."""


def poisoned_text(ground: Ground, rng: Rng) -> Attack:
    """Text that its reader may break on: at once, or in a later sentence, when others are stepped with it."""
    poison = _some(rng, _POISON)
    before = "Hello there, my friend. This is a rather long text that will be cut into sentences, you see. "
    text = f"{before if rng.random() < 0.6 else ''}{poison} {before if rng.random() < 0.3 else ''}"[:1_000]
    message = ground.message(max_frames=150)
    _put(message, "TEXT", "BYTES", [1], _bytes(text.encode()))
    return Attack(kind="poisoned text", messages=[message], may=INVALID | {"spoken"})


def wrong_voice(ground: Ground, rng: Rng) -> Attack:
    message = ground.message()
    voice = _some(
        rng,
        [b"", b"nobody", b"../../etc/passwd", b"/etc/passwd", b"heart\0", b"a" * 101, b"a" * 100_000, b"%s%n", b"\xff",
         b"heart/../heart", b"HEART ", b"'; drop table voices"],
    )  # fmt: skip
    if rng.random() < 0.8:
        number = _input(message, "SPEAKER")
        del message.inputs[number]
        del message.raw_input_contents[number]
    if rng.random() < 0.9:
        _put(message, "VOICE", "BYTES", [1], _bytes(voice))
    elif any(tensor.name == "SPEAKER" for tensor in message.inputs):
        _put(message, "SPEAKER", "INT32", [1], struct.pack("<i", 77))
    return Attack(kind="wrong voice", messages=[message], may=INVALID)


def wrong_context(ground: Ground, rng: Rng) -> Attack:
    """Turns before that never were, or not as they are told."""
    codes, me = np.stack(ground.heard.codes, axis=1).astype(np.int32), ground.heard.request.speaker
    books, frames = codes.shape
    changed = codes.copy()
    changed[int(rng.integers(books)), int(rng.integers(frames))] ^= 1
    good = Turn(speaker=me or 0, text="hello", codes=codes, token=ground.heard.token)
    other = next(speaker for speaker in ground.speakers if speaker != me)
    turns = _some(
        rng,
        [
            replace(good, codes=changed),
            replace(good, codes=codes[:, :-1]),
            replace(good, token=b""),
            replace(good, token=bytes(rng.integers(0, 256, 16, np.uint8))),
            replace(good, token=b"t" * 256),
            replace(good, codes=codes[:-1], speaker=other, token=b""),
            replace(good, codes=codes + 10**6, speaker=other, token=b""),
            replace(good, speaker=10**6),
        ],
    )
    message = ground.message(context=(turns,), speaker=me)
    choice = int(rng.integers(8))
    if choice == 0:
        _put(message, "CONTEXT_FRAMES", "INT32", [1], struct.pack("<i", _some(rng, [-1, 0, frames - 1, 2**31 - 1])))
    elif choice == 1:
        _put(message, "CONTEXT_SPEAKER", "INT32", [2], struct.pack("<ii", 0, 0))
    elif choice == 2:
        _put(message, "CONTEXT_TEXT", "BYTES", [65], _bytes(*[b"word"] * 65))
    elif choice == 3:
        _put(message, "CONTEXT_CODES", "INT32", [1, 5_000], bytes(20_000))
    return Attack(kind="wrong context", messages=[message], may=INVALID)


def wrong_sound(ground: Ground, rng: Rng) -> Attack:
    """Sound that is none, too much of it, or of somebody whose voice it would clone."""
    size = int(_some(rng, [1, 1_919, 1_920, 24_000, 240_000]))
    sound = (0.1 * rng.standard_normal(size)).astype(np.float32)
    other = ground.speakers[1]
    choice = int(rng.integers(6))
    if choice < 3:
        sound[int(rng.integers(size))] = _some(rng, [np.nan, np.inf, -np.inf, 1.5, 1e38])
    elif choice == 3:
        sound, other = np.clip(sound, -1, 1), ground.speakers[0]  # the one that is asked for
    elif choice == 4:
        sound = np.zeros(4_096 * 1_920 + 1 if rng.random() < 0.05 else 0, np.float32)
    message = ground.message(context=(Turn(speaker=other, text="hello"),))
    samples = size + 1 if choice == 5 else sound.size
    _put(message, "CONTEXT_SAMPLES", "INT32", [1], struct.pack("<i", samples))
    _put(message, "CONTEXT_AUDIO", "FP32", [sound.size], sound.tobytes())
    may = INVALID if sound.size else REFUSED | {"spoken"}
    return Attack(kind="wrong sound", messages=[message], may=may)


def wrong_resume(ground: Ground, rng: Rng) -> Attack:
    """Frames that were never spoken, or not by this one, or not here."""
    codes = np.stack(ground.heard.codes, axis=1).astype(np.int32)
    frames = codes.shape[1]
    resume = Resume(codes=codes, sentences=np.array(ground.heard.sentences, np.int32), token=ground.heard.token)
    changed = codes.copy()
    changed[int(rng.integers(codes.shape[0])), int(rng.integers(frames))] ^= 1
    request = replace(ground.heard.request, max_frames=frames + 2)
    choice = int(rng.integers(9))
    if choice == 0:
        request = replace(request, resume=replace(resume, codes=changed))
    elif choice == 1:
        cut = Resume(codes=codes[:, :-1], sentences=resume.sentences[:-1], token=resume.token)
        request = replace(request, resume=cut)
    elif choice == 2:
        request = replace(request, resume=replace(resume, token=bytes(rng.integers(0, 256, 16, np.uint8))))
    elif choice == 3:
        other = next(speaker for speaker in ground.speakers if speaker != request.speaker)
        request = replace(request, resume=resume, speaker=other)
    elif choice == 4:
        request = replace(request, resume=replace(resume, sentences=resume.sentences + int(_some(rng, [-2, 1, 10**6]))))
    elif choice == 5:
        noise = rng.integers(0, 2**31, (int(rng.integers(1, 65)), frames), np.int32)
        request = replace(request, resume=replace(resume, codes=noise))
    else:
        message = calls.message_of(replace(request, resume=resume), "0")
        if choice == 6:
            number = _input(message, _some(rng, ["RESUME_CODES", "RESUME_SENTENCES", "RESUME_TOKEN"]))
            del message.inputs[number]
            del message.raw_input_contents[number]
        elif choice == 7:
            _put(message, "RESUME_CODES", "INT32", [0, 0], b"")
        else:
            _put(message, "RESUME_CODES", "INT32", [70, frames], bytes(280 * frames))
        return Attack(kind="wrong resume", messages=[message], may=REFUSED)
    return Attack(kind="wrong resume", messages=[calls.message_of(request, "0")], may=INVALID)


def wrong_parts(ground: Ground, rng: Rng) -> Attack:
    """Parts of streams that are not there, names that are none, parts after the last, the same name twice."""
    name = "".join(_some(rng, "0123456789abcdef") for _ in range(32))
    choice = int(rng.integers(7))

    def part(number: int, text: str = "word", *, more: bool, of: str = name) -> Message:
        return calls.message_of(TextPart(stream_id=of, text=text, more=more), str(number))

    first = ground.message(stream_id=name, text_more=True)
    if choice == 0:
        return Attack(kind="wrong parts", messages=[part(1, more=False)], may=INVALID)
    if choice == 1:
        bad = _some(
            rng, [b"", b"short", b"a" * 65, b"a" * 100_000, b"12345678\n", b"\xff" * 8, b"../../..", b"12 45678"]
        )
        message = _put(part(1, more=True), "STREAM_ID", "BYTES", [1], _bytes(bad))
        return Attack(kind="wrong parts", messages=[message], may=INVALID)
    if choice == 2:
        return Attack(
            kind="wrong parts", messages=[first, part(1, more=False), part(2, more=False)], may=INVALID | {"spoken"}
        )
    if choice == 3:
        return Attack(
            kind="wrong parts", messages=[first, copy_of(first), part(1, more=False)], may=INVALID | {"spoken"}
        )
    if choice == 4:
        many = [part(n + 1, "", more=True) for n in range(50)]
        return Attack(kind="wrong parts", messages=[first, *many, part(51, more=False)], may=INVALID | {"spoken"})
    if choice == 5:
        long = [part(n + 1, "word " * 200, more=True) for n in range(11)]
        return Attack(kind="wrong parts", messages=[first, *long, part(12, more=False)], may=INVALID | {"spoken"})
    message = _put(ground.message(), "TEXT_MORE", "BOOL", [1], b"\x01")
    return Attack(kind="wrong parts", messages=[message], may=INVALID)


def anything(ground: Ground, rng: Rng) -> Attack:
    """A sound request in which some inputs hold random bytes of the right size."""
    message = _full(ground, rng)
    sizes = {"BOOL": 1, "INT16": 2, "INT32": 4, "FP32": 4, "INT64": 8, "FP64": 8}
    for spec in INPUTS:
        if rng.random() > 0.1 or spec.name in ("MAX_FRAMES", "MAX_WAIT_MS"):
            continue
        shape = [int(rng.integers(1, 4)) if size < 0 else size for size in spec.shape]
        count = int(np.prod(shape))
        if spec.dtype == "BYTES":
            raw = _bytes(*(bytes(rng.integers(0, 256, int(rng.integers(0, 30)), np.uint8)) for _ in range(count)))
        else:
            raw = bytes(rng.integers(0, 256, count * sizes[spec.dtype], np.uint8))
        _put(message, spec.name, spec.dtype, shape, raw)
    return Attack(kind="random", messages=[message], may=ANY)


ATTACKS: Final[tuple[tuple[Callable[[Ground, Rng], Attack], float], ...]] = (
    (wrong_type, 8),
    (wrong_shape, 8),
    (wrong_bytes, 8),
    (wrong_message, 8),
    (wrong_values, 10),
    (wrong_text, 10),
    (odd_text, 4),
    (poisoned_text, 8),
    (wrong_voice, 6),
    (wrong_context, 8),
    (wrong_sound, 6),
    (wrong_resume, 8),
    (wrong_parts, 8),
    (anything, 8),
)


def draw(ground: Ground, rng: Rng) -> Attack:
    """One of them."""
    shares = np.array([share for _, share in ATTACKS])
    made = ATTACKS[int(rng.choice(len(ATTACKS), p=shares / shares.sum()))][0]
    return made(ground, rng)
