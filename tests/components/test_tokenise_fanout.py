"""Tokenise in shards: joined, they are what one step writes, and the tokenizer is made once."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from csm_components.ingest.step import ingest
from csm_components.sharding import ShardStore
from csm_components.tokenise import fanout
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_components.tree_list import MADE
from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json, write_json
from csm_model.text import load_tokenizer
from csm_model.training.shards import load_tokens

QUIET = Console(quiet=True)
BPE = {"tokenizer": "bpe:300", "prompt_format": "sesame"}
tokenise_shard = functools.partial(fanout.tokenise_shard, workers=1, shard_conversations=1, console=QUIET)
ANY_CODEC = CheckSettings(min_energy_correlation=-1)
join = functools.partial(fanout.join_tokenise, shard_conversations=1, check=ANY_CODEC, console=QUIET)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory, write_corpus: dict[str, Callable[..., Path]]) -> Path:
    home = tmp_path_factory.mktemp("fanout")
    splits = {"talk-1": "train", "talk-2": "train", "talk-3": "validation", "talk-4": "test"}
    ingest(write_corpus["lhotse"](home / "corpus", splits=splits), home / "ingest", workers=1, console=QUIET)
    return home / "ingest"


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a folder; of the manifest all but the speed, which no two runs share."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != MADE)  # no part of what it holds
    files: dict[str, Any] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    files["manifest.json"] = read_json(folder / "manifest.json") | {"sound_seconds_per_second": None}
    return files


def fan_out(conversations: Path, codec: Path, home: Path, shards: int, **options: str) -> list[Path]:
    """Plans, makes every shard in a folder of its own, and returns the folders."""
    plan = fanout.plan_tokenise(
        conversations, codec, None, home / "tools", shards=shards, shard_conversations=1, **options
    )
    for name in plan.shards:
        tokenise_shard(conversations, home / "tools", name, home / name)
    return [home / name for name in plan.shards]


@pytest.mark.parametrize(("shards", "options"), [(1, {}), (3, BPE), (9, {})])
def test_joined_shards_are_what_one_step_writes(
    tmp_path: Path, conversations: Path, debug_codec: Path, shards: int, options: dict[str, str]
) -> None:
    whole = tokenise(
        conversations, debug_codec, None, tmp_path / "whole", 1,
        shard_conversations=1, check=ANY_CODEC, console=QUIET, **options,
    )  # fmt: skip
    parts = fan_out(conversations, debug_codec, tmp_path, shards, **options)
    assert len(parts) == min(shards, 4)
    joined = join(list(reversed(parts)), conversations, tmp_path / "tools", tmp_path / "joined")
    assert joined.digest == whole.digest
    assert contents(tmp_path / "joined") == contents(tmp_path / "whole")
    assert joined.sound_seconds_per_second > 0
    assert join(parts, conversations, tmp_path / "tools", tmp_path / "joined").reused
    assert load_tokens(tmp_path / "joined", "train")
    assert load_tokenizer(tmp_path / "tools/tokenizer.json").digest == whole.tokenizer_digest


def test_a_missing_or_foreign_part_is_refused(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    parts = fan_out(conversations, debug_codec, tmp_path, 2)
    with pytest.raises(InputError, match="token shard validation-00000 is in none of 1 parts"):
        join(parts[:1], conversations, tmp_path / "tools", tmp_path / "joined")
    fanout.plan_tokenise(conversations, debug_codec, None, tmp_path / "other", shards=2, shard_conversations=1, **BPE)
    with pytest.raises(InputError, match="or made from other inputs; join all of one plan"):
        join(parts, conversations, tmp_path / "other", tmp_path / "joined")
    with pytest.raises(ArtifactError, match=r"tools/codec: its output does not follow the sound"):
        join(
            parts,
            conversations,
            tmp_path / "tools",
            tmp_path / "joined",
            check=CheckSettings(min_energy_correlation=1.0),
        )


def test_another_run_takes_a_shard_from_the_storage_by_its_content(
    tmp_path: Path, conversations: Path, debug_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    fan_out(conversations, debug_codec, tmp_path, 2)
    again = tokenise_shard(conversations, tmp_path / "tools", "00000-of-00002", tmp_path / "again")
    assert again.reused
    with monkeypatch.context() as patch:
        patch.setattr(fanout, "code_digest", lambda: "of another program")
        assert not tokenise_shard(conversations, tmp_path / "tools", "00000-of-00002", tmp_path / "newer").reused
    fanout.plan_tokenise(conversations, debug_codec, None, tmp_path / "other", shards=2, shard_conversations=1, **BPE)
    assert not tokenise_shard(conversations, tmp_path / "other", "00000-of-00002", tmp_path / "third").reused


def test_a_killed_shard_goes_on_in_another_pod(
    tmp_path: Path, conversations: Path, debug_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fanout.plan_tokenise(conversations, debug_codec, None, tmp_path / "tools", shards=1, shard_conversations=1)
    script = tmp_path / "shard.py"
    script.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom csm_components.sharding import ShardStore\n"
        "from csm_components.tokenise import fanout\n"
        "keep = ShardStore.keep\n"
        "def slow(store, *names):\n    keep(store, *names)\n    print('kept', flush=True)\n    signal.pause()\n"
        "ShardStore.keep = slow\n"
        "conversations, tools, out = map(Path, sys.argv[1:])\n"
        "fanout.tokenise_shard(conversations, tools, '00000-of-00001', out, workers=1,\n"
        "    shard_conversations=1)\n"
    )
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    command = [sys.executable, str(script), str(conversations), str(tmp_path / "tools"), str(tmp_path / "pod-1")]
    with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as pod:
        assert pod.stdout is not None
        assert pod.stdout.readline() == b"kept\n"
        os.kill(pod.pid, signal.SIGKILL)
    made: list[str] = []
    keep = ShardStore.keep

    def noted(store: ShardStore, *names: str) -> None:
        made.append(names[-1])
        keep(store, *names)

    monkeypatch.setattr(ShardStore, "keep", noted)
    tokenise_shard(conversations, tmp_path / "tools", "00000-of-00001", tmp_path / "pod-2")
    assert sorted(made) == [f"parts/{name}.json" for name in ("test-00000", "train-00001", "validation-00000")]
    (kept,) = (path for path in (tmp_path / "storage").rglob("train-00000.safetensors"))
    assert kept.read_bytes() == (tmp_path / "pod-2/train-00000.safetensors").read_bytes()


def test_a_damaged_file_of_a_stopped_shard_is_made_again(
    tmp_path: Path, conversations: Path, debug_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = fan_out(conversations, debug_codec, tmp_path, 1)
    key = read_json(parts[0] / MADE)["key"]
    kept = tmp_path / "storage/shards/tokenise" / key
    write_json(kept / "parts/train-00000.json", {"key": "of another", "row": None})
    (kept / "train-00000.safetensors").write_bytes(b"half")
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    tokenise_shard(conversations, tmp_path / "tools", "00000-of-00001", tmp_path / "pod-2")
    for path in parts[0].glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "pod-2" / path.name).read_bytes()
