"""The files of a checkpoint, and every tensor in them."""

from __future__ import annotations

import re
from pathlib import Path

from csm_model.errors import ArtifactError, InputError, quoted, shown
from csm_model.files import read_json
from csm_model.tensor_files import Stored, stored_tensors

_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "transformers.safetensors.index.json",
    "ckpt.pt",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def find_files(path: Path) -> list[Path]:
    """The files of a checkpoint: of a folder, of an index of shards, or the one file that `path` is.

    Raises:
        InputError: there is none.
        ArtifactError: an index names a file that is not there.
    """
    if path.is_dir():
        single = sorted(path.glob("*.safetensors"))
        found = [path / name for name in _NAMES if (path / name).is_file()] or (single if len(single) == 1 else [])
        if not found:
            raise InputError(f"{path}: no weights there; looked for {', '.join(_NAMES)}")
        return find_files(found[0])
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; give a checkpoint's folder, its file, or its index.json")
    if not path.name.endswith(".index.json"):
        return [path]
    return _shards(path)


def _shards(path: Path) -> list[Path]:
    """The shards of an index, each with the tensors that the index has in it."""
    index = read_json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise ArtifactError(f"{path}: no weight_map in it; an index names the shard of every tensor")
    for tensor, name in places.items():
        if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
            raise ArtifactError(
                f"{path}: weight_map has {quoted(name)} for {shown(tensor)}; it must be a file of its folder"
            )
    shards = {name: path.parent / name for name in sorted(set(places.values()))}
    for shard in shards.values():
        if not shard.is_file():
            raise ArtifactError(f"{shard}: named by {path.name} but missing; fetch or copy the checkpoint again")
    there = {name: stored_tensors(shard) for name, shard in shards.items()}
    for tensor, name in places.items():
        if tensor not in there[name]:
            raise ArtifactError(
                f"{shards[name]}: has no tensor {shown(tensor)}, which {path.name} has in it; "
                "fetch or copy the checkpoint again"
            )
    return list(shards.values())


def read_tensors(files: list[Path]) -> dict[str, Stored]:
    """Every tensor of the files by its name there, without what wrappers put in front (`module.`)."""
    found: dict[str, Stored] = {}
    for path in files:
        for stored_name, stored in stored_tensors(path).items():
            name = _PREFIXES.sub("", stored_name)
            if name in found:
                raise ArtifactError(
                    f"{path}: tensor {shown(name)} is in {found[name].path.name} too; remove one of the two"
                )
            found[name] = stored
    return found
