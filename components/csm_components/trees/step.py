"""The steps keep and fetch: a bundle from a pipeline run into the storage, and from there into another run.

A kept bundle is the tree `trained/<digest>` of `CSM_STORAGE`; the digest is that of its manifest.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from csm_components.settings import load_settings
from csm_components.storage import open_storage, open_tree
from csm_model.bundle import read_manifest
from csm_model.files import atomic_folder

KEPT = "trained"
"""Where bundles are kept in the storage."""


@dataclass(frozen=True, kw_only=True)
class TreeResult:
    """A bundle in the storage."""

    url: str
    """Address of its tree."""
    digest: str
    """Digest of the bundle."""
    reused: bool
    """Whether it was there already."""


def keep(bundle: Path) -> TreeResult:
    """Puts a bundle into the storage, under its digest; what is there already is not sent again.

    Raises:
        InputError: the folder is not a bundle, or `CSM_STORAGE` names no storage.
    """
    digest = str(read_manifest(bundle)["digest"])
    storage, key = open_storage(), f"{KEPT}/{digest}"
    known = storage.has_tree(key)
    storage.put_tree(bundle, key)
    return TreeResult(url=f"{load_settings().storage.rstrip('/')}/{key}", digest=digest, reused=known)


def fetch(tree: str, out: Path) -> TreeResult:
    """Fetches a bundle into `out`.

    Args:
        tree: its address in the storage, or a folder.
        out: folder for it.

    Raises:
        InputError: there is no such tree, or it is not a bundle.
        DigestError: a file is not the one that the tree names.
    """
    if "://" in tree:
        storage, key = open_tree(tree)
        storage.get_tree(key, out)
    else:
        with atomic_folder(out) as partial:
            shutil.copytree(tree, partial, dirs_exist_ok=True)
    return TreeResult(url=tree, digest=str(read_manifest(out)["digest"]), reused=False)
