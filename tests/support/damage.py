"""Whole checkpoints made broken in many ways, each by a seed: bytes, headers, values, sizes, indexes, pickles.

A way changes a folder in place and says in words what it did. Most leave what no program may take for a model; those
that turn bits over may leave one, and `content` tells.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from csm_model.config import CONFIGS, ModelConfig, RopeScaling, TransformerConfig
from csm_model.files import write_json
from csm_model.model import CsmModel

Way = Callable[[Path, Random], str]
State = dict[str, Tensor]

JUNK: tuple[Any, ...] = (
    None, "two", "", -1, -2.5, True, [], [1, 2], {}, {"a": 1}, 10**13, 2**70, 1e300, float("nan"), float("inf"),
    "\ud800",
)  # fmt: skip
"""Values that no size of a model has."""
WEIGHTS = "model.safetensors"


def content(path: Path) -> State | None:
    """The tensors of a file by its own library; None where that refuses it."""
    try:
        if path.suffix == ".safetensors":
            return {name: tensor.clone() for name, tensor in load_file(path).items()}
        state: State = torch.load(path, weights_only=True)
        return state
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError, EOFError):
        return None


def speaks(found: State | None, good: State, *, exact: bool) -> bool:
    """Whether tensors are a whole model of the sizes of `good`; with `exact`, that very one."""
    if found is None or found.keys() != good.keys():
        return False
    for name, tensor in good.items():
        other = found[name]
        if other.dtype != tensor.dtype or other.shape != tensor.shape or not bool(other.isfinite().all()):
            return False
        if not bool(other.any()) or (exact and not torch.equal(other, tensor)):
            return False
    return True


def small() -> ModelConfig:
    """The released structure in 15,000 weights."""
    llama = {"rope_base": 500_000.0, "rope_scaling": RopeScaling()}
    return replace(
        CONFIGS["csm-1b"](text_vocab_size=20, num_codebooks=3, codebook_size=8),
        backbone=TransformerConfig(layers=2, dim=32, heads=4, kv_heads=2, ffn_dim=24, **llama),
        depth=TransformerConfig(layers=1, dim=16, heads=2, kv_heads=1, ffn_dim=16, **llama),
    )


def write_small(folder: Path) -> Path:
    """A whole checkpoint of these sizes in this program's layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = CsmModel(small()).state_dict()
    write_json(folder / "config.json", asdict(small()))
    save_file(state, folder / WEIGHTS)
    return folder


# -- bytes --------------------------------------------------------------------------------------


def bits_turned(folder: Path, random: Random, name: str = WEIGHTS) -> str:
    """One to eight bytes anywhere."""
    data = bytearray((folder / name).read_bytes())
    places = [random.randrange(len(data)) for _ in range(random.randint(1, 8))]
    for place in places:
        data[place] ^= 1 << random.randrange(8)
    (folder / name).write_bytes(data)
    return f"bits of bytes {places}"


def header_bits_turned(folder: Path, random: Random) -> str:
    """One to three bytes of the header, its length among them."""
    length, text, data = parts(folder)
    raw = bytearray(length + text)
    places = [random.randrange(len(raw)) for _ in range(random.randint(1, 3))]
    for place in places:
        raw[place] ^= 1 << random.randrange(8)
    (folder / WEIGHTS).write_bytes(bytes(raw) + data)
    return f"bits of bytes {places} of the header"


def cut_short(folder: Path, random: Random, name: str = WEIGHTS) -> str:
    """The end is missing, at any byte."""
    data = (folder / name).read_bytes()
    kept = random.randrange(len(data))
    (folder / name).write_bytes(data[:kept])
    return f"{kept} of {len(data)} bytes"


def grown(folder: Path, random: Random) -> str:
    """Bytes behind the last tensor."""
    more = random.randint(1, 200)
    with (folder / WEIGHTS).open("ab") as file:
        file.write(random.randbytes(more))
    return f"{more} bytes more"


# -- the header ----------------------------------------------------------------------------------


def parts(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Length, header and data of the safetensors file."""
    raw = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return raw[:8], raw[8 : 8 + length], raw[8 + length :]


def write_header(folder: Path, text: bytes) -> None:
    """Puts another header before the same data."""
    _, _, data = parts(folder)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry_changed(folder: Path, random: Random) -> str:
    """Offsets of another tensor, a gap, an overlap; another shape or dtype; a value of any type; a field away."""
    header = json.loads(parts(folder)[1])
    name = random.choice([each for each in header if each != "__metadata__"])
    entry = header[name]
    start, end = entry["data_offsets"]
    step = random.choice([1, 4, 64, end - start])
    field, value = random.choice([
        ("data_offsets", [start + step, end + step]), ("data_offsets", [start, end + step]),
        ("data_offsets", [start + step, end]), ("data_offsets", [end, start]), ("data_offsets", [start]),
        ("data_offsets", [-step, end]), ("data_offsets", [0, end - start] if start else [end, 2 * end]),
        ("shape", [*entry["shape"], 2]), ("shape", [entry["shape"][0] + 1, *entry["shape"][1:]]),
        ("shape", [2**40, 2**40]),
        ("shape", [-entry["shape"][0], -1]), ("dtype", random.choice(["I32", "F16", "BOOL", "F99", "f32", "F8_E4M3"])),
        (random.choice(["dtype", "shape", "data_offsets"]), random.choice([each for each in JUNK if each != "\ud800"])),
    ])  # fmt: skip
    if random.random() < 0.1:
        del entry[field]
        value = "gone"
    else:
        entry[field] = value
    write_header(folder, json.dumps(header).encode())
    return f"{field} of {name} is {value}"


def entry_is_junk(folder: Path, random: Random) -> str:
    """A value of any type in place of a tensor's entry, of the whole header, or of what is said beside the tensors."""
    header = json.loads(parts(folder)[1])
    value = random.choice([each for each in JUNK if each not in ("\ud800", {})])
    where = random.choice([*header, "__metadata__", ""])
    if where == "__metadata__" and value is None:
        value = 7
    text = json.dumps({**header, where: value} if where else value)
    write_header(folder, text.encode())
    return f"{where or 'header'} is {value}"


def twice(folder: Path, random: Random) -> str:
    """A name stands twice in the header, with the same entry or another's."""
    header = json.loads(parts(folder)[1])
    name, other = random.sample([each for each in header if each != "__metadata__"], 2)
    again = json.dumps({name: header[random.choice([name, other])]})[1:-1]
    write_header(folder, json.dumps(header).encode()[:-1] + f", {again}}}".encode())
    return f"{name} stands twice"


def another_encoding(folder: Path, random: Random) -> str:
    """The header in another encoding, or behind something."""
    text = parts(folder)[1].decode()
    encoding = random.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7-like", "latin-1-like"])
    if encoding == "utf-7-like":
        write_header(folder, b"+" + text.encode())
    elif encoding == "latin-1-like":
        write_header(folder, text.replace("weight", "w\xe9ight").encode("latin-1"))
    else:
        write_header(folder, text.encode(encoding))
    return f"header in {encoding}"


def another_length(folder: Path, random: Random) -> str:
    """The length of the header is another."""
    _, text, data = parts(folder)
    said = random.choice([0, 1, len(text) - 1, len(text) + 1, len(text) + len(data) + 1, 2**31, 2**63, 2**64 - 1])
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", said) + text + data)
    return f"header of {said} bytes"


def another_file(folder: Path, random: Random) -> str:
    """What stands there instead of weights where a download went wrong."""
    data = random.choice([
        b"", b"<!DOCTYPE html><html><body>404</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        bytes(4096), b"{}", b"PK\x03\x04" + bytes(64), struct.pack("<Q", 2) + b"{}", random.randbytes(5000),
    ])  # fmt: skip
    (folder / WEIGHTS).write_bytes(data)
    return f"{data[:20]!r} instead"


# -- tensors and their values ---------------------------------------------------------------------


def value_changed(folder: Path, random: Random) -> str:
    """A number that is none, or a tensor of zeros."""
    state = content(folder / WEIGHTS)
    assert state is not None
    name = random.choice([each for each in sorted(state) if state[each].is_floating_point()])
    value = random.choice([float("nan"), float("inf"), float("-inf"), 0.0])
    if value == 0.0:
        state[name].zero_()
    else:
        state[name].view(-1)[random.randrange(state[name].numel())] = value
    save_file(state, folder / WEIGHTS)
    return f"{value} in {name}"


def tensors_changed(folder: Path, random: Random) -> str:
    """One is missing, too many, of another shape, of a dtype that no weight has, or has another's name."""
    state = content(folder / WEIGHTS)
    assert state is not None
    name, other = random.sample(sorted(state), 2)
    how = random.choice(["missing", "more", "shape", "int32", "bool", "int16", "int64", "named"])
    if how == "missing":
        del state[name]
    elif how == "more":
        state[random.choice([f"{name}.scale", f"{name}2", "x\ny", "\u202e", ""])] = torch.ones(3)
    elif how == "shape":
        state[name] = state[name][: len(state[name]) // 2].clone()
    elif how == "named":
        state[f"{name}.{other}"] = state.pop(name)
    else:
        state[name] = state[name].to(getattr(torch, how))
    save_file(state, folder / WEIGHTS)
    return f"{name}: {how}"


# -- JSON beside the weights ------------------------------------------------------------------------


def json_changed(folder: Path, random: Random, name: str, paths: list[tuple[str, ...]]) -> str:
    """A value that no size has at one of `paths`; or a value too many."""
    stored = json.loads((folder / name).read_text())
    path = random.choice(paths)
    at = stored
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = random.choice(JUNK)
    said = f"{path} is {at[path[-1]]!r}"
    (folder / name).write_text(json.dumps(stored))
    return said


def json_broken(folder: Path, random: Random, name: str = "config.json") -> str:
    """Text that is no JSON, or JSON that is no object."""
    text = (folder / name).read_text()
    data = random.choice([
        text[: random.randrange(1, len(text) - 2)].encode(), b"", b"[]", b"7", b"null", b'"x"', b"{", b"[" * 100_000,
        b"\xff\xfe{}", text.encode("utf-16"), b"{}", b"[" + text.encode() + b"]",
    ])  # fmt: skip
    (folder / name).write_bytes(data)
    return f"{name} is {data[:20]!r}"


# -- what torch.save writes -------------------------------------------------------------------------


class _Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def pickle_broken(folder: Path, random: Random) -> str:
    """Calls, things that are no tensors by name, tensors that are none of a model, and archives of another kind."""
    path = folder / "ckpt.pt"
    state = content(path)
    assert state is not None
    name = random.choice(sorted(state))
    tensor = state[name]
    ways: dict[str, Callable[[], Any]] = {
        "runs a command": lambda: {**state, "x": _Calls(os.system, f"touch {folder / 'ran'}")},
        "evaluates": lambda: {**state, "x": _Calls(eval, f"open({str(folder / 'ran')!r}, 'w')")},
        "fills the memory": lambda: {**state, "x": _Calls(bytearray, 2**44)},
        "imports": lambda: {**state, "x": _Calls(__import__, "antigravity")},
        "names that are numbers": lambda: dict(enumerate(state.values())),
        "a name that is a number": lambda: {**state, 1: tensor},
        "a list": lambda: list(state.values()),
        "nothing": lambda: None,
        "no tensors": lambda: {"a": 1},
        "sparse": lambda: {**state, name: tensor.to_sparse()},
        "quantised": lambda: {**state, name: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)},
        "complex": lambda: {**state, name: tensor.to(torch.complex64)},
        "whole numbers": lambda: {**state, name: tensor.to(torch.int64)},
        "one number for all": lambda: {**state, name: tensor.view(-1)[:1].clone().expand(tensor.shape)},
        "missing": lambda: {key: value for key, value in state.items() if key != name},
        "not a number": lambda: {**state, name: tensor * float("nan")},
        "zero": lambda: {**state, name: tensor * 0},
    }
    how = random.choice([*ways, "compressed", "twice", "old", "pickle", "a zip"])
    if how in ways:
        torch.save(ways[how](), path, pickle_protocol=2)
    elif how == "old":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({key: value.tolist() for key, value in state.items()}))
    else:
        data = path.read_bytes()
        packed = zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", packed) as new:
            records = old.infolist() if how != "a zip" else []
            for info in records:
                new.writestr(info.filename, old.read(info.filename))
            if how == "twice":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    new.writestr(random.choice(records).filename, bytes(16))
    return how
