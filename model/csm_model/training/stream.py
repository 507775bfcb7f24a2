"""Token shards read as training goes on: from a folder, or from a storage through a local cache.

The index of a split is read at once: it is 8 bytes a turn, and all that planning needs. Shards are memory-mapped when a
turn of them is asked for, the last `open_shards` stay open, and a thread checks (and fetches) those that come next.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from csm_model.errors import ArtifactError, CsmError, InputError
from csm_model.files import copy_file, digest_of_file, read_json, write_json
from csm_model.training.cache import Fetch, FileCache
from csm_model.training.shards import Index, Shard, TokenTurn, check_digest, read_index, shards_of_split

_log = logging.getLogger(__name__)


class TokenFolder:
    """What tokenising wrote, where it was written.

    Args:
        folder: of the tokens.
    """

    def __init__(self, folder: Path) -> None:
        self.local = folder
        """Folder that holds `manifest.json`, `tokenizer.json`, `codec/` and the indexes."""
        self.manifest: dict[str, Any] = read_json(folder / "manifest.json")
        self._checked: set[str] = set()

    def index(self, split: str) -> Index:
        """The index of a split; raises `ArtifactError` where the tokens have none."""
        row = self.manifest.get("indexes", {}).get(split)
        if row is None:
            raise ArtifactError(f"{self.local}: has no index of split {split!r}; run tokenise again")
        check_digest(self.local / row["file"], row["sha256"])
        return read_index(self.local / row["file"])

    @contextmanager
    def shard(self, row: dict[str, Any]) -> Iterator[Path]:
        """The file of a shard, its digest checked; it stays there until the block ends."""
        path = self.local / row["file"]
        if row["sha256"] not in self._checked:
            check_digest(path, row["sha256"])
            self._checked.add(row["sha256"])
        yield path

    def check_room(self, needed: int) -> None:
        """Raises `InputError` where so many bytes of shards cannot be held."""


class RemoteTokens(TokenFolder):
    """What tokenising wrote, stored elsewhere; files come here as they are needed.

    Args:
        fetch: the storage of the token folder.
        cache: where shards are kept.
    """

    def __init__(self, fetch: Fetch, cache: FileCache) -> None:
        self._fetch, self._cache = fetch, cache
        with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
            listing = Path(scratch) / "manifest.json"
            fetch.get_file("manifest.json", listing)
            manifest = read_json(listing)
        if not isinstance(manifest, dict) or not {"digest", "files", "indexes"} <= manifest.keys():
            raise ArtifactError("manifest.json of the stored tokens names no files and no indexes; run tokenise again")
        local = cache.folder / f"tokens-{manifest['digest']}"
        rows = {row["file"]: row["sha256"] for row in manifest["indexes"].values()}
        for name, sha256 in {**manifest["files"], **rows}.items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ArtifactError(f"manifest.json of the stored tokens names {name!r}, which lies outside of them")
            target = local / name
            if not (target.is_file() and digest_of_file(target) == sha256):
                with cache.file(fetch, name, sha256) as path:
                    copy_file(path, target)
        write_json(local / "manifest.json", manifest)
        super().__init__(local)

    @contextmanager
    def shard(self, row: dict[str, Any]) -> Iterator[Path]:
        """See `TokenFolder.shard`."""
        with self._cache.file(self._fetch, row["file"], row["sha256"]) as path:
            yield path

    def check_room(self, needed: int) -> None:
        """See `TokenFolder.check_room`."""
        if needed > self._cache.limit:
            raise InputError(
                f"cache_gb {self._cache.limit / 1e9:g}: the shards that are read together, and those after them, take "
                f"up to {needed / 1e9:.3g} GB; make it larger, or shuffle_shards smaller"
            )


class StreamedTurns:
    """The turns of a split (a `csm_model.training.data.TokenSource`).

    Args:
        tokens: where they lie.
        split: which.
        open_shards: so many stay open.

    Raises:
        InputError: there is no such split, or a cache that holds too little.
        ArtifactError: what is stored is damaged.
    """

    def __init__(self, tokens: TokenFolder, split: str, *, open_shards: int) -> None:
        self._tokens = tokens
        self._rows = shards_of_split(tokens.manifest, split, tokens.local)
        index = tokens.index(split)
        self.lengths = index.lengths
        self._ends = index.lengths.shard_ends
        if len(self._ends) != len(self._rows):
            raise ArtifactError(f"{tokens.local}: the index of {split!r} is of other shards; run tokenise again")
        tokens.check_room(int(np.sort(index.shard_bytes)[-2 * open_shards :].sum()))
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._most = open_shards
        self._ahead = _Ahead(self._check)

    def turn(self, number: int) -> TokenTurn:
        """See `TokenSource`."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return self._shard(shard).turn(number - self._first(shard))

    def expect(self, shards: Sequence[int]) -> None:
        """See `TokenSource`."""
        self._ahead.want(shards)

    def _first(self, shard: int) -> int:
        """Number of a shard's first turn."""
        return int(self._ends[shard - 1]) if shard else 0

    def _shard(self, number: int) -> Shard:
        shard = self._open.pop(number, None)
        if shard is None:
            with self._tokens.shard(self._rows[number]) as path:
                shard = Shard(path)
            if len(shard) != self._ends[number] - self._first(number):
                raise ArtifactError(f"{shard.path}: does not hold the turns that the index names; run tokenise again")
        self._open[number] = shard
        if len(self._open) > self._most:
            self._open.popitem(last=False)
        return shard

    def _check(self, number: int) -> None:
        with self._tokens.shard(self._rows[number]):
            pass


class _Ahead:
    """Does what will be needed, in order, in a thread that lasts as long as there is something to do.

    It holds no process back that wants to end.
    """

    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._running = False

    def want(self, numbers: Sequence[int]) -> None:
        """What comes next; replaces what was wanted before."""
        with self._lock:
            self._wanted = list(numbers)
            if self._wanted and not self._running:
                self._running = True
                threading.Thread(target=self._run, name="shards-ahead", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._running = False
                    return
                number = self._wanted.pop(0)
            try:
                self._work(number)
            except CsmError as error:  # the reader meets it too, where it can be raised
                _log.debug("shard %d cannot be had ahead of time (%s)", number, error)


def open_tokens(
    tokens: str, *, fetch: Fetch | None = None, cache_dir: str | None = None, cache_gb: float = 0.0
) -> TokenFolder:
    """The tokens at a path, or at a URL of a storage.

    Args:
        tokens: folder or URL.
        fetch: opens the files of a URL.
        cache_dir: folder for what is fetched.
        cache_gb: gigabytes (of 10^9 bytes) that it may hold.

    Raises:
        InputError: nothing is there, or a URL without storage or cache.
        ArtifactError: what is there is damaged or of an older format.
    """
    if "://" not in tokens:
        return TokenFolder(Path(tokens))
    if fetch is None:
        raise InputError(f"tokens {tokens!r}: this entry knows no storage; start csm_components.train.worker")
    if cache_dir is None:
        raise InputError(f"tokens {tokens!r}: what is fetched needs a place; set cache_dir to a folder on a local disk")
    return RemoteTokens(fetch, FileCache(Path(cache_dir), limit=int(cache_gb * 1e9)))
