"""Shards as training reads them: from a folder, from a storage through the cache, after kills and damage."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from waiting import eventually

from csm_model.config import debug_config
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import digest_of, digest_of_file, read_json, write_json
from csm_model.training.cache import FileCache
from csm_model.training.config import TrainingConfig
from csm_model.training.data import DropoutSettings, PackedTokens, TurnsInMemory
from csm_model.training.packing import Packing
from csm_model.training.parallel import World
from csm_model.training.shards import TokenTurn, load_tokens, write_index, write_shard
from csm_model.training.stream import RemoteTokens, StreamedTurns, TokenFolder, open_tokens
from csm_model.training.trainer import Trainer

ALONE = World(rank=0, size=1)
SHARDS = 6


class Stored:
    """A folder as a storage that counts what is fetched; beside the files it keeps a log that all processes share."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log

    def get_file(self, key: str, path: Path) -> None:
        if not (self.folder / key).is_file():
            raise InputError(f"{key}: no such object")
        with self.log.open("a") as log:
            log.write(f"{key}\n")
        shutil.copyfile(self.folder / key, path)

    @property
    def fetched(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def shards_fetched(self) -> list[str]:
        return [name for name in self.fetched if name.startswith("train-")]


@pytest.fixture(scope="module")
def tokens(token_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens of the suite, their training conversations over several shards, some turns tagged."""
    folder = tmp_path_factory.mktemp("shards") / "tokens"
    shutil.copytree(token_folder, folder)
    turns = load_tokens(folder, "train")
    turns = [replace(turn, tags=("laughing",)) if number % 3 == 0 else turn for number, turn in enumerate(turns)]
    (folder / "train-00000.safetensors").unlink()
    size = len(turns) // SHARDS
    rows = [
        write_shard(folder / f"train-{shard:05}.safetensors", turns[shard * size : (shard + 1) * size])
        for shard in range(SHARDS)
    ]
    manifest = read_json(folder / "manifest.json")
    manifest["splits"]["train"] = rows
    manifest["indexes"]["train"] = write_index(folder, "train", [row["file"] for row in rows])
    manifest["files"] = {
        path.relative_to(folder).as_posix(): digest_of_file(path)
        for path in [folder / "tokenizer.json", *(folder / "codec").iterdir()]
    }
    write_json(folder / "manifest.json", manifest | {"digest": digest_of(manifest["splits"])})
    return folder


@pytest.fixture
def stored(tokens: Path, tmp_path: Path) -> Stored:
    shutil.copytree(tokens, tmp_path / "stored")
    return Stored(tmp_path / "stored", tmp_path / "log")


def remote(stored: Stored, cache: Path, *, limit: int = 10**9) -> RemoteTokens:
    return RemoteTokens(stored, FileCache(cache, limit=limit))


def same_turn(one: TokenTurn, other: TokenTurn) -> bool:
    return all(np.array_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(TokenTurn))


def test_turns_come_one_by_one_and_few_shards_stay_open(tokens: Path) -> None:
    everything = load_tokens(tokens, "train")
    turns = StreamedTurns(TokenFolder(tokens), "train", open_shards=2)
    for number in np.random.default_rng(0).permutation(len(everything)).tolist():
        assert same_turn(turns.turn(number), everything[number])
        assert len(turns._open) <= 2
    assert everything[0].tags == ("laughing",)


def test_lengths_are_known_without_any_shard(tokens: Path, stored: Stored, tmp_path: Path) -> None:
    found = StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2).lengths
    assert stored.shards_fetched == []
    memory = TurnsInMemory(load_tokens(tokens, "train")).lengths
    assert np.array_equal(found.rows, memory.rows)
    assert np.array_equal(found.conversations, memory.conversations)
    assert found.shard_ends.tolist() == [len(found.rows) // SHARDS * (shard + 1) for shard in range(SHARDS)]


def test_batches_from_a_storage_are_those_from_the_folder(tokens: Path, stored: Stored, tmp_path: Path) -> None:
    here, there = TokenFolder(tokens), remote(stored, tmp_path / "cache")
    names = ("text_vocab_size", "num_codebooks", "codebook_size")
    sizes = debug_config(**{name: here.manifest[name.replace("text_", "")] for name in names})
    one, other = (
        PackedTokens(
            StreamedTurns(each, "train", open_shards=2),
            sizes,
            packing=Packing(row_length=256, shuffle_shards=2),
            reading=DropoutSettings(depth_share=0.5, text_dropout=0.3, history_dropout=0.3),
        )
        for each in (here, there)
    )
    for number in range(2 * one.packs.count(0)):
        for mine, theirs in zip(one.batch([number]), other.batch([number]), strict=True):
            pairs = zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)]
            assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
    assert sorted(set(stored.shards_fetched)) == sorted(stored.shards_fetched), "each was fetched once"


def config_for(tokens: Path, out: Path) -> TrainingConfig:
    return TrainingConfig(
        tokens=str(tokens), out=str(out / "out"), model="debug", steps=4, row_length=256, batch_packs=2, warmup_steps=1,
        log_every=2, validate_every=4, checkpoint_every=2, shuffle_shards=2,
    )  # fmt: skip


def test_training_from_a_storage_ends_in_the_same_weights(tokens: Path, stored: Stored, tmp_path: Path) -> None:
    Trainer(config_for(tokens, tmp_path / "here"), ALONE).run()
    config = replace(
        config_for(tokens, tmp_path / "there"), tokens="s3://bucket/tokens", cache_dir=str(tmp_path / "cache")
    )
    Trainer(config, ALONE, fetch=stored).run()
    one, other = (load_file(tmp_path / name / "out/final/model.safetensors") for name in ("here", "there"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    manifests = [read_json(tmp_path / name / "out/final/manifest.json") for name in ("here", "there")]
    assert manifests[0]["digest"] == manifests[1]["digest"]


def test_what_is_expected_is_fetched_before_it_is_asked_for(stored: Stored, tmp_path: Path) -> None:
    turns = StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2)
    turns.expect([4, 1])
    eventually(lambda: len(stored.shards_fetched) == 2, "the thread fetched nothing")
    assert stored.shards_fetched == ["train-00004.safetensors", "train-00001.safetensors"]
    turns.turn(int(turns.lengths.shard_ends[0]))  # the first turn of shard 1
    assert len(stored.shards_fetched) == 2
    eventually(lambda: not turns._ahead._running, "the thread went on without work")
    turns.expect([0])
    eventually(lambda: len(stored.shards_fetched) == 3, "the thread was not started again")


def test_a_shard_that_cannot_be_had_ahead_of_time_is_an_error_only_when_it_is_read(
    stored: Stored, tmp_path: Path
) -> None:
    turns = StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2)
    (stored.folder / "train-00002.safetensors").unlink()
    turns.expect([2, 3])
    eventually(lambda: stored.shards_fetched == ["train-00003.safetensors"], "the thread ended at the error")
    with pytest.raises(InputError, match=r"train-00002\.safetensors: no such object"):
        turns.turn(int(turns.lengths.shard_ends[1]))


def cached(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (cache / "files").iterdir()}


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    digests = []
    for number in range(8):
        path = tmp_path / "stored" / str(number)
        path.write_bytes(bytes([number]) * 1000)
        digests.append(digest_of_file(path))
    stored = Stored(tmp_path / "stored", tmp_path / "log")
    cache = FileCache(tmp_path / "cache", limit=3500)

    def take(number: int) -> None:
        with cache.file(stored, str(number), digests[number]) as path:
            assert path.read_bytes() == bytes([number]) * 1000

    for number in (0, 1, 2, 0, 3):
        take(number)
    assert set(cached(tmp_path / "cache")) == {digests[number] for number in (0, 2, 3)}
    for number in range(8):
        take(number)
        assert sum(cached(tmp_path / "cache").values()) <= 3500
    with cache.file(stored, "0", digests[0]) as held:  # what is in use is not removed
        for number in range(1, 8):
            take(number)
        assert held.exists()


def test_a_damaged_file_of_the_cache_is_fetched_again(stored: Stored, tokens: Path, tmp_path: Path) -> None:
    StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2).turn(0)
    row = read_json(tokens / "manifest.json")["splits"]["train"][0]
    file = tmp_path / "cache/files" / row["sha256"]
    file.write_bytes(file.read_bytes()[:-10] + b"0123456789")
    fresh = StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2)
    assert same_turn(fresh.turn(0), load_tokens(tokens, "train")[0])
    assert stored.shards_fetched == [row["file"]] * 2
    (tmp_path / "cache" / f"tokens-{read_json(tokens / 'manifest.json')['digest']}" / "tokenizer.json").write_text("{")
    again = remote(stored, tmp_path / "cache")
    assert digest_of_file(again.local / "tokenizer.json") == digest_of_file(tokens / "tokenizer.json")


def test_a_damaged_object_is_refused(stored: Stored, tmp_path: Path) -> None:
    turns = StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2)
    shard = stored.folder / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    before = cached(tmp_path / "cache")
    with pytest.raises(DigestError, match=r"train-00000\.safetensors: its bytes are not those"):
        turns.turn(0)
    assert cached(tmp_path / "cache") == before
    assert list((tmp_path / "cache/incoming").iterdir()) == []


CHILD = """
import os, signal, sys
from pathlib import Path
from csm_model.training.cache import FileCache
stored, cache, log, kill = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "kill"

class Slow:
    def get_file(self, key, path):
        data = (stored / key).read_bytes()
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(data[len(data) // 2 :])
        with log.open("a") as file:
            file.write(key + "\\n")
        partial.replace(path)

files = FileCache(cache, limit=10**9)
for name in sys.argv[5:]:
    key, sha256 = name.split("=")
    with files.file(Slow(), key, sha256) as path:
        assert path.read_bytes() == (stored / key).read_bytes()
"""


def child(tokens: Path, tmp_path: Path, *, kill: bool) -> subprocess.Popen[bytes]:
    rows = read_json(tokens / "manifest.json")["splits"]["train"]
    names = [f"{row['file']}={row['sha256']}" for row in rows]
    arguments = [str(tokens), str(tmp_path / "cache"), str(tmp_path / "log"), "kill" if kill else "live"]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments, *names])


def test_a_killed_process_leaves_nothing_behind_that_hurts(tokens: Path, tmp_path: Path) -> None:
    assert child(tokens, tmp_path, kill=True).wait() == -signal.SIGKILL
    assert len(list((tmp_path / "cache/incoming").iterdir())) == 1
    stored = Stored(tokens, tmp_path / "log")
    turns = StreamedTurns(remote(stored, tmp_path / "cache"), "train", open_shards=2)
    assert list((tmp_path / "cache/incoming").iterdir()) == []
    assert same_turn(turns.turn(0), load_tokens(tokens, "train")[0])


def test_processes_of_a_machine_share_what_one_of_them_fetched(tokens: Path, tmp_path: Path) -> None:
    children = [child(tokens, tmp_path, kill=False) for _ in range(3)]
    assert [each.wait() for each in children] == [0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == [
        f"train-{shard:05}.safetensors" for shard in range(SHARDS)
    ]


def test_what_cannot_be_read_is_said(tokens: Path, stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"start csm_components\.train\.worker"):
        open_tokens("s3://bucket/tokens")
    with pytest.raises(InputError, match="set cache_dir to a folder"):
        open_tokens("s3://bucket/tokens", fetch=stored)
    with pytest.raises(InputError, match=r"cache_gb 1e-06: .* take up to .* GB; make it larger, or shuffle_shards"):
        StreamedTurns(remote(stored, tmp_path / "small", limit=1000), "train", open_shards=6)
    with pytest.raises(InputError, match="no split 'dev'; it has train, validation"):
        StreamedTurns(TokenFolder(tokens), "dev", open_shards=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache_dir .*: Not a directory; make room there"):
        remote(stored, tmp_path / "file" / "cache")
    manifest = read_json(stored.folder / "manifest.json")
    write_json(stored.folder / "manifest.json", {**manifest, "files": {"../../x": "0" * 64}})
    with pytest.raises(ArtifactError, match=r"names '\.\./\.\./x', which lies outside"):
        remote(stored, tmp_path / "cache")
    write_json(stored.folder / "manifest.json", {**manifest, "indexes": {}})
    with pytest.raises(ArtifactError, match="has no index of split 'train'; run tokenise again"):
        StreamedTurns(TokenFolder(stored.folder), "train", open_shards=2)
    shutil.copyfile(stored.folder / "validation.index.safetensors", stored.folder / "train.index.safetensors")
    manifest["indexes"]["train"]["sha256"] = manifest["indexes"]["validation"]["sha256"]
    write_json(stored.folder / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="the index of 'train' is of other shards"):
        StreamedTurns(TokenFolder(stored.folder), "train", open_shards=2)


def test_processes_that_find_different_tokens_are_stopped(tokens: Path, tmp_path: Path) -> None:
    class Another(World):
        def agree(self, value: object) -> object:
            return "f" * 64

    with pytest.raises(ArtifactError, match="the processes find different tokens"):
        Trainer(config_for(tokens, tmp_path), Another(rank=0, size=1))
