"""What is never taken again: a list of speakers, recordings and addresses, one JSON line each.

```json
{"kind": "speaker", "value": "anna", "at": "2027-01-31T12:00:00+00:00"}
```

It lies beside the runs of this machine, `runs/blocklist.jsonl`, and in the storage of a cluster, `blocklist.jsonl`; a
policy may name one more. Every ingest looks at all of them. Lines are only ever added, in one step.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from csm_components.storage import Storage
from csm_model.errors import ArtifactError
from csm_model.files import digest_of, write_bytes

if TYPE_CHECKING:
    from csm_components.ingest.records import SourceTurn

BLOCKLIST = "blocklist.jsonl"
Kind = Literal["speaker", "recording", "url"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, order=True, kw_only=True)
class Blocked:
    """One that is never taken again."""

    kind: Kind
    value: str
    """A speaker as the corpus calls them, a recording by its path or conversation, or an address."""


@dataclass(frozen=True)
class Blocklist:
    """All that are never taken again."""

    rows: frozenset[Blocked] = frozenset()

    def __or__(self, other: Blocklist) -> Blocklist:
        return Blocklist(self.rows | other.rows)

    @property
    def digest(self) -> str:
        """Of what it blocks, whenever it was written."""
        return digest_of([[row.kind, row.value] for row in sorted(self.rows)])

    def finds(self, *, speakers: Iterable[str] = (), recordings: Iterable[str] = (), urls: Iterable[str] = ()) -> bool:
        """Whether any of these names is blocked."""
        named: tuple[tuple[Kind, Iterable[str]], ...] = (
            ("speaker", speakers),
            ("recording", recordings),
            ("url", urls),
        )
        return bool(self.rows) and any(
            Blocked(kind=kind, value=value) in self.rows for kind, values in named for value in values
        )

    def blocks(self, turn: SourceTurn, conversation: str, name: str | None = None) -> bool:
        """Whether a turn is of a speaker, a recording or an address that is blocked.

        Args:
            turn: the turn.
            conversation: id of its conversation.
            name: of its speaker, where the corpus has one.
        """
        return self.finds(
            speakers=[each for each in (turn.speaker, turn.voice, name) if each],
            recordings=[turn.audio, conversation],
            urls=[turn.rights.url] if turn.rights and turn.rights.url else [],
        )

    @classmethod
    def of_storage(cls, storage: Storage) -> Blocklist:
        """The one that lies in a storage; empty where none does."""
        return parse_blocklist(stored_lines(storage), f"{BLOCKLIST} of the storage")


def stored_lines(storage: Storage) -> str:
    """The text of a storage's blocklist; empty where there is none."""
    if not storage.exists(BLOCKLIST):
        return ""
    with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
        path = Path(scratch) / BLOCKLIST
        storage.get_file(BLOCKLIST, path)
        return path.read_text(encoding="utf-8")


def blocklist_here(runs: Path) -> Blocklist:
    """The blocklist beside this machine's runs; empty where there is none."""
    path = runs / BLOCKLIST
    return read_blocklist(path) if path.is_file() else Blocklist()


def read_blocklist(path: Path) -> Blocklist:
    """The blocklist in a file; raises `ArtifactError` with the line that is none."""
    return parse_blocklist(path.read_text(encoding="utf-8"), str(path))


def parse_blocklist(text: str, name: str) -> Blocklist:
    """The blocklist that a text is; a line that is none makes all of it unsafe, so it raises `ArtifactError`."""
    return Blocklist(frozenset(_rows(text, name)))


def _rows(text: str, name: str) -> Iterator[Blocked]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            kind, value = row["kind"], row["value"]
        except (ValueError, KeyError, TypeError):
            kind, value = None, None
        if kind not in KINDS or not isinstance(value, str) or not value:
            raise ArtifactError(
                f"{name}:{number}: no line of a blocklist: write "
                '{"kind": "speaker", "value": "anna"}, of the kind speaker, recording or url'
            )
        yield Blocked(kind=kind, value=value)


def with_rows(text: str, rows: Collection[Blocked], at: str, name: str) -> str:
    """A blocklist's text with rows that it does not have yet."""
    known = parse_blocklist(text, name).rows
    lines = [json.dumps({"kind": row.kind, "value": row.value, "at": at}, ensure_ascii=False) for row in sorted(rows)]
    new = [line for row, line in zip(sorted(rows), lines, strict=True) if row not in known]
    before = text if not text or text.endswith("\n") else f"{text}\n"
    return before + "".join(f"{line}\n" for line in new)


def add_here(runs: Path, rows: Collection[Blocked], at: str) -> None:
    """Adds to the blocklist beside this machine's runs, in one step."""
    path = runs / BLOCKLIST
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (now := with_rows(text, rows, at, str(path))) != text:
        write_bytes(path, now.encode())


def add_to_storage(storage: Storage, rows: Collection[Blocked], at: str) -> None:
    """Adds to the blocklist of a storage, in one step."""
    text = stored_lines(storage)
    now = with_rows(text, rows, at, f"{BLOCKLIST} of the storage")
    if now != text:
        with tempfile.TemporaryDirectory(prefix="csm-") as scratch:
            path = Path(scratch) / BLOCKLIST
            path.write_bytes(now.encode())
            storage.put_file(path, BLOCKLIST)
