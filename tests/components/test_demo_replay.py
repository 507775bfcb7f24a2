"""What the demo's fine-tuning learns again: it fits codec and base, and holds nothing that is held out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from demo import FOLDER, demo_modules

from csm_components.evaluate.suite import read_suite
from csm_model.files import read_json
from csm_model.training.shards import TokenTurn, load_tokens

REPLAY = FOLDER / "replay"


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    with demo_modules("make_replay", "make_corpora") as modules:
        yield modules


@pytest.fixture(scope="module")
def turns() -> list[TokenTurn]:
    return load_tokens(REPLAY, "train")


def test_the_replay_is_of_the_demos_codec_and_base(turns: list[TokenTurn]) -> None:
    manifest, base = read_json(REPLAY / "manifest.json"), read_json(FOLDER / "base" / "manifest.json")
    codec = read_json(FOLDER / "codec" / "codec.json")
    assert manifest["codec_digest"] == base["codec_digest"] == codec["digest"]
    assert manifest["tokenizer_digest"] == base["tokenizer_digest"]
    assert manifest["num_codebooks"] == codec["config"]["num_codebooks"]
    assert manifest["speakers"] == base["speakers"]
    assert {turn.speaker for turn in turns} <= {int(number) for number in base["speakers"]}
    assert (len(turns), sum(turn.codes.shape[1] for turn in turns)) == (manifest["turns"], manifest["frames"])


def test_the_replay_holds_nothing_that_is_held_out(demo: SimpleNamespace, turns: list[TokenTurn]) -> None:
    def words(text: str) -> tuple[str, ...]:
        return tuple(re.findall(r"[a-z']+", text.lower()))

    replayed = {words(turn.text) for turn in turns}
    held_out = [turn.text for item in demo.make_corpora.plan_demo() if item.split != "train" for turn in item.turns]
    held_out += [item.text for item in read_suite(FOLDER / "suite" / "sentences.jsonl")]
    assert not replayed & {words(text) for text in held_out}


def test_a_replay_is_whole_conversations_evenly_taken(
    demo: SimpleNamespace, turns: list[TokenTurn], tmp_path: Path
) -> None:
    demo.make_replay.make_replay(REPLAY, tmp_path / "half", conversations=20)
    taken = load_tokens(tmp_path / "half", "train")
    talks = {turn.conversation for turn in taken}
    assert len(talks) == 20
    assert [turn.id for turn in taken] == [turn.id for turn in turns if turn.conversation in talks]
    digests = [demo.make_replay.make_replay(REPLAY, tmp_path / "half", conversations=20) for _ in range(2)]
    assert len(set(digests)) == 1
    assert (
        demo.make_replay.main(["--tokens", str(REPLAY), "--out", str(tmp_path / "no"), "--conversations", "9999"]) == 2
    )
