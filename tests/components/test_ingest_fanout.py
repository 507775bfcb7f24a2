"""Ingest in shards: joined, they are byte for byte what one step writes, however many there are and whatever fails."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from csm_components.ingest import fanout
from csm_components.ingest.corpora import describe, open_corpus, work_of
from csm_components.ingest.step import ingest
from csm_components.s3 import S3Storage
from csm_components.settings import Settings
from csm_components.sharding import ShardStore, shard_names, shard_span, shard_tree
from csm_components.storage import open_storage
from csm_components.tree_list import MADE
from csm_model.errors import InputError
from csm_model.files import read_json

QUIET = Console(quiet=True)
Writers = dict[str, Callable[..., Path]]
ingest_shard = functools.partial(fanout.ingest_shard, workers=1, console=QUIET)
join = functools.partial(fanout.join_ingest, console=QUIET)


def files_in(folder: Path) -> dict[str, bytes]:
    """What a folder holds; the record of how it was made is no part of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MADE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def fan_out(corpus: str, home: Path, shards: int, **options: object) -> list[Path]:
    """All shards of a corpus, each in a folder of its own; returns the folders."""
    plan = fanout.plan_ingest(corpus, shards=shards, **options)  # type: ignore[arg-type]
    for name in plan.shards:
        ingest_shard(corpus, name, home / name, **options)
    return [home / name for name in plan.shards]


@pytest.mark.parametrize(("items", "shards"), [(1, 1), (4, 4), (10, 3), (3, 8), (1000, 7)])
def test_shards_cover_all_items_once_and_evenly(items: int, shards: int) -> None:
    names = shard_names(shards, items)
    taken = [list(range(items))[shard_span(name, [7] * items)] for name in names]
    assert [item for part in taken for item in part] == list(range(items))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert len(names) == min(shards, items)


@pytest.mark.parametrize("seed", range(100))
def test_shards_are_even_in_work(seed: int) -> None:
    rng = random.Random(seed)
    work = [rng.choice([1, rng.randint(1, 30), rng.randint(1, 3000)]) for _ in range(rng.randint(1, 60))]
    work[rng.randrange(len(work))] *= rng.choice([1, 1, 20])
    names = shard_names(rng.randint(1, 12), len(work))
    spans = [shard_span(name, work) for name in names]
    assert [item for span in spans for item in range(len(work))[span]] == list(range(len(work)))
    sums = [sum(work[span]) for span in spans]
    assert min(sums) > 0
    assert max(sums) <= 2 * max(max(work), sum(work) / len(names))  # one that is long holds up itself alone


def test_a_long_recording_is_a_shard_of_its_own(tmp_path: Path) -> None:
    def line(name: str, seconds: float) -> str:
        row = {"audio": f"{name}.wav", "text": "x", "speaker": "a", "start": seconds - 1, "duration": 1}
        return json.dumps(row) + "\n"

    lengths = [300.0] * 6 + [28_800.0] + [300.0] * 6
    (tmp_path / "t.jsonl").write_text("".join(line(f"c{at:02}", seconds) for at, seconds in enumerate(lengths)))
    for at in range(len(lengths)):
        (tmp_path / f"c{at:02}.wav").touch()
    with open_corpus(str(tmp_path)) as files:
        work = work_of(files, describe(files).corpus.conversations)
    assert work == [round(1000 * seconds) for seconds in lengths]
    spans = [shard_span(name, work) for name in shard_names(4, len(work))]
    assert [span.stop - span.start for span in spans].count(1) == 1
    assert max(sum(work[span]) for span in spans) == 28_800_000


def test_without_times_files_tell_how_long_they_are(tmp_path: Path) -> None:
    for at, size in enumerate((1000, 50, 50)):
        (tmp_path / f"c{at}.wav").write_bytes(bytes(size))
    rows = [{"audio": f"c{at}.wav", "text": "x", "speaker": "a"} for at in range(3)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_corpus(str(tmp_path)) as files:
        assert work_of(files, describe(files).corpus.conversations) == [1000, 50, 50]


@pytest.mark.parametrize("name", ["", "0-of-4", "00004-of-00004", "00000-of-00000", "00001-of-00004/..", "x"])
def test_a_shard_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be NUMBER-of-COUNT"):
        shard_span(name, [1] * 10)


@pytest.mark.parametrize("shards", [0, -1, 100_000])
def test_a_number_of_shards_that_cannot_be_is_refused(shards: int) -> None:
    with pytest.raises(InputError, match="must be 1 to 99999"):
        shard_names(shards, 10)


@pytest.mark.parametrize(("layout", "shards"), [("lhotse", 1), ("lhotse", 3), ("lhotse", 9), ("librispeech", 2)])
def test_joined_shards_are_what_one_step_writes(
    tmp_path: Path, write_corpus: Writers, layout: str, shards: int
) -> None:
    corpus = write_corpus[layout](tmp_path / "corpus")
    (corpus / "nobody-speaks-of-it.wav").write_bytes(b"")
    ingest(corpus, tmp_path / "whole", workers=1, console=QUIET)
    parts = fan_out(str(corpus), tmp_path / "parts", shards)
    joined = join(list(reversed(parts)), str(corpus), tmp_path / "joined")
    assert files_in(tmp_path / "joined") == files_in(tmp_path / "whole")
    assert not joined.reused
    assert join(parts, str(corpus), tmp_path / "joined").reused


def test_a_limit_and_a_default_licence_reach_every_shard(tmp_path: Path, write_corpus: Writers) -> None:
    corpus = write_corpus["librispeech"](tmp_path / "corpus")
    options = {"max_conversations": 3, "default_license": "CC0-1.0"}
    ingest(corpus, tmp_path / "whole", workers=1, console=QUIET, **options)  # type: ignore[arg-type]
    parts = fan_out(str(corpus), tmp_path / "parts", 2, **options)
    join(parts, str(corpus), tmp_path / "joined", **options)  # type: ignore[arg-type]
    assert files_in(tmp_path / "joined") == files_in(tmp_path / "whole")
    assert read_json(tmp_path / "joined/manifest.json")["licenses"] == {"CC0-1.0": 6}


def test_a_stored_corpus_is_joined_to_the_same_and_a_shard_fetches_its_own_sound_alone(
    s3: Settings, tmp_path: Path, write_corpus: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus["librispeech"](tmp_path / "corpus")
    ingest(corpus, tmp_path / "whole", workers=1, console=QUIET)
    open_storage("s3://corpora/read", s3).put_tree(corpus, "books")
    fetched: list[str] = []
    get_file = S3Storage.get_file

    def noted(storage: S3Storage, key: str, path: Path) -> None:
        fetched.append(key)
        get_file(storage, key, path)

    monkeypatch.setattr(S3Storage, "get_file", noted)
    parts = []
    url = "s3://corpora/read/books"
    plan = fanout.plan_ingest(url, shards=4, settings=s3)
    assert not [key for key in fetched if key.endswith(".flac")]
    for name in plan.shards:
        fetched.clear()
        ingest_shard(url, name, tmp_path / name, settings=s3)
        parts.append(tmp_path / name)
        (part,) = (tmp_path / name / "parts").glob("*.json")
        speaker, chapter = part.stem.split("-")
        assert {key.rpartition("/")[0] for key in fetched if key.endswith(".flac")} == {
            f"books/train-clean-5/{speaker}/{chapter}"
        }
    fetched.clear()
    join(parts, url, tmp_path / "joined", settings=s3)
    assert not [key for key in fetched if key.endswith(".flac")]
    assert files_in(tmp_path / "joined") == files_in(tmp_path / "whole")


def test_a_failed_shard_is_retried_alone(tmp_path: Path, lhotse_corpus: Path) -> None:
    plan = fanout.plan_ingest(str(lhotse_corpus), shards=2)
    first, second = (tmp_path / name for name in plan.shards)
    ingest_shard(str(lhotse_corpus), plan.shards[0], first)
    before = files_in(first)
    (second / "audio").mkdir(parents=True)
    (second / "audio/talk-3.flac").mkdir()  # the disk says no
    with pytest.raises(OSError):  # noqa: PT011
        ingest_shard(str(lhotse_corpus), plan.shards[1], second)
    with pytest.raises(InputError, match=r"shard\.json: no such file"):
        join([first, second], str(lhotse_corpus), tmp_path / "joined")
    with pytest.raises(InputError, match="conversation talk-3 is in none of 1 shards"):
        join([first], str(lhotse_corpus), tmp_path / "joined")
    (second / "audio/talk-3.flac").rmdir()
    ingest_shard(str(lhotse_corpus), plan.shards[1], second)
    assert files_in(first) == before
    assert join([first, second], str(lhotse_corpus), tmp_path / "joined").conversations == 4


def test_a_corpus_that_changed_since_is_refused(tmp_path: Path, lhotse_corpus: Path) -> None:
    parts = fan_out(str(lhotse_corpus), tmp_path / "parts", 2)
    table = lhotse_corpus / "supervisions.jsonl"
    table.write_text(table.read_text().replace("Two tickets, please.", "Three tickets, please."))
    with pytest.raises(InputError, match=r"talk-3 has changed since .*00001-of-00002 was made; run the shards again"):
        join(parts, str(lhotse_corpus), tmp_path / "joined")


def test_another_run_takes_a_shard_from_the_storage_by_its_content(
    tmp_path: Path, lhotse_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    name = "00001-of-00002"
    made = ingest_shard(str(lhotse_corpus), name, tmp_path / "one")
    assert not made.reused
    again = ingest_shard(str(lhotse_corpus), name, tmp_path / "two")
    assert (again.reused, again.key) == (True, made.key)
    assert files_in(tmp_path / "two") == files_in(tmp_path / "one")

    moved = tmp_path / "elsewhere"
    shutil.copytree(lhotse_corpus, moved)
    assert ingest_shard(str(moved), name, tmp_path / "three").reused
    with monkeypatch.context() as patch:
        patch.setattr(fanout, "code_digest", lambda: "of another program")
        assert not ingest_shard(str(moved), name, tmp_path / "four").reused
    shutil.copyfile(moved / "audio/talk-1.flac", moved / "audio/talk-4.flac")
    assert ingest_shard(str(moved), "00000-of-00002", tmp_path / "five").reused is False
    assert not ingest_shard(str(moved), name, tmp_path / "six").reused


def test_a_shard_of_which_files_are_gone_is_made_again(
    tmp_path: Path, lhotse_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    name = "00001-of-00002"
    made = ingest_shard(str(lhotse_corpus), name, tmp_path / "one")
    storage = open_storage()
    gone = next(key for key in storage.list(f"{shard_tree('ingest', made.key)}/") if key.endswith(".flac"))
    storage.delete(gone)
    again = ingest_shard(str(lhotse_corpus), name, tmp_path / "two")
    assert (again.reused, again.key) == (False, made.key)
    assert files_in(tmp_path / "two") == files_in(tmp_path / "one")
    assert storage.exists(gone), "kept whole again"


def test_the_keys_of_all_shards_are_known_before_any_is_made(tmp_path: Path, lhotse_corpus: Path) -> None:
    keys = fanout.shard_keys(str(lhotse_corpus), shards=3)
    plan = fanout.plan_ingest(str(lhotse_corpus), shards=3)
    made = {name: ingest_shard(str(lhotse_corpus), name, tmp_path / name).key for name in plan.shards}
    assert keys == made


def test_a_killed_shard_goes_on_in_another_pod(
    tmp_path: Path, lhotse_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "shard.py"
    script.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom csm_components.ingest import fanout, step\n"
        "from csm_components.sharding import ShardStore\n"
        "keep = ShardStore.keep\n"
        "def slow(store, *names):\n    keep(store, *names)\n    print('kept', flush=True)\n    signal.pause()\n"
        "ShardStore.keep = slow\n"
        "fanout.ingest_shard(sys.argv[1], '00000-of-00001', Path(sys.argv[2]), workers=1)\n"
    )
    environment = {**os.environ, "CSM_STORAGE": str(tmp_path / "storage")}
    command = [sys.executable, str(script), str(lhotse_corpus), str(tmp_path / "pod-1")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as pod:
        assert pod.stdout is not None
        assert pod.stdout.readline() == b"kept\n"
        os.kill(pod.pid, signal.SIGKILL)
    kept = [path for path in (tmp_path / "storage").rglob("*.json") if path.parent.name == "parts"]
    assert len(kept) == 1
    made: list[str] = []
    keep = ShardStore.keep

    def noted(store: ShardStore, *names: str) -> None:
        made.append(Path(names[-1]).name)
        keep(store, *names)

    monkeypatch.setattr(ShardStore, "keep", noted)
    monkeypatch.setenv("CSM_STORAGE", str(tmp_path / "storage"))
    assert not ingest_shard(str(lhotse_corpus), "00000-of-00001", tmp_path / "pod-2").reused
    assert sorted([*made, kept[0].name]) == [f"talk-{number}.json" for number in range(1, 5)], "none is made twice"
    ingest(lhotse_corpus, tmp_path / "whole", workers=1, console=QUIET)
    join([tmp_path / "pod-2"], str(lhotse_corpus), tmp_path / "joined")
    assert files_in(tmp_path / "joined") == files_in(tmp_path / "whole")
