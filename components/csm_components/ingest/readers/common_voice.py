"""Common Voice: `LANG/clips/*.mp3` and tab-separated tables beside the folder `clips`, of old releases and new.

`train.tsv`, `dev.tsv` and `test.tsv` give the splits; where there is no train.tsv (delta releases), `validated.tsv` is
read and gives none. Columns are found by the header: client_id, path, sentence and locale are in every release,
sentence_id, sentence_domain and variant in new ones. Quotes are text and need no partner. A clip is a conversation of
one sentence; client_id is the speaker. Other tables (`clip_durations.tsv`, `reported.tsv`, ...) are let be.
Licence: CC0-1.0. (Ardila et al. 2020, https://arxiv.org/abs/1912.06670)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import first_line, read_table
from csm_components.ingest.records import Split

_SPLITS: dict[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_COLUMNS = {"client_id", "path", "sentence"}


def _languages(folder: Path) -> list[Path]:
    """Folders with tables of clips."""
    found = {
        path.parent
        for pattern in ("*.tsv", "*/*.tsv", "*/*/*.tsv")
        for path in folder.glob(pattern)
        if path.stem in (*_SPLITS, "validated") and set(first_line(path).split("\t")) >= _COLUMNS
    }
    return sorted(found)


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a table with the columns of clips."""
    return bool(_languages(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each clip."""
    for here in _languages(folder):
        tables = [here / f"{name}.tsv" for name in _SPLITS]
        if not tables[0].is_file():
            tables = [here / "validated.tsv"]
        for table in tables:
            if table.is_file():
                yield from _clips(folder, table)


def _clips(folder: Path, table: Path) -> Found:
    for row in read_table(table, "\t", quoted=False):
        source = relative(table, folder, row.number)
        if row.problem:
            yield BadRecord(source=source, reason=row.reason, detail=row.problem)
            continue
        name = row.cells["path"]
        if not name:
            yield BadRecord(source=source, reason="damaged record", detail="names no clip")
            continue
        stem = name.rpartition(".")[0] or name
        yield TurnRecord(
            id=stem,
            conversation=stem,
            sound=relative(table.parent / "clips" / (name if "." in name else f"{name}.mp3"), folder),
            text=row.cells["sentence"],
            speaker=row.cells["client_id"],
            source=source,
            language=row.cells.get("locale") or table.parent.name,
            license="CC0-1.0",
            split=_SPLITS.get(table.stem),
        )


READER = CorpusReader(
    name="common-voice",
    title="Common Voice",
    license="CC0-1.0",
    layout="LANG/clips/*.mp3, LANG/{train,dev,test,validated}.tsv",
    gives="text, speaker, language, splits",
    reference="https://arxiv.org/abs/1912.06670",
    detect=detect,
    read=corpus_of("common-voice", records),
)
