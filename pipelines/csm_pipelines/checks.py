"""What is wrong with a run is said before its first step, in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from csm_components.tokenise.tokenizer import given_tokenizer, made_by_path
from csm_model.errors import InputError
from csm_pipelines.config import RunConfig
from csm_pipelines.presets import resolve
from csm_serving.client.dialogue import read_dialogue

RANDOM_CODEC = "random"


def check_config(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths, after checking that the folders which it names are there.

    Addresses of the storage stay as they are: whoever reads them says whether they are there.

    Raises:
        InputError: no such corpus, codec, base or tokenizer, another tokenizer than the base's, or a dialogue of
            another form.
    """
    return config.changed(data=_paths(config), release=_dialogue(config))


def _dialogue(config: RunConfig) -> dict[str, Any]:
    """The absolute path of the dialogue, which is read for the sake of what is wrong with it."""
    if config.release.dialogue is None:
        return {}
    path = resolve(config.release.dialogue).absolute()
    read_dialogue(path)
    return {"dialogue": str(path)}


def _paths(config: RunConfig) -> dict[str, Any]:
    """Absolute paths of what lies here; addresses of the storage as they are."""
    data = config.data
    found: dict[str, str] = {}
    for name, file in (("corpus", None), ("codec", "codec.json"), ("base", "manifest.json")):
        value = getattr(data, name)
        if value is None or (name == "codec" and value == RANDOM_CODEC):
            continue
        found[name] = value if _is_address(f"data.{name}", value) else str(_folder(name, value, file))
    if data.tokenizer and made_by_path(data.tokenizer):
        found["tokenizer"] = data.tokenizer
        if not _is_address("data.tokenizer", data.tokenizer):
            found["tokenizer"] = str(resolve(data.tokenizer).absolute())
    tokenizer, base = found.get("tokenizer", data.tokenizer), found.get("base")
    if not any("://" in value for value in (tokenizer or "", base or "")):
        given_tokenizer(tokenizer, data.prompt_format, Path(base) if base else None)
    return found


def _is_address(name: str, value: str) -> bool:
    """Whether a value names a tree of the storage."""
    if "://" not in value:
        return False
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^/\s]+)+/?", value):
        raise InputError(f"{name} {value!r}: an address is s3://bucket/prefix/key, of a tree in the storage")
    return True


def _folder(name: str, value: str, file: str | None) -> Path:
    """A folder that is there, with the file that makes it what it should be."""
    folder = resolve(value).absolute()
    if name == "corpus" and not folder.is_dir():
        what = "is not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{value}: {what}; a corpus is a folder of audio and text")
    if file is not None and not (folder / file).is_file():
        raise InputError(f"{value}: no {name} there (no {file}); name another with --set data.{name}=FOLDER")
    return folder
