"""Takes of several series become rows: each is judged beside recordings of the voices, and read with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.progress import Progress

from csm_components.evaluate.figures import JudgedSentence
from csm_components.evaluate.judges import Size
from csm_components.evaluate.outcome import row_of
from csm_components.evaluate.work import Take, judge_all, voice_references
from csm_components.ingest.conversations import Conversation, read_conversations


def judged_rows(
    takes: Mapping[str, Sequence[Take]],
    conversations: Path,
    held_out: Iterable[Conversation] = (),
    *,
    out: Path,
    dataset_digest: str,
    recogniser: Size,
    mos: bool,
    progress: Progress,
    workers: int,
) -> dict[str, list[JudgedSentence]]:
    """The rows of every series, in the order of its takes; verdicts are committed one by one.

    Args:
        takes: committed clips, by series.
        conversations: folder that ingest wrote; its training turns are what voices are compared with.
        held_out: where a voice is looked for that has no training turn.
        out: folder for the verdicts; may hold part of them.
        dataset_digest: of `conversations`.
        recogniser: Whisper that reads what was said.
        mos: whether naturalness is scored too.
        progress: where it is shown.
        workers: processes.
    """
    asked = sorted({take.sentence.speaker for row in takes.values() for take in row})
    verdicts = judge_all(
        takes,
        voice_references(read_conversations(conversations, "train"), asked, held_out),
        out=out,
        recogniser=recogniser,
        references_key=dataset_digest,
        mos=mos,
        progress=progress,
        workers=workers,
    )
    return {
        series: [row_of(take, path) for take, path in zip(kept, verdicts[series], strict=True)]
        for series, kept in takes.items()
    }
