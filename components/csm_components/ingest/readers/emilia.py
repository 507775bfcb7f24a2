"""Emilia, and corpora made by Emilia-Pipe: `EN/EN_B00000.jsonl`, its sound unpacked beside it or in `EN_B00000.tar.gz`.

A line has id, wav, text, duration, speaker and language; `wav` is relative to the folder of the `.jsonl`, or names the
member of the archive. Clips `..._W000000`, `..._W000001`, ... of one source `..._S00000` are a conversation, laid one
after another.
Licence: CC-BY-NC-4.0, but what a line's `license` names. (He et al. 2024, https://arxiv.org/abs/2407.05361)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from csm_components.ingest.archives import ARCHIVE_SUFFIXES, in_archive
from csm_components.ingest.readers.record import BadRecord, CorpusReader, Found, TurnRecord, corpus_of, relative
from csm_components.ingest.readers.texts import read_lines

_FIELDS = {"id", "wav", "text", "speaker"}
_LINES_LOOKED_AT = 20
"""Of a file, to know it: its first line may be the broken one."""


def _tables(folder: Path) -> list[Path]:
    found = []
    for pattern in ("*.jsonl", "*/*.jsonl", "*/*/*.jsonl"):
        for path in folder.glob(pattern):
            known = any(_is_clip(line.text) for line in islice(read_lines(path), _LINES_LOOKED_AT))
            found += [path] if known else []
    return sorted(found)


def _is_clip(text: str) -> bool:
    """Whether a line has Emilia's fields."""
    try:
        row = json.loads(text)
    except ValueError:
        return False
    return isinstance(row, dict) and row.keys() >= _FIELDS


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a `.jsonl` whose lines have Emilia's fields."""
    return bool(_tables(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line."""
    known = set(sounds)
    for table in _tables(folder):
        here = relative(table.parent, folder)
        beside = "" if here == "." else f"{here}/"
        archive = next((name for end in ARCHIVE_SUFFIXES if (name := f"{beside}{table.stem}{end}") in known), None)
        for line in read_lines(table):
            source = relative(table, folder, line.number)
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem)
                continue
            if not line.text.strip():
                continue
            try:
                row = json.loads(line.text)
                name, wav = str(row["id"]), str(row["wav"])
                sound = f"{beside}{wav}"
                whole = float(row.get("duration", math.inf))
                if not whole > 0:
                    raise ValueError(f"duration {whole:g}")
                yield TurnRecord(
                    id=name,
                    conversation=name.rpartition("_W")[0] or name,
                    sound=in_archive(archive, wav) if archive and sound not in known else sound,
                    text=str(row["text"]).strip(),
                    speaker=str(row["speaker"]),
                    source=source,
                    language=row.get("language"),
                    license=str(row.get("license") or "CC-BY-NC-4.0"),
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                detail = f"torn line: id, wav, text and speaker in JSON ({type(error).__name__}: {error})"
                yield BadRecord(source=source, reason="damaged record", detail=detail)


READER = CorpusReader(
    name="emilia",
    title="Emilia",
    license="CC-BY-NC-4.0",
    layout="LANG/LANG_B00000.jsonl, its sound beside it or in LANG_B00000.tar[.gz]",
    gives="text, speaker, language",
    reference="https://arxiv.org/abs/2407.05361",
    detect=detect,
    read=corpus_of("emilia", records),
)
