"""Token shards: what tokenising writes and training reads.

A token folder holds `manifest.json` (written last), `tokenizer.json`, `codec/`, and shards. A shard is one safetensors
file of turns laid end to end: `text` int32, `codes` int16 `[K, frames]`, and where each turn ends in either; ids,
splits and texts stand in its metadata.

Shapes: K codebooks, T frames, L text ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import atomic_path, digest_of_file, read_json


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


def read_shard(path: Path) -> list[TokenTurn]:
    """Reads what `write_shard` wrote."""
    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            rows = json.loads(file.metadata()["turns"])
            text, codes = file.get_tensor("text"), file.get_tensor("codes")
            text_ends, frame_ends = file.get_tensor("text_ends"), file.get_tensor("frame_ends")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a token shard ({error}); run tokenise again") from None
    turns = []
    text_start = frame_start = 0
    for row, text_end, frame_end in zip(rows, text_ends.tolist(), frame_ends.tolist(), strict=True):
        row["tags"] = tuple(row.get("tags", ()))
        turns.append(TokenTurn(**row, text_ids=text[text_start:text_end], codes=codes[:, frame_start:frame_end]))
        text_start, frame_start = text_end, frame_end
    return turns


def load_tokens(folder: Path, split: str) -> list[TokenTurn]:
    """All turns of a split, in the order of the shards, after checking each shard's digest."""
    manifest = read_json(folder / "manifest.json")
    if split not in manifest["splits"]:
        raise InputError(f"{folder}: no split {split!r}; it has {', '.join(sorted(manifest['splits']))}")
    turns = []
    for row in manifest["splits"][split]:
        path = folder / row["file"]
        if not path.is_file():
            raise DigestError(f"{path}: named by the manifest but missing; run tokenise again")
        if digest_of_file(path) != row["sha256"]:
            raise DigestError(f"{path}: its digest is not the one in the manifest; run tokenise again")
        turns += read_shard(path)
    return turns
