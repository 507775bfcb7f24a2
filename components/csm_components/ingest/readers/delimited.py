"""CSV and TSV: `*.csv` or `*.tsv` at the top of the folder, whose header has the names of the JSONL layout's fields.

`audio`, `text` and `speaker` are needed; `start`, `duration` (or `end`), `channel`, `conversation`, `id`, `license`,
`language`, `split`, `tags` (words, separated by spaces), `consent`, `expires`, `uses` and `url` may be there, in any
order; others are let be. Cells are separated by commas or semicolons (`.csv`) or tabs (`.tsv`), and may stand in double
quotes. An empty cell says nothing.
Licence: what a row or the corpus's LICENSE file names, or data.license.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, number, relative
from csm_components.ingest.readers.texts import first_line, read_table
from csm_components.ingest.rights import rights_of
from csm_components.ingest.splits import given_split
from csm_model.errors import InputError

_NEEDED = ("audio", "text", "speaker")


def _tables(folder: Path) -> Iterator[tuple[Path, str]]:
    """The tables at the top, and what separates their cells."""
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")]):
        header = first_line(path)
        delimiter = "\t" if path.suffix == ".tsv" else max(",;", key=header.count)
        if {cell.strip('" ') for cell in header.split(delimiter)} >= {"audio", "text"}:
            yield path, delimiter


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a table that names sound and text."""
    return next(_tables(folder), None) is not None


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each row."""
    counts: dict[str, int] = {}
    for path, delimiter in _tables(folder):
        for row in read_table(path, delimiter, quoted=True):
            source = relative(path, folder, row.number)
            if row.problem:
                yield BadRecord(source=source, reason=row.reason, detail=row.problem)
                continue
            cells = {name.strip(): cell.strip() for name, cell in row.cells.items() if cell.strip()}
            missing = [name for name in _NEEDED if name != "text" and name not in cells]
            try:
                if missing:
                    raise InputError(f"names no {' and no '.join(missing)}")
                conversation = cells.get("conversation") or str(PurePosixPath(cells["audio"]).with_suffix(""))
                counts[conversation] = counts.get(conversation, -1) + 1
                yield _record(cells, conversation, counts[conversation], source)
            except (InputError, ValueError) as error:
                yield BadRecord(
                    source=source,
                    reason="damaged record",
                    detail=str(error),
                    sound=cells.get("audio", ""),
                    text=cells.get("text", ""),
                )


def _record(cells: dict[str, str], conversation: str, count: int, source: str) -> TurnRecord:
    start = number(cells["start"]) if "start" in cells else None
    end = number(cells["end"]) if "end" in cells else None
    if "duration" in cells:
        end = (start or 0.0) + number(cells["duration"])
    channel = int(cells["channel"]) if "channel" in cells else None
    if channel is not None and channel < 0:
        raise InputError(f"channel {channel}: the first is 0")
    return TurnRecord(
        id=cells.get("id") or f"{conversation}-{count:03}",
        conversation=conversation,
        sound=cells["audio"],
        text=cells.get("text", ""),
        speaker=cells["speaker"],
        source=source,
        channel=channel,
        start=start,
        end=end,
        language=cells.get("language"),
        license=cells.get("license"),
        split=given_split(conversation, {cells.get("split")}),
        tags=tuple(dict.fromkeys(cells.get("tags", "").split())),
        rights=rights_of(cells, source),
    )


READER = CorpusReader(
    name="csv",
    title="CSV or TSV, one row a turn",
    license="as given",
    layout="*.csv or *.tsv at the top with columns audio, text, speaker",
    gives="whatever its columns name",
    reference="docs/data.md",
    detect=detect,
    read=corpus_of("csv", records, keep_speaker_numbers=True),
    rank="shape",
)
