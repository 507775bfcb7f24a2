"""An artefact by its address: a folder here, or a tree of the storage of which a step fetches what it reads.

Between the steps of a cluster only addresses travel: an artefact of Kubeflow is one small file (`Artefact.save`), and
the bytes lie in the storage (`CSM_STORAGE`), under their digest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from csm_components.storage import open_tree
from csm_components.tree_list import tree_of
from csm_model.errors import ArtifactError
from csm_model.files import read_json, write_json

REST = ".artefact.json"
"""In a folder with a part of an artefact: where the rest lies."""
Wanted = Callable[[str], bool]
"""Whether a file of an artefact, by its relative path, is wanted."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """Where an artefact lies, and what it is."""

    url: str
    """A folder, or the address of a tree: s3://bucket/prefix/key."""
    digest: str = ""
    """Of its content; empty for a folder that nobody has looked into."""

    @property
    def stored(self) -> bool:
        """Whether it lies in a storage."""
        return "://" in self.url

    def identity(self) -> str:
        """Digest of its content, from the list of its tree where nobody has said it; empty where it is not known."""
        if self.digest:
            return self.digest
        if self.stored:
            storage, key = open_tree(self.url)
            return str(storage.read_tree(key)["digest"])
        folder = Path(self.url)
        return str(tree_of(folder)["digest"]) if folder.is_dir() else ""

    def fetch(self, folder: Path, wanted: Wanted | None = None) -> Path:
        """A folder with the artefact: its own, or `folder`, with all of the tree or the files that are wanted.

        Raises:
            NotFoundError: there is no such tree.
            DigestError: a file is not the one that the tree names.
        """
        if not self.stored:
            return Path(self.url)
        storage, key = open_tree(self.url)
        if wanted is None:
            storage.get_tree(key, folder)
        else:
            files = _files(self.url)
            storage.get_files(key, {name: row for name, row in files.items() if wanted(name)}, folder)
            self.save(folder / REST)
        return folder

    def save(self, path: Path) -> None:
        """Writes the address to a file."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Artefact:
        """Reads the address that a step has written; raises `ArtifactError` for anything else."""
        if not path.is_file():
            raise ArtifactError(f"{path}: holds no address of an artefact; run the step that makes it")
        return cls(**read_json(path))


def have(folder: Path, name: str) -> Path:
    """A file of an artefact: fetched now, where `folder` holds a part of the artefact and not yet this file."""
    path = folder / name
    if not path.exists() and (folder / REST).is_file():
        artefact = Artefact.load(folder / REST)
        storage, key = open_tree(artefact.url)
        if name in (files := _files(artefact.url)):
            storage.get_files(key, {name: files[name]}, folder)
    return path


@cache
def _files(url: str) -> Any:
    storage, key = open_tree(url)
    return storage.read_tree(key)["files"]
