"""Token shards: what tokenising writes and training reads.

A token folder holds `manifest.json` (written last), `tokenizer.json`, `codec/`, shards, and one index a split. A shard
is one safetensors file of turns laid end to end: `text` int32, `codes` int16 `[K, frames]`, and where each turn ends in
either; ids, splits and texts stand in its metadata. An index tells how long every turn of a split is, which is all that
is needed to plan an epoch: `rows` int32 and `conversations` int32 of each turn, `shard_ends` int64 and `shard_bytes`
int64 of each shard.

Shapes: K codebooks, T frames, L text ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import atomic_path, digest_of_file, read_json
from csm_model.training.packing import Lengths


@dataclass(frozen=True, kw_only=True)
class TokenTurn:
    """One turn of a conversation."""

    id: str
    conversation: str
    split: str
    speaker: int
    text: str
    text_ids: npt.NDArray[np.int32]
    """int32 `[L]`."""
    codes: npt.NDArray[np.int16]
    """int16 `[K, T]`."""
    tags: tuple[str, ...] = ()
    """What the corpus says of how it is spoken."""


def write_shard(path: Path, turns: list[TokenTurn]) -> dict[str, Any]:
    """Writes a shard in one step and returns its row for the manifest."""
    if not turns:
        raise InputError(f"{path}: a shard needs at least one turn")
    rows = [
        {"id": t.id, "conversation": t.conversation, "split": t.split, "speaker": t.speaker, "text": t.text}
        | ({"tags": list(t.tags)} if t.tags else {})
        for t in turns
    ]
    tensors: dict[str, npt.NDArray[Any]] = {
        "text": np.concatenate([turn.text_ids for turn in turns]).astype(np.int32),
        "codes": np.ascontiguousarray(np.concatenate([turn.codes for turn in turns], axis=1).astype(np.int16)),
        "text_ends": np.cumsum([len(turn.text_ids) for turn in turns]).astype(np.int64),
        "frame_ends": np.cumsum([turn.codes.shape[1] for turn in turns]).astype(np.int64),
    }
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"turns": json.dumps(rows)})
    return {
        "file": path.name,
        "sha256": digest_of_file(path),
        "turns": len(turns),
        "frames": int(tensors["frame_ends"][-1]),
        "text_ids": int(tensors["text_ends"][-1]),
    }


class Shard:
    """An open shard. It is memory-mapped: only the turns that are asked for are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file: Any = safe_open(path, framework="numpy")  # type: ignore[no-untyped-call]
            self._rows: list[dict[str, Any]] = json.loads(file.metadata()["turns"])
            self._text, self._codes = file.get_slice("text"), file.get_slice("codes")
            self._text_ends, self._frame_ends = (file.get_tensor(name) for name in ("text_ends", "frame_ends"))
            if not len(self._rows) == len(self._text_ends) == len(self._frame_ends):
                raise ValueError("its tables are not of one length")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: not a token shard ({error}); run tokenise again") from None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def turn_rows(self) -> npt.NDArray[np.int32]:
        """Rows of the model's input that each turn fills: its text, its frames and the one that ends its speech."""
        rows = np.diff(self._text_ends, prepend=0) + np.diff(self._frame_ends, prepend=0) + 1
        return rows.astype(np.int32)  # type: ignore[no-any-return]

    @property
    def conversations(self) -> list[str]:
        """The conversation of each turn."""
        return [row["conversation"] for row in self._rows]

    def turn(self, number: int) -> TokenTurn:
        """One turn, by its number in the shard."""
        text_start, frame_start = (
            int(ends[number - 1]) if number else 0 for ends in (self._text_ends, self._frame_ends)
        )
        row = self._rows[number]
        return TokenTurn(
            **{**row, "tags": tuple(row.get("tags", ()))},
            text_ids=self._text[text_start : int(self._text_ends[number])],
            codes=self._codes[:, frame_start : int(self._frame_ends[number])],
        )


def read_shard(path: Path) -> list[TokenTurn]:
    """Reads what `write_shard` wrote."""
    shard = Shard(path)
    return [shard.turn(number) for number in range(len(shard))]


@dataclass(frozen=True, kw_only=True)
class Index:
    """The turns of a split, shard after shard, without what they say."""

    lengths: Lengths
    shard_bytes: npt.NDArray[np.int64]
    """Size of each shard's file."""


def write_index(folder: Path, split: str, files: Sequence[str]) -> dict[str, Any]:
    """Writes the index of the shards `files` in one step, and returns its row for the manifest."""
    rows, numbers, count = [], [], 0
    for name in files:
        shard = Shard(folder / name)
        rows.append(shard.turn_rows)
        names = shard.conversations
        fresh = [index == 0 or each != names[index - 1] for index, each in enumerate(names)]
        numbers.append(count + np.cumsum(fresh, dtype=np.int32) - 1)
        count = int(numbers[-1][-1]) + 1
    tensors: dict[str, npt.NDArray[Any]] = {
        "rows": np.concatenate(rows),
        "conversations": np.concatenate(numbers).astype(np.int32),
        "shard_ends": np.cumsum([len(each) for each in rows], dtype=np.int64),
        "shard_bytes": np.array([(folder / name).stat().st_size for name in files], dtype=np.int64),
    }
    path = folder / f"{split}.index.safetensors"
    with atomic_path(path) as partial:
        save_file(tensors, partial)
    return {"file": path.name, "sha256": digest_of_file(path)}


def read_index(path: Path) -> Index:
    """Reads what `write_index` wrote."""
    try:
        tensors = load_file(path)
        lengths = Lengths(**{name: tensors[name] for name in ("rows", "conversations", "shard_ends")})
        return Index(lengths=lengths, shard_bytes=tensors["shard_bytes"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: not an index of token shards ({error}); run tokenise again") from None


def shards_of_split(manifest: dict[str, Any], split: str, where: object) -> list[dict[str, Any]]:
    """The manifest's rows of a split's shards; raises `InputError` where there is no such split."""
    rows: list[dict[str, Any]] | None = manifest["splits"].get(split)
    if rows is None:
        raise InputError(f"{where}: no split {split!r}; it has {', '.join(sorted(manifest['splits']))}")
    return rows


def check_digest(path: Path, sha256: str) -> None:
    """Raises `DigestError` unless the file is there and is the one that the manifest names."""
    if not path.is_file():
        raise DigestError(f"{path}: named by the manifest but missing; run tokenise again")
    if digest_of_file(path) != sha256:
        raise DigestError(f"{path}: its digest is not the one in the manifest; run tokenise again")


def load_tokens(folder: Path, split: str) -> list[TokenTurn]:
    """All turns of a split, in the order of the shards, after checking each shard's digest."""
    turns = []
    for row in shards_of_split(read_json(folder / "manifest.json"), split, folder):
        check_digest(folder / row["file"], row["sha256"])
        turns += read_shard(folder / row["file"])
    return turns
