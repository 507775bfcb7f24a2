"""Fisher English (LDC2004S13, LDC2005S13; texts LDC2004T19, LDC2005T19): 11,699 two-channel telephone calls.

Sound `**/fe_03_00001.sph`; text `data/trans/000/fe_03_00001.txt`: comments (`#`), then `START END A: WORDS` with blank
lines between. A is channel 0, B is channel 1. `bbn_orig/` has other forms of the same texts and is let be.
`fe_03_p1_calldata.tbl` (comma-separated) gives the speakers over calls, by PIN and audited sex: a PIN alone may be
several people. Marks among words become words and tags (see `marks`). Call 11487 has a time that is mended here; three
calls that Kaldi leaves out are left out. All sound is packed with shorten, and refused by name when it is read: unpack
it first (`sph2pipe -f wav`, same names). Licence: LDC User Agreement.
(Cieri et al. 2004, https://catalog.ldc.upenn.edu/LDC2004S13)
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
from csm_components.ingest.readers.switchboard import LICENSE
from csm_components.ingest.readers.texts import read_lines, read_table

_NAME = re.compile(r"fe_03_(\d{5})\.txt")
_LINE = re.compile(r"(\S+)\s+(\S+)\s+([AB])\d?:\s*(.*)")
_LEFT_OUT = frozenset({"01243", "06716", "00446"})
"""Calls whose sound and text do not belong together, as in Kaldi's recipe (egs/fisher_english)."""


def _transcripts(folder: Path) -> list[tuple[str, Path]]:
    found = ((_NAME.fullmatch(path.name), path) for path in folder.rglob("fe_03_*.txt"))
    return sorted((name.group(1), path) for name, path in found if name and path.parent.parent.name == "trans")


def _speakers(folder: Path) -> dict[str, str]:
    """The speaker of each side of each call (`00001A`), where the tables are there: PIN and sex."""
    speakers = {}
    for path in sorted(folder.rglob("fe_03_p*_calldata.tbl")):
        for row in read_table(path, ",", quoted=False):
            for side in "AB":
                pin, sex = row.cells.get(f"{side}PIN"), row.cells.get(f"{side}SX.DL", "")
                if pin:
                    speakers[row.cells["CALL_ID"].zfill(5) + side] = f"{pin}-{sex.partition('.')[0] or 'x'}"
    return speakers


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there are transcripts with Fisher's names."""
    return bool(_transcripts(folder))


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each line with words."""
    index, speakers = SoundIndex(sounds), _speakers(folder)
    for call, path in _transcripts(folder):
        name = f"fe_03_{call}"
        if call in _LEFT_OUT:
            detail = "sound and text of this call do not belong together, as Kaldi's recipe says"
            yield BadRecord(source=relative(path, folder), reason="damaged record", detail=detail, conversation=name)
            continue
        count = 0
        for line in read_lines(path):
            source = relative(path, folder, line.number)
            if not line.problem and (not line.text.strip() or line.text.startswith("#")):
                continue
            count += 1
            if line.problem:
                yield BadRecord(source=source, reason=line.reason, detail=line.problem, conversation=name)
                continue
            cells = _LINE.fullmatch(line.text.strip())
            if cells is None:
                yield BadRecord(
                    source=source,
                    reason="damaged record",
                    detail="torn line: a line is START END SIDE: WORDS",
                    conversation=name,
                )
                continue
            start, end, side, said = cells.groups()
            if (call, start, end) == ("11487", "31.09", "234.06"):
                start = "231.09"
            text, tags = telephone(said)
            if not text:
                continue
            yield TurnRecord(
                id=f"{name}-{side}-{count:04}",
                conversation=name,
                sound=index.stem(name) or f"{name}.sph",
                text=text,
                speaker=speakers.get(call + side, f"{name}-{side}"),
                source=source,
                channel="AB".index(side),
                start=number(start),
                end=number(end),
                language="en",
                license=LICENSE,
                tags=tags,
            )


READER = CorpusReader(
    name="fisher",
    title="Fisher English",
    license="LDC User Agreement",
    layout="**/fe_03_00001.sph, data/trans/000/fe_03_00001.txt",
    gives="text, speaker over calls, channel, times, laughter as tags",
    reference="https://catalog.ldc.upenn.edu/LDC2004S13",
    detect=detect,
    read=corpus_of("fisher", records),
)
