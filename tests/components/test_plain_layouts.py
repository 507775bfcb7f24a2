"""lhotse, LibriSpeech and JSONL: what is broken in one line costs that line, with its file, its number and a reason."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_components.ingest.layouts import find_sounds, read_corpus
from csm_components.ingest.records import Corpus

Writers = dict[str, Callable[..., Path]]
TEXTS = {
    "lhotse": "supervisions.jsonl",
    "librispeech": "train-clean-5/84/101/84-101.trans.txt",
    "jsonl": "turns.jsonl",
}
"""A text of each layout that has a record a line."""


def write(layout: str, folder: Path, writers: Writers) -> Path:
    if layout != "jsonl":
        return writers[layout](folder)
    folder.mkdir()
    rows = []
    for number in range(8):
        soundfile.write(folder / f"{number}.wav", np.full(100, 0.1), 24_000)
        rows.append({"audio": f"{number}.wav", "text": f"Words of turn {number}.", "speaker": "a", "voice": "ann"})
    (folder / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(folder: Path) -> Corpus:
    return read_corpus(folder, find_sounds(folder))


def turns_of(corpus: Corpus) -> dict[str, object]:
    return {turn.id: turn for source in corpus.conversations for turn in source.turns}


@pytest.mark.parametrize("layout", TEXTS)
@pytest.mark.parametrize("seed", range(6))
def test_a_broken_line_costs_itself(layout: str, seed: int, tmp_path: Path, write_corpus: Writers) -> None:
    folder = write(layout, tmp_path / "corpus", write_corpus)
    path = folder / TEXTS[layout]
    good, lines, rng = turns_of(read(folder)), path.read_bytes().splitlines(keepends=True), random.Random(seed)
    cases = ["encoding", "lost letter", "twice"]
    if layout != "librispeech":  # of which any line is an id and words
        cases += ["torn", "split", "times"] if layout == "lhotse" else ["torn", "split", "times", "tags"]
    for case in cases:
        at = rng.randrange(len(lines))
        changed = list(lines)
        if case == "torn":
            changed[at] = lines[at][: rng.randrange(1, len(lines[at]) - 2)] + b"\n"
        elif case == "encoding":
            changed[at] = lines[at].rstrip(b'}"\n')[:-1] + b"\x92" + b'"}}\n'
        elif case == "lost letter":
            place = lines[at].index(b'"text": "') + 10 if layout != "librispeech" else lines[at].index(b" ") + 1
            changed[at] = lines[at][:place] + "\ufffd".encode() + lines[at][place:]
        elif case == "twice":
            changed.append(lines[at] if layout != "jsonl" else lines[at].replace(b"{", b'{"id": "0-000", ', 1))
        else:
            row = json.loads(lines[at])
            if case == "split":
                (row["custom"] if layout == "lhotse" else row)["split"] = "holdout"
            elif case == "times":
                row["start"], row["duration"] = -1.0, 1.0
            else:
                row["tags"] = 7
            changed[at] = json.dumps(row).encode() + b"\n"
        path.write_bytes(b"".join(changed))
        corpus = read(folder)
        assert len(corpus.rejections) == 1, (case, corpus.rejections)
        lost = corpus.rejections[0]
        reason = {"encoding": "wrong encoding", "lost letter": "wrong encoding", "twice": "twice"}
        assert lost.reason == reason.get(case, "damaged record")
        where = len(changed) if case == "twice" else at + 1
        assert re.match(rf"{re.escape(TEXTS[layout])}:{where}: ", lost.detail), (case, lost.detail)
        kept = turns_of(corpus)
        assert len(kept) == len(good) - (case != "twice")
        assert all(kept[name] == good[name] for name in kept), case
        assert "\ufffd" not in "".join(turn.text for source in corpus.conversations for turn in source.turns)


@pytest.mark.parametrize("layout", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_text_that_says_its_encoding_is_read_in_it(
    layout: str, encoding: str, tmp_path: Path, write_corpus: Writers
) -> None:
    folder = write(layout, tmp_path / "corpus", write_corpus)
    good = read(folder)
    path = folder / TEXTS[layout]
    path.write_bytes(path.read_text().encode(encoding))
    assert read(folder) == good


def test_a_recording_that_is_there_twice_costs_the_second(tmp_path: Path, lhotse_corpus: Path) -> None:
    good = read(lhotse_corpus)
    path = lhotse_corpus / "recordings.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\nnothing at all\n")
    found = read(lhotse_corpus)
    assert found.conversations == good.conversations
    assert [(row.reason, row.detail.partition(": ")[0]) for row in found.rejections] == [
        ("twice", "recordings.jsonl:5"),
        ("damaged record", "recordings.jsonl:6"),
    ]


def test_a_torn_first_line_hides_no_layout(tmp_path: Path, write_corpus: Writers) -> None:
    folder = write("jsonl", tmp_path / "corpus", write_corpus)
    path = folder / "turns.jsonl"
    path.write_bytes(b'{"audio": "\n\xff\n' + path.read_bytes())
    corpus = read(folder)
    assert [row.reason for row in corpus.rejections] == ["damaged record", "wrong encoding"]
    assert len(turns_of(corpus)) == 8


def test_a_transcript_in_no_chapter_costs_itself(tmp_path: Path, write_corpus: Writers) -> None:
    folder = write("librispeech", tmp_path / "corpus", write_corpus)
    good = read(folder)
    (folder / "stray.trans.txt").write_text("1-2-0001 WORDS\n")
    found = read(folder)
    assert found.conversations == good.conversations
    assert [row.detail.partition(": ")[0] for row in found.rejections] == ["stray.trans.txt"]
