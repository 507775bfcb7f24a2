"""Replay: the order of own and replayed packs, what is learnt of them, and what does not belong together."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from csm_model.errors import ArtifactError, InputError
from csm_model.files import digest_of, digest_of_file, read_json, write_json
from csm_model.training.config import TrainingConfig
from csm_model.training.data import Batch, ReplayedPacks, Targets, side_by_side
from csm_model.training.packing import packs_of_process
from csm_model.training.parallel import World
from csm_model.training.replay import check_replay, speakers_taken, turn_of
from csm_model.training.shards import TokenTurn, load_tokens, write_index, write_shard
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)
VOICES = {0: "ann", 1: "bob", 2: "cid"}


def write_replay(tokens: Path, folder: Path, speakers: dict[int, str], **changes: Any) -> Path:
    """Tokens of the codec and the tokenizer of `tokens`, of other conversations, by these speakers in turn."""
    shutil.copytree(tokens, folder, ignore=shutil.ignore_patterns("*.safetensors.*", "train*", "validation*"))
    turns = load_tokens(tokens, "train")
    rng = np.random.default_rng(3)
    numbers = list(speakers)
    made = [
        TokenTurn(
            id=f"replayed-{number}",
            conversation=f"replayed-{number // 3}",
            split="train",
            speaker=numbers[number % len(numbers)],
            text=turn.text,
            text_ids=turn.text_ids,
            codes=rng.permuted(turn.codes, axis=1),
        )
        for number, turn in enumerate(turns[:24])
    ]
    half = len(made) // 2
    rows = [
        write_shard(folder / f"train-{shard:05}.safetensors", part)
        for shard, part in enumerate((made[:half], made[half:]))
    ]
    manifest = read_json(tokens / "manifest.json")
    manifest |= {
        "dataset_digest": "1" * 64,
        "speakers": {str(number): name for number, name in speakers.items()},
        "splits": {"train": rows},
        "indexes": {"train": write_index(folder, "train", [row["file"] for row in rows])},
        "files": {
            path.relative_to(folder).as_posix(): digest_of_file(path)
            for path in [folder / "tokenizer.json", *(folder / "codec").iterdir()]
        },
    }
    manifest |= changes
    write_json(folder / "manifest.json", manifest | {"digest": digest_of([rows, changes])})
    return folder


@pytest.fixture(scope="module")
def replay(token_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens to replay: of the speakers of `token_folder`, and of one more."""
    return write_replay(token_folder, tmp_path_factory.mktemp("replay") / "tokens", VOICES)


def settings(token_folder: Path, out: Path, replay: Path | str | None, **changes: object) -> TrainingConfig:
    config = TrainingConfig(
        tokens=str(token_folder), out=str(out), model="debug", steps=6, row_length=256, batch_packs=2, warmup_steps=2,
        learning_rate=1e-2, log_every=1, validate_every=6, checkpoint_every=2, depth_share=0.5, history_dropout=0.3,
        dropout=0.1, shuffle_shards=1, replay=str(replay) if replay else None, replay_share=0.4,
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def is_same(one: Batch, other: Batch) -> bool:
    def same(mine: Any, theirs: Any) -> bool:
        if isinstance(mine, Targets):
            return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        return torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs

    return all(same(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_any_share_gives_each_pack_once_and_in_order() -> None:
    rng = np.random.default_rng(0)
    for share in [0.0, 1.0, 0.5, 1 / 3, 0.3, 1e-6, 1 - 1e-6, *rng.random(60).tolist()]:
        first = int(rng.integers(0, 2)) * int(rng.integers(0, 10**9))
        turns = [turn_of(number, share) for number in range(first, first + 500)]
        for kind in (True, False):
            numbers = [turn.number for turn in turns if turn.replayed is kind]
            begin = numbers[0] if numbers else 0
            assert numbers == list(range(begin, begin + len(numbers))), (share, kind)
            if first == 0:
                assert begin == 0
        found = sum(turn.replayed for turn in turns)
        assert abs(found - 500 * share) < 1 + 1e-3, share
        assert all(turn.number <= number for number, turn in enumerate(turns, first))


def test_how_the_work_is_spread_changes_no_batch(token_folder: Path, replay: Path, tmp_path: Path) -> None:
    """The packs of a step are the same for any number of processes and any size of micro-batches."""
    data = Trainer(settings(token_folder, tmp_path, replay), ALONE).train_data
    assert isinstance(data, ReplayedPacks)
    for step in range(20):  # several epochs of either
        whole = data.batch(range(step * 4, step * 4 + 4))
        for size, at_once in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1)):
            parts = [packs_of_process(step * 4, count=4, at_once=at_once, rank=rank, size=size) for rank in range(size)]
            numbers = sorted((each for part in parts for each in part), key=lambda each: each.start)
            assert is_same(side_by_side([data.batch(each) for each in numbers]), whole), (step, size, at_once)


def test_the_targets_of_packs_side_by_side_are_where_their_rows_are(
    token_folder: Path, replay: Path, tmp_path: Path
) -> None:
    data = Trainer(settings(token_folder, tmp_path, replay), ALONE).train_data
    alone = [data.batch([number]) for number in range(6)]
    together = data.batch(range(6))
    rows = together.rows.flatten(0, 1)
    for kind in ("first", "depth", "text"):
        expected = torch.cat([each.rows.flatten(0, 1)[getattr(each, kind).places] for each in alone])
        assert torch.equal(rows[getattr(together, kind).places], expected), kind
    assert together.totals == pytest.approx([sum(part) for part in zip(*(each.totals for each in alone), strict=True)])
    assert together.rows_held == sum(each.rows_held for each in alone)
    assert together.lengths == [pack for each in alone for pack in each.lengths]


class Stopped(Trainer):
    """A trainer whose machine is wanted back after three steps."""

    def _advance(self, *arguments: object) -> bool:
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super()._advance(*arguments)  # type: ignore[arg-type]


def test_a_training_that_was_stopped_goes_on_with_the_same_packs(
    token_folder: Path, replay: Path, tmp_path: Path
) -> None:
    Trainer(settings(token_folder, tmp_path / "whole", replay), ALONE).run()
    parts = settings(token_folder, tmp_path / "parts", replay)
    assert Stopped(parts, ALONE).run() == {}
    again = Trainer(parts, ALONE)
    assert (again.step, again.packs_read) == (3, 6)
    again.run()
    after = weights(tmp_path / "parts")
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights(tmp_path / "whole").items())


def test_a_replay_is_learnt_beside_the_tokens_and_is_named_in_the_bundle(
    token_folder: Path, replay: Path, tmp_path: Path
) -> None:
    manifests, sentences = {}, {}
    for name, place in (("with", replay), ("without", None)):
        trainer = Trainer(settings(token_folder, tmp_path / name, place, dropout=0.0), ALONE)
        sentences[name] = [batch.rows for batch in trainer.held_out.in_order(1)]
        manifests[name] = trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(*sentences.values(), strict=True)), "validation is on the tokens alone"
    assert manifests["with"]["replay_digest"] == read_json(replay / "manifest.json")["digest"]
    assert manifests["without"]["replay_digest"] is None
    assert manifests["with"]["speakers"] == {"0": "ann", "1": "bob", "2": "cid"}
    assert manifests["without"]["speakers"] == {"0": "ann", "1": "bob"}
    assert manifests["with"]["recipe"]["replay_share"] == 0.4
    assert not {"replay", "replay_share"} & manifests["without"]["recipe"].keys()
    before, after = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_no_share_and_no_replay_are_one(token_folder: Path, replay: Path, tmp_path: Path) -> None:
    Trainer(settings(token_folder, tmp_path / "none", None), ALONE).run()
    manifest = Trainer(settings(token_folder, tmp_path / "zero", replay, replay_share=0.0), ALONE).run()
    assert manifest["replay_digest"] is None
    before, after = weights(tmp_path / "none"), weights(tmp_path / "zero")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_loss_counts_replayed_turns_as_others_but_for_voices_whose_number_is_taken(
    token_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Speakers 0 and 1 of the tokens are ann and bob."""
    for number, (names, counts) in enumerate(
        [
            ({0: "ann", 1: "bob", 2: "cid"}, {0: 1.0, 1: 1.0, 2: 1.0}),
            ({0: "eve", 2: "cid"}, {0: 0.0, 2: 1.0}),
            ({1: "eve", 5: "fay", 0: "ann"}, {1: 0.0, 5: 1.0, 0: 1.0}),
        ]
    ):
        place = write_replay(token_folder, tmp_path / f"replay-{number}", names)
        trainer = Trainer(settings(token_folder, tmp_path, place, replay_share=1.0, max_turns=1), ALONE)
        turns = load_tokens(place, "train")
        data = trainer.train_data
        assert isinstance(data, ReplayedPacks)
        packs = data._replayed.packs
        seen: set[int] = set()
        for pack in range(packs.count(0)):
            batch, (_, documents) = data.batch([pack]), packs[pack]
            begin = 0
            for document in documents:
                (turn,) = turns[document.first : document.last]
                end = begin + packs.rows_of(document)
                mine = [
                    weight
                    for at, weight in zip(batch.first.places.tolist(), batch.first.weights.tolist(), strict=True)
                    if begin <= at < end
                ]
                expected = turn.codes.shape[1] + 1 if counts[turn.speaker] else 0
                assert mine == [1.0] * expected, (names, turn.speaker)
                seen.add(turn.speaker)
                begin = end
        assert seen == set(names)
        said = "the run's own voices have the numbers" in caplog.text
        assert said is (number > 0)
    caplog.clear()
    taken = write_replay(token_folder, tmp_path / "taken", {0: "eve", 1: "fay"})
    trainer = Trainer(settings(token_folder, tmp_path, taken), ALONE)
    assert trainer.replay is None, "nothing of it could be learnt"
    assert "nothing is replayed" in caplog.text


def test_speakers_are_taken_where_the_names_differ() -> None:
    tokens = {"speakers": {"0": "ann", "1": "bob"}}
    assert speakers_taken({"speakers": {"0": "ann", "1": "eve", "2": "bob"}}, tokens) == {"1": "eve"}
    assert speakers_taken({"speakers": {}}, tokens) == {}


def test_a_replay_from_a_storage_is_the_one_from_the_folder(token_folder: Path, replay: Path, tmp_path: Path) -> None:
    class Stored:
        def get_file(self, key: str, path: Path) -> None:
            shutil.copyfile(replay / key, path)

    here = Trainer(settings(token_folder, tmp_path / "here", replay), ALONE).run()
    config = settings(token_folder, tmp_path / "there", "s3://bucket/replay", cache_dir=str(tmp_path / "cache"))
    there = Trainer(config, ALONE, replay_fetch=Stored()).run()
    assert (here["digest"], here["replay_digest"]) == (there["digest"], there["replay_digest"])
    with pytest.raises(InputError, match=r"start csm_components\.train\.worker"):
        Trainer(config, ALONE)


@pytest.mark.parametrize("name", ["codec_digest", "tokenizer_digest"])
def test_a_replay_of_another_codec_or_tokenizer_is_refused(name: str, token_folder: Path, tmp_path: Path) -> None:
    place = write_replay(token_folder, tmp_path / "replay", VOICES, **{name: "f" * 64})
    mine = read_json(token_folder / "manifest.json")[name][:12]
    rule = f"{place}: the replay's {name} is ffffffffffff, the run's is {mine}; give replay tokens of the same"
    with pytest.raises(ArtifactError, match=rule):
        Trainer(settings(token_folder, tmp_path / "out", place), ALONE)
    check_replay(str(place), read_json(place / "manifest.json"), {})  # nothing to compare with


def test_what_is_no_replay_is_said(token_folder: Path, replay: Path, bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token shards to replay; give a folder or an address that tokenise wrote"):
        Trainer(settings(token_folder, tmp_path, bundle_folder), ALONE)
    write_json(tmp_path / "other" / "manifest.json", {"files": {}})
    with pytest.raises(InputError, match="no token shards to replay"):
        Trainer(settings(token_folder, tmp_path, tmp_path / "other"), ALONE)
    with pytest.raises(InputError, match="nowhere"):
        Trainer(settings(token_folder, tmp_path, tmp_path / "nowhere"), ALONE)
    for share in (-0.1, 1.1):
        with pytest.raises(InputError, match=r"replay_share .*: must be "):
            settings(token_folder, tmp_path, replay, replay_share=share)

    class Another(World):
        asked = 0

        def agree(self, value: object) -> object:
            self.asked += 1
            return value if self.asked == 1 else "f" * 64

    with pytest.raises(ArtifactError, match=f"{replay}: the processes find different tokens there"):
        Trainer(settings(token_folder, tmp_path, replay), Another(rank=0, size=1))
