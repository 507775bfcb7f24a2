"""VoxPopuli: `raw_audios/LANG/YEAR/SESSION_LANG.ogg` (or `SESSION_original.ogg`) and `asr_LANG.tsv.gz`.

In spite of its name the table's cells are separated by `|`: session_id, id_, paragraph_id, start_time, end_time,
speaker_id, gender, split, original_text, normed_text. A paragraph of a session is a conversation: one speech, cut out
of its recording. The text with punctuation (original_text) is taken where there is one. Lines of other splits than
train, dev and test are left out. Licence: CC0-1.0. (Wang et al. 2021, https://arxiv.org/abs/2101.00390)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from csm_components.ingest.readers.record import (
    BadRecord,
    CorpusReader,
    Found,
    SoundIndex,
    TurnRecord,
    corpus_of,
    number,
    relative,
)
from csm_components.ingest.readers.texts import first_line, read_table
from csm_components.ingest.records import Split

_SPLITS: dict[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_COLUMNS = {"session_id", "id_", "start_time", "end_time", "speaker_id", "split"}


def _tables(folder: Path) -> list[Path]:
    found = [*folder.rglob("asr_*.tsv"), *folder.rglob("asr_*.tsv.gz")]
    return sorted(path for path in found if set(first_line(path).split("|")) >= _COLUMNS)


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a table of transcribed sessions."""
    return bool(_tables(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line of the tables."""
    index = SoundIndex(sounds)
    for table in _tables(folder):
        language = re.sub(r"\.tsv(\.gz)?$", "", table.name).removeprefix("asr_")
        for row in read_table(table, "|", quoted=False):
            source = relative(table, folder, row.number)
            if row.problem:
                yield BadRecord(source=source, reason=row.reason, detail=row.problem)
                continue
            cells = row.cells
            session, text = cells["session_id"], cells.get("original_text") or cells.get("normed_text") or ""
            if cells["split"] not in _SPLITS:
                detail = f"its split {cells['split']!r} is none of train, dev and test"
                yield BadRecord(source=source, reason="damaged record", detail=detail, id=cells["id_"], text=text)
                continue
            speaker = cells["speaker_id"]
            yield TurnRecord(
                id=f"{session}-{cells['id_']}",
                conversation=f"{session}-{cells.get('paragraph_id') or cells['id_']}",
                sound=index.stem(f"{session}_{language}")
                or index.stem(f"{session}_original")
                or f"raw_audios/{language}/{session[:4]}/{session}_{language}.ogg",
                text=text,
                speaker=f"{session}-unknown" if speaker in ("", "None", "0") else speaker,
                source=source,
                start=number(cells["start_time"]),
                end=number(cells["end_time"]),
                language=language,
                license="CC0-1.0",
                split=_SPLITS[cells["split"]],
            )


READER = CorpusReader(
    name="voxpopuli",
    title="VoxPopuli",
    license="CC0-1.0",
    layout="raw_audios/LANG/YEAR/SESSION_LANG.ogg, asr_LANG.tsv.gz",
    gives="text, speaker, times, language, splits",
    reference="https://arxiv.org/abs/2101.00390",
    detect=detect,
    read=corpus_of("voxpopuli", records, whole=False),
)
