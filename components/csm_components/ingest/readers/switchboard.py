"""Switchboard-1 (LDC97S62): two-channel telephone calls, and the transcripts of Mississippi State (1998).

Sound `**/sw02001.sph` (sw, five digits); text `swb_ms98_transcriptions/20/2001/sw2001A-ms98-a-trans.text` (sw, four
digits), one file a side, lines `ID START END WORDS`. Side A is channel 0, B is channel 1. `call_con_tab.csv`
(`CALL, "SIDE", CALLER, ...`) gives the callers over calls; without it each side of each call is a speaker. Lines of
silence and noise alone are no turns; marks among words become words and tags (see `marks`). lhotse's recipe is not
used: it calls both sides A, and needs sph2pipe. Copies packed with shorten are refused by name when the sound is read.
Licence: LDC User Agreement. (Godfrey et al. 1992, https://catalog.ldc.upenn.edu/LDC97S62)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from csm_components.ingest.readers.marks import telephone
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
from csm_components.ingest.readers.texts import read_lines

LICENSE = "LicenseRef-LDC"
_NAME = re.compile(r"sw(\d{4})([AB])-ms98-a-trans\.text")


def _transcripts(folder: Path) -> list[tuple[str, str, Path]]:
    """Call, side and path of each transcript, in their order."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.rglob("sw*-ms98-a-trans.text"))
    return sorted((name.group(1), name.group(2), path) for name, path in found if name)


def _callers(folder: Path) -> dict[str, str]:
    """The caller of each side of each call (`2001A`), where the table is there."""
    callers = {}
    for path in sorted(folder.rglob("call_con_tab.csv")):
        for line in read_lines(path):
            cells = [cell.strip(' "') for cell in line.text.split(",")]
            if len(cells) >= 3 and cells[0].isdecimal() and cells[1] in ("A", "B"):
                callers[cells[0] + cells[1]] = cells[2]
    return callers


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there are transcripts with Switchboard's names."""
    return bool(_transcripts(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line with words."""
    index, callers = SoundIndex(sounds), _callers(folder)
    for call, side, path in _transcripts(folder):
        for line in read_lines(path):
            source = relative(path, folder, line.number)
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem, conversation=f"sw{call}")
                continue
            cells = line.text.split(maxsplit=3)
            if not cells:
                continue
            if len(cells) < 4:
                yield BadRecord(
                    source=source,
                    reason="damaged record",
                    detail=f"torn line: {len(cells)} parts, a line is ID START END WORDS",
                    conversation=f"sw{call}",
                )
                continue
            text, tags = telephone(cells[3])
            if not text:
                continue
            yield TurnRecord(
                id=cells[0],
                conversation=f"sw{call}",
                sound=index.stem(f"sw0{call}") or f"sw0{call}.sph",
                text=text,
                speaker=callers.get(call + side, f"sw{call}{side}"),
                source=source,
                channel="AB".index(side),
                start=number(cells[1]),
                end=number(cells[2]),
                language="en",
                license=LICENSE,
                tags=tags,
            )


READER = CorpusReader(
    name="switchboard",
    title="Switchboard-1",
    license="LDC User Agreement",
    layout="**/sw02001.sph, swb_ms98_transcriptions/20/2001/sw2001A-ms98-a-trans.text",
    gives="text, caller over calls, channel, times, laughter as tags",
    reference="https://catalog.ldc.upenn.edu/LDC97S62",
    detect=detect,
    read=corpus_of("switchboard", records),
)
