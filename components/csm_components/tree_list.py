"""The list of a tree: every file of a folder with its digest and size, as it stands in a storage beside the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from csm_model.errors import DigestError
from csm_model.files import digest_of, digest_of_file

TREE = ".tree.json"
"""Object that lists a tree's files; written last."""
MADE = "made.json"
"""Record of what a folder is and was made of (`csm_components.made`); no part of what it holds."""


def tree_of(folder: Path) -> dict[str, Any]:
    """Digest and size of every file under `folder`, in order; halves of files are not part of it."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": digest_of_file(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".partial") and path.name not in (TREE, MADE)
    }
    return {"format": 1, "digest": digest_of(files), "files": files}


def parse_tree(data: bytes, key: str) -> dict[str, Any]:
    """Reads a tree's list; raises `DigestError` when it is not whole, or names a file outside the tree."""
    try:
        tree: dict[str, Any] = json.loads(data)
        whole = tree["format"] == 1 and digest_of(tree["files"]) == tree["digest"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or any(".." in Path(name).parts or Path(name).is_absolute() for name in tree["files"]):
        raise DigestError(f"{key}/{TREE}: the tree's list is damaged; store the tree again")
    return tree
