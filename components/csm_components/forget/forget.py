"""Forgetting, from end to end: the blocklist first, then the models are told, then what holds a record goes.

Killed at any moment and started again, it goes on: nothing is taken back, and what shows where else to look goes last.
A model cannot forget: the versions that have heard a record are named and marked, and stay until they are replaced.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csm_components.forget.shelves import RunsShelf, Shelf, StorageShelf, storage_shelf
from csm_components.forget.traces import Traces, found_kinds, holds
from csm_components.forget.units import Unit, doomed, units_of_runs, units_of_storage
from csm_components.ingest.blocklist import (
    KINDS,
    Blocked,
    Blocklist,
    Kind,
    add_here,
    add_to_storage,
    blocklist_here,
)
from csm_components.ingest.layouts import is_sound, read_corpus
from csm_components.lifeline import sole_user
from csm_components.storage import Storage
from csm_components.tracking import HeardVersion, Tracker
from csm_model.errors import CsmError, InputError, quoted
from csm_model.files import digest_of


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What went, or would go, of one place."""

    place: str
    files: int
    bytes: int
    """As far as they are known without fetching them."""


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What came of it; JSON-able."""

    names: list[dict[str, str]]
    """Who and what is on the blocklist now."""
    dry_run: bool
    conversations: int
    """That held a record, over all copies of them."""
    datasets: list[str]
    """Digests of those that held one."""
    removed: list[Removed]
    versions: list[HeardVersion]
    """Registered versions that have heard a record, and still have."""
    bundles: list[str]
    """Trained bundles of this machine's runs that have, registered or not."""
    yours: list[str]
    """Corpora that hold one and are no copies: theirs is to be taken out by whoever keeps them."""

    @property
    def bytes(self) -> int:
        """Freed."""
        return sum(row.bytes for row in self.removed)

    def lines(self) -> Iterator[str]:
        """For people."""
        would = "would be " if self.dry_run else ""
        for name in self.names:
            yield f"{name['kind']} {name['value']}: {would or 'is '}on the blocklist{'' if self.dry_run else ' now'}"
        for row in self.removed:
            yield f"{would}removed: {row.place}, {row.files} files, {row.bytes / 1e6:.1f} MB"
        yield f"{self.conversations} conversations held a record; {would}freed: {self.bytes / 1e6:.1f} MB"
        for place in self.yours:
            yield f"a corpus of yours holds it, take it out there: {place}"
        for version in self.versions:
            aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
            yield f"has heard it, and cannot forget: version {version.version} of {version.model}{aliases}"
        for place in self.bundles:
            yield f"has heard it, and cannot forget: {place}"
        if self.versions or self.bundles:
            yield "to replace them, run the same csm run or csm submit again: it trains without the record"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "bytes": self.bytes}


@dataclass(kw_only=True)
class _Search:
    """What is looked for, and what was found."""

    rows: Blocklist
    units: list[Unit]
    traces: Traces = field(default_factory=Traces)
    held: int = 0


def forget(
    value: str,
    *,
    kind: Kind | None = None,
    runs: Path | None = None,
    storage: Storage | None = None,
    address: str = "",
    tracker: Tracker | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Forgotten:
    """Forgets a speaker, a recording or an address.

    Args:
        value: the speaker as the corpus calls them, the recording's path or conversation, or the address.
        kind: which of these it is; without it, what it is found to be.
        runs: folder of this machine's runs; none has none.
        storage: of a cluster; none has none.
        address: of the storage, for people.
        tracker: where models are registered; none has none.
        dry_run: only say what would be done.
        now: when it is asked for; the clock's without it.

    Raises:
        InputError: nothing is known by this name, or it is known as several things.
        MissingDependencyError: a run is at work, or a server does not answer.
    """
    at = now or datetime.now(UTC)
    with ExitStack() as stack:
        shelves: list[Shelf] = []
        if runs is not None and runs.is_dir():
            shelves.append(RunsShelf(runs))
            for folder in [path for path in runs.iterdir() if path.is_dir() and (path / "config.json").is_file()]:
                if not dry_run and not folder.is_symlink():
                    stack.enter_context(sole_user(folder))
        if storage is not None:
            shelves.append(stack.enter_context(storage_shelf(storage, address)))
        units = [unit for shelf in shelves for unit in _units(shelf)]
        blocked = {Blocked(kind=kind, value=value)} if kind else _named(value, units, runs, storage)
        if not dry_run:
            if runs is not None:
                add_here(runs, blocked, at.isoformat(timespec="seconds"))
            if storage is not None:
                add_to_storage(storage, blocked, at.isoformat(timespec="seconds"))
        search = _Search(rows=Blocklist(frozenset(blocked)), units=units)
        _trace(search)
        bundles, digests = _bundles(search)
        mark = f"forgotten.{digest_of(sorted([row.kind, row.value] for row in blocked))[:12]}"
        versions: list[HeardVersion] = []
        if tracker is not None:
            versions = tracker.heard(search.traces.datasets, search.traces.tokens, digests, mark)
            if not dry_run:
                tracker.mark_heard(versions, mark, at.date().isoformat())
                tracker.remove_artifacts(search.traces.datasets, search.traces.in_file)
        removed, yours = _remove(search, dry_run=dry_run)
        return Forgotten(
            names=[{"kind": row.kind, "value": row.value} for row in sorted(blocked)],
            dry_run=dry_run,
            conversations=search.held,
            datasets=sorted(search.traces.datasets),
            removed=removed,
            versions=versions,
            bundles=bundles,
            yours=yours,
        )


def _units(shelf: Shelf) -> list[Unit]:
    if isinstance(shelf, RunsShelf):
        return units_of_runs(shelf)
    assert isinstance(shelf, StorageShelf)
    return units_of_storage(shelf)


def _named(value: str, units: Sequence[Unit], runs: Path | None, storage: Storage | None) -> set[Blocked]:
    """What a name is known as: to conversations, or to a blocklist from before."""
    known = Blocklist() if runs is None else blocklist_here(runs)
    if storage is not None:
        known |= Blocklist.of_storage(storage)
    found = {row for row in known.rows if row.value == value}
    if "://" in value:
        return {Blocked(kind="url", value=value)}
    for unit in (unit for unit in units if unit.sort == "conversations"):
        for part in unit.parts().values():
            found |= found_kinds(part, value)
    for unit in (unit for unit in units if unit.sort in ("copy", "yours") and not found):
        found |= {row for row in _corpus_names(unit) if row.value == value}
    if len(found) == 1:
        return found
    choices = ", ".join(KINDS)
    if not found:
        raise InputError(
            f"{quoted(value)}: nothing here is of a speaker, a recording or an address of this name; to block it all "
            f"the same, say what it is with --kind, one of {choices}"
        )
    several = " and ".join(sorted(row.kind for row in found))
    raise InputError(f"{quoted(value)}: is known as {several}; say which with --kind, one of {choices}")


def _trace(search: _Search) -> None:
    """Finds what the records have left: in conversations, then in the tokens made of them."""
    for unit in search.units:
        if unit.sort != "conversations":
            continue
        parts = [part for part in unit.parts().values() if holds(part, search.rows)]
        for part in parts:
            search.traces.add_part(part, search.rows)
        search.held += len(parts)
        if parts and (digest := _digest_of_conversations(unit, search.units)):
            search.traces.datasets |= digest
    for unit in search.units:
        manifest = unit.read("manifest.json") if unit.sort == "made" else None
        if isinstance(manifest, dict) and manifest.get("dataset_digest") in search.traces.datasets:
            search.traces.tokens.add(str(manifest["digest"]))


def _digest_of_conversations(unit: Unit, units: Sequence[Unit]) -> set[str]:
    """Digests of the data sets that a unit is, or was: its own, its name's, and that of the tokens beside it."""
    found = {str((unit.read("manifest.json") or {}).get("digest", ""))}
    run, _, name = unit.name.rpartition("/")
    if run == "conversations":
        found.add(name)
    elif name == "ingest":
        beside = next((each for each in units if each.shelf is unit.shelf and each.name == f"{run}/tokens"), None)
        found.add(str((beside.read("manifest.json") or {}).get("dataset_digest", "")) if beside else "")
    return found - {""}


def _bundles(search: _Search) -> tuple[list[str], set[str]]:
    """Bundles that were trained on the data sets, here and in the storage: where they are, and their digests."""
    places, digests = [], set()
    for unit in (unit for unit in search.units if unit.sort == "models"):
        for key in unit.keys:
            if not key.endswith("manifest.json"):
                continue
            manifest = _json(unit, key)
            heard = {manifest.get("dataset_digest"), manifest.get("replay_digest"), manifest.get("tokens_digest")}
            if heard & (search.traces.datasets | search.traces.tokens):
                places.append(f"{unit.shelf.name}/{key.rpartition('/')[0]}")
                digests.add(str(manifest["digest"]))
    return sorted(places), digests


def _json(unit: Unit, key: str) -> dict[str, Any]:
    from csm_model.files import known_json

    try:
        found = known_json(unit.shelf.open(key))
    except CsmError:
        return {}
    return found if isinstance(found, dict) else {}


def _remove(search: _Search, *, dry_run: bool) -> tuple[list[Removed], list[str]]:
    """Takes away what holds a record: all that was made of conversations first, conversations last."""
    removed: list[Removed] = []
    yours: list[str] = []
    last: list[tuple[Unit, list[str]]] = []
    for unit in sorted(search.units, key=lambda unit: unit.sort == "conversations"):
        first, after = doomed(unit, search.rows, search.traces)
        if unit.sort in ("copy", "yours") and not first and _corpus_holds(unit, search.rows):
            first = list(unit.keys)
        if unit.sort == "yours":
            yours += [f"{unit.shelf.name.rstrip('/')}/{unit.name}"] * bool(first)
            continue
        if first or after:
            place = f"{unit.shelf.name.rstrip('/')}/{unit.name}"
            keys = [*first, *after]
            removed.append(Removed(place=place, files=len(keys), bytes=unit.size(keys)))
            last.append((unit, after))
            if not dry_run:
                unit.shelf.remove(first)
    for unit, after in last:
        if not dry_run:
            unit.shelf.remove(after)
    return sorted(removed, key=lambda row: row.place), yours


def _corpus_holds(unit: Unit, rows: Blocklist) -> bool:
    """Whether a tree is a corpus with any of these names in it."""
    return any(row in rows.rows for row in _corpus_names(unit))


def _corpus_names(unit: Unit) -> Iterator[Blocked]:
    """Everybody and everything in a tree that is a corpus."""
    inside = [unit.inner(key) for key in unit.keys]
    sounds = [name for name in inside if is_sound(name) or name.endswith((".tar", ".tar.gz"))]
    if not sounds:
        return
    with tempfile.TemporaryDirectory(prefix="csm-corpus-") as scratch:
        folder = Path(scratch)
        try:
            for key, name in zip(unit.keys, inside, strict=True):
                if name not in sounds:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).symlink_to(unit.shelf.open(key).absolute())
            corpus = read_corpus(folder, sorted(sounds))
        except CsmError:
            return
    for source in corpus.conversations:
        yield Blocked(kind="recording", value=source.id)
        for turn in source.turns:
            yield Blocked(kind="recording", value=turn.audio)
            names = (turn.speaker, turn.voice, corpus.speaker_names.get(turn.speaker))
            yield from (Blocked(kind="speaker", value=name) for name in names if name)
            if turn.rights and turn.rights.url:
                yield Blocked(kind="url", value=turn.rights.url)
