"""What is wrong with a run is said before its first step, in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csm_components.tokenise.tokenizer import given_tokenizer, made_by_path
from csm_model.errors import InputError
from csm_model.files import read_json
from csm_model.manifest import read_manifest
from csm_model.training.replay import check_replay
from csm_pipelines.config import RunConfig
from csm_pipelines.presets import resolve
from csm_serving.client.dialogue import read_dialogue

RANDOM_CODEC = "random"
_FILES = (("corpus", None), ("codec", "codec.json"), ("base", "manifest.json"), ("replay", "manifest.json"))
"""The folders that a configuration names, each with the file that makes it what it should be."""


def check_config(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths, after checking that the folders which it names are there.

    Addresses of the storage stay as they are: whoever reads them says whether they are there.

    Raises:
        InputError: no such corpus, codec, base, replay or tokenizer, another tokenizer than the base's, or a dialogue
            of another form.
        ArtifactError: a replay of another codec or tokenizer.
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
    for name, file in _FILES:
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
    if "replay" in found and "://" not in found["replay"]:
        check_replay(found["replay"], read_json(Path(found["replay"]) / "manifest.json"), _its_codec(found))
    return found


def _its_codec(found: Mapping[str, str]) -> dict[str, str]:
    """Digests of the codec and of the tokenizer that a run's tokens will have, as far as they are known here."""
    known: dict[str, str | None] = {}
    if "codec" in found and "://" not in found["codec"]:
        known["codec_digest"] = read_json(Path(found["codec"]) / "codec.json").get("digest")
    if "base" in found and "://" not in found["base"]:
        known["tokenizer_digest"] = read_manifest(Path(found["base"]), verify=False).get("tokenizer_digest")
    return {name: digest for name, digest in known.items() if digest}


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
