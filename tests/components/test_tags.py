"""What a corpus says of how a turn is spoken reaches the token shards, where training weighs turns by it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.step import ingest
from csm_components.ingest.tags import tags_of
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_model.errors import InputError
from csm_model.files import read_json
from csm_model.training.shards import load_tokens

QUIET = Console(quiet=True)


def tag_lhotse(corpus: Path, tags: dict[str, object]) -> None:
    """Tags supervisions by their ids."""
    path = corpus / "supervisions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["id"] in tags:
            row["custom"]["tags"] = tags[row["id"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_from_a_lhotse_corpus_to_the_shards(lhotse_corpus: Path, debug_codec: Path, tmp_path: Path) -> None:
    untagged = ingest(lhotse_corpus, tmp_path / "untagged", workers=1, console=QUIET)
    tag_lhotse(lhotse_corpus, {"talk-1-0": ["laughing", "fast"], "talk-1-2": "laughing", "talk-2-0": []})
    made = ingest(lhotse_corpus, tmp_path / "ingest", workers=1, console=QUIET)
    assert made.digest != untagged.digest, "tags are part of the dataset"
    assert read_json(tmp_path / "ingest/manifest.json")["tags"] == {"fast": 1, "laughing": 2}
    expected = {"talk-1-0": ("laughing", "fast"), "talk-1-2": ("laughing",)}
    turns = [turn for talk in read_conversations(tmp_path / "ingest") for turn in talk.turns]
    assert {turn.id: turn.tags for turn in turns if turn.tags} == expected

    def shards(conversations: str) -> dict[str, str]:
        tokenise(
            tmp_path / conversations, debug_codec, None, tmp_path / "tokens",
            workers=1, shard_conversations=1, check=CheckSettings(min_energy_correlation=-1.0), console=QUIET,
        )  # fmt: skip
        splits = read_json(tmp_path / "tokens/manifest.json")["splits"]
        return {row["file"]: row["sha256"] for rows in splits.values() for row in rows}

    before, after = shards("untagged"), shards("ingest")
    assert sum(before[name] != after[name] for name in before) == 1, "the shard of the tagged talk alone is made again"
    manifest = read_json(tmp_path / "tokens/manifest.json")
    assert manifest["tags"] == {"fast": 1, "laughing": 2}
    tokens = [turn for split in manifest["splits"] for turn in load_tokens(tmp_path / "tokens", split)]
    assert {turn.id: turn.tags for turn in tokens if turn.tags} == expected


def test_from_jsonl(tmp_path: Path, say: Callable[..., np.ndarray]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows: list[dict[str, object]] = []
    for number, text in enumerate(("Good morning to you.", "And to you too.")):
        soundfile.write(corpus / f"{number}.wav", say(text), 24_000)
        rows.append({"audio": f"{number}.wav", "text": text, "speaker": "ann", "license": "CC0-1.0"})
    rows[1]["tags"] = ["whispered"]

    def read() -> list[tuple[str, ...]]:
        (corpus / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ingest(corpus, tmp_path / "out", workers=1, console=QUIET)
        return [turn.tags for talk in read_conversations(tmp_path / "out") for turn in talk.turns]

    assert read() == [(), ("whispered",)]
    rows[0]["tags"] = {"mood": "sad"}
    assert read() == [("whispered",)]
    (lost,) = [json.loads(line)["detail"] for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert re.match(r"turns\.jsonl:1: the line: tags \{'mood': 'sad'\}: must be a list of words", lost)


@pytest.mark.parametrize(
    ("value", "tags"), [(None, ()), ("calm", ("calm",)), ([" a ", "b", "a"], ("a", "b")), ([], ())]
)
def test_tags_of_a_record(value: object, tags: tuple[str, ...]) -> None:
    assert tags_of(value, "t") == tags


@pytest.mark.parametrize("value", [3, [""], ["a", 1], {"a": 1}, " "])
def test_what_is_no_tag_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"talk-1: tags .*: must be a list of words"):
        tags_of(value, "talk-1")
