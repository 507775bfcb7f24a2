"""YODAS: `data/en000/audio/00000000.tar.gz`, `data/en000/text/00000000.txt`.

A line of text is `VIDEO-NNNNN-START-END TEXT`, times in hundredths of a second; VIDEO may hold `-` itself. The sound of
a video is `VIDEO.wav` in the archive of the same number, or in a folder of that name where it was unpacked. A video is
a conversation; who speaks is not known, so its one speaker is called after it.
Licence: CC-BY-3.0. (Li et al. 2023, https://arxiv.org/abs/2406.00899)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from csm_components.ingest.archives import ARCHIVE_SUFFIXES, in_archive
from csm_components.ingest.readers.record import (
    BadRecord,
    CorpusReader,
    Found,
    SoundIndex,
    TurnRecord,
    corpus_of,
    relative,
)
from csm_components.ingest.readers.texts import read_lines

_LINE = re.compile(r"((.+)-\d+-(\d+)-(\d+))\s+(.*)")


def _texts(folder: Path) -> list[Path]:
    found = (path for pattern in ("text/*.txt", "*/text/*.txt", "*/*/text/*.txt") for path in folder.glob(pattern))
    return sorted(path for path in found if re.fullmatch(r"\d{8}", path.stem))


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there are texts called by eight digits in a folder `text`."""
    return bool(_texts(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line."""
    index, known = SoundIndex(sounds), set(sounds)
    for path in _texts(folder):
        audio = relative(path.parent.parent / "audio" / path.stem, folder)
        archive = next((audio + end for end in ARCHIVE_SUFFIXES if audio + end in known), None)
        for line in read_lines(path):
            source = relative(path, folder, line.number)
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem)
                continue
            if not line.text.strip():
                continue
            cells = _LINE.fullmatch(line.text.rstrip() + " ")
            if cells is None:
                detail = "torn line: a line is VIDEO-NNNNN-START-END TEXT"
                yield BadRecord(source=source, reason="damaged record", detail=detail)
                continue
            name, video, start, end, text = cells.groups()
            yield TurnRecord(
                id=name,
                conversation=video,
                sound=in_archive(archive, video) if archive else index.stem(video) or f"{audio}/{video}.wav",
                text=text.strip(),
                speaker=f"{video}-unknown",
                source=source,
                start=int(start) / 100,
                end=int(end) / 100,
                language=path.parent.parent.name.rstrip("0123456789") or None,
                license="CC-BY-3.0",
            )


READER = CorpusReader(
    name="yodas",
    title="YODAS",
    license="CC-BY-3.0",
    layout="data/LANG000/audio/00000000.tar.gz, data/LANG000/text/00000000.txt",
    gives="text, times, language; one speaker a video",
    reference="https://arxiv.org/abs/2406.00899",
    detect=detect,
    read=corpus_of("yodas", records),
)
