"""Steps that are fanned out: which shard takes what, and what shards have made, kept in the storage by content.

A shard is named `00002-of-00008`; which items are its own follows from the name and their number alone. Tasks of a
Kubeflow loop share one cache key, so a shard looks up for itself whether another run has made it already.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from csm_components import made
from csm_components.settings import load_settings
from csm_components.storage import Storage, open_storage
from csm_components.tree_list import TREE
from csm_model.errors import InputError, NotFoundError
from csm_model.files import digest_of_file

_NAME = re.compile(r"(\d{5})-of-(\d{5})")
SHARDS = "shards"
"""Folder of the storage that keeps what shards have made."""
SHARD = "shard.json"
"""What of a shard its join needs to know."""
MOST = 99_999
"""Shards that names have room for."""


def shard_names(shards: int, items: int) -> list[str]:
    """Names of the shards of `items` items: `shards` of them, fewer where there are fewer items."""
    if not 1 <= shards <= MOST:
        raise InputError(f"{shards} shards: must be 1 to {MOST}")
    count = max(1, min(shards, items))
    return [f"{number:05}-of-{count:05}" for number in range(count)]


def shard_span(name: str, work: Sequence[int]) -> slice:
    """Which items in order are a shard's, so that all shards of a plan have about as much to do.

    Each takes what brings it nearest to an equal share of the work that is left, and at least one item. Items of equal
    work are divided into shards of one size, or that differ by one item.

    Args:
        name: of the shard.
        work: how much each item is, more than 0.

    Raises:
        InputError: the name is no shard's.
    """
    match = _NAME.fullmatch(name)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if number >= count:
        raise InputError(f"shard {name!r}: must be NUMBER-of-COUNT in five digits each, such as 00002-of-00008")
    done = [0, *accumulate(work)]
    start = end = 0
    for left in range(count, count - number - 1, -1):
        start = end
        most = max(len(work) - (left - 1), start)  # the others take at least one each
        share = done[start] * (left - 1) + done[-1]  # times `left`, so that it is a whole number
        end = min(bisect_right(done, share // left, lo=start) - 1, most)
        if end < most and done[end + 1] * left - share < share - done[end] * left:
            end += 1
        end = max(end, min(start + 1, most))
    return slice(start, end)


def shard_tree(step: str, key: str) -> str:
    """The tree of the storage that a shard is, by the key of all that it is made from."""
    return f"{SHARDS}/{step}/{key}"


class ShardStore:
    """Files of one shard in the storage, under the key of all that the shard is made from.

    Args:
        step: name of the step.
        key: digest of the shard's inputs.
        folder: where the shard is made; its files have the same names in the storage.
        storage: where to keep them; none keeps nothing, and then there is nothing to be found.
    """

    def __init__(self, step: str, key: str, folder: Path, storage: Storage | None) -> None:
        self._key = key
        self._prefix = shard_tree(step, key)
        self._folder = folder
        self._storage = storage

    def made(self) -> bool:
        """Whether the folder holds the shard already."""
        return made.committed(self._folder, self._key) is not None

    def fetch(self) -> bool:
        """Fetches the whole shard; False where no run has finished it, or where its files' age is up."""
        if self._storage is None or not self._storage.has_tree(self._prefix):
            return False
        try:
            self._storage.get_tree(self._prefix, self._folder)
        except NotFoundError:  # files go before their list, which was written last; without it the shard is kept anew
            self._storage.delete(f"{self._prefix}/{TREE}")
            return False
        return True

    def resume(self) -> None:
        """Fetches the files that a shard which was stopped has kept."""
        if self._storage is None:
            return
        for key in self._storage.list(f"{self._prefix}/"):
            path = self._folder / key.removeprefix(f"{self._prefix}/")
            self._storage.get_file(key, path)
            if self._storage.digest(key) != digest_of_file(path):
                path.unlink()

    def keep(self, *names: str) -> None:
        """Keeps files of the folder, in this order, for one that goes on where this one is stopped."""
        if self._storage is not None:
            for name in names:
                self._storage.put_file(self._folder / name, f"{self._prefix}/{name}")

    def commit(self) -> None:
        """Keeps the folder: from now on the shard is there whole."""
        if self._storage is not None:
            self._storage.put_tree(self._folder, self._prefix)


def shard_store(step: str, key: str, folder: Path) -> ShardStore:
    """The store of a shard in the storage of the settings, if there is one."""
    return ShardStore(step, key, folder, open_storage() if load_settings().storage else None)
