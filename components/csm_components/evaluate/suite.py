r"""How a bundle speaks sentences of a file, which are no corpus's: each in every voice, without a turn before it.

python -m csm_components.evaluate.suite --bundle BUNDLE --conversations runs/latest/ingest --out OUT \
    --suite deploy/demo/suite/sentences.jsonl

A line of the file is JSON with `id` and `text`, and a `kind` by which the figures are told apart as well. Clips and
verdicts are committed one by one: what was killed goes on. Voices are compared with recordings of them in the
conversations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from csm_components.evaluate.figures import Figures, JudgedSentence, figures_of
from csm_components.evaluate.judges import Size
from csm_components.evaluate.judging import judged_rows
from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.sources import FromBundle
from csm_components.evaluate.table import figures_table
from csm_components.evaluate.work import progress_bar, speak_all
from csm_components.ingest.conversations import read_manifest
from csm_components.settings import worker_count
from csm_model.errors import CsmError, InputError
from csm_model.files import digest_of_file, write_json


@dataclass(frozen=True, kw_only=True)
class SuiteItem:
    """A sentence to be spoken."""

    id: str
    text: str
    kind: str = "all"


def read_suite(path: Path) -> list[SuiteItem]:
    """The sentences of a file.

    Raises:
        InputError: it cannot be read, a line is no sentence, an id is there twice, or there is none.
    """
    items: dict[str, SuiteItem] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a file of JSON lines with id and text") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            item = SuiteItem(id=row["id"], text=row["text"], kind=row.get("kind", "all"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}, line {number}: no sentence; write a JSON object with id and text") from None
        if item.id in items:
            raise InputError(f"{path}, line {number}: id {item.id!r} is there twice; ids must differ")
        items[item.id] = item
    if not items:
        raise InputError(f"{path}: is empty; give a file of JSON lines with id and text")
    return list(items.values())


def speak_suite(
    bundle: Path,
    conversations: Path,
    suite: Path,
    out: Path,
    *,
    speakers: Sequence[int],
    codec: Path | None = None,
    recogniser: Size = "base",
    mos: bool = True,
    seed: int = 0,
    max_frames: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> list[JudgedSentence]:
    """Every sentence in every voice, judged.

    Args:
        bundle: folder of the bundle.
        conversations: folder that ingest wrote, with recordings of the voices.
        suite: file of sentences.
        out: folder for clips and verdicts; may hold part of them.
        speakers: numbers of the voices.
        codec: folder of the codec, for a bundle that carries none.
        recogniser: Whisper that reads what was said.
        mos: whether naturalness is scored too.
        seed: the n-th sentence is drawn with `seed + n`.
        max_frames: longest sentence in frames of 80 ms; the model's own bound without it.
        workers: processes; `CSM_WORKERS` or one a core without it.
        console: where progress goes; standard error without it.
    """
    sentences = [
        Sentence(turn=item.id, conversation=item.kind, text=item.text, speaker=speaker, own=False, context=None)
        for speaker in speakers
        for item in read_suite(suite)
    ]
    count, dataset = worker_count(workers), read_manifest(conversations)
    with progress_bar(console=console or Console(stderr=True)) as progress:
        takes = speak_all(
            sentences,
            FromBundle(folder=bundle, codec_folder=codec),
            series="suite",
            out=out,
            tokens={},
            tokens_digest=digest_of_file(suite),
            seeds={sentence.id: seed + number for number, sentence in enumerate(sentences)},
            max_frames=max_frames,
            progress=progress,
            workers=count,
        )
        rows = judged_rows(
            {"suite": takes},
            conversations,
            out=out,
            dataset_digest=dataset["digest"],
            recogniser=recogniser,
            mos=mos,
            progress=progress,
            workers=count,
        )
    return rows["suite"]


def figures_by(rows: Sequence[JudgedSentence], part: Callable[[JudgedSentence], str]) -> dict[str, Figures]:
    """The figures of each part of the rows."""
    parts: dict[str, list[JudgedSentence]] = {}
    for row in rows:
        parts.setdefault(part(row), []).append(row)
    return {name: figures_of(kept) for name, kept in parts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for what the caller can put right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--codec", type=Path, help="folder of the codec, for a bundle that carries none")
    parser.add_argument("--conversations", type=Path, required=True, help="folder that ingest wrote")
    parser.add_argument("--suite", type=Path, required=True, help="file of JSON lines with id, text and kind")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, verdicts and figures.json")
    parser.add_argument("--speakers", type=int, nargs="+", default=[0, 1], help="numbers of the voices (default 0 1)")
    parser.add_argument("--recogniser", default="base", choices=["tiny", "base"])
    parser.add_argument("--no-mos", action="store_true", help="do not score naturalness")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        rows = speak_suite(
            options.bundle,
            options.conversations,
            options.suite,
            options.out,
            speakers=options.speakers,
            codec=options.codec,
            recogniser=options.recogniser,
            mos=not options.no_mos,
            seed=options.seed,
        )
    except CsmError as error:
        print(error, file=sys.stderr)
        return 2
    figures = {
        **figures_by(rows, lambda row: "all"),
        **figures_by(rows, lambda row: f"voice {row.sentence.speaker}"),
        **figures_by(rows, lambda row: row.sentence.conversation),
    }
    Console().print(figures_table(figures))
    heard = [{"id": row.sentence.id, "text": row.sentence.text, "heard": row.verdict.heard} for row in rows]
    write_json(options.out / "figures.json", {"figures": {k: asdict(v) for k, v in figures.items()}, "heard": heard})
    return 0


if __name__ == "__main__":
    sys.exit(main())
