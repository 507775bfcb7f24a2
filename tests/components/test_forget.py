"""What is forgotten is gone: no byte of its sound or text stays, here or in a real S3 service, and it never comes back.

The rest stays whole. A forgetting that is killed anywhere is started again, and ends as if nothing had been.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from csm_components.forget.forget import Forgotten, forget
from csm_components.forget.shelves import RunsShelf
from csm_components.ingest.blocklist import BLOCKLIST, blocklist_here
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.fanout import ingest_shard
from csm_components.ingest.rights import open_gate
from csm_components.ingest.step import ingest
from csm_components.settings import Settings
from csm_components.storage import LocalStorage, Storage, open_storage
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_components.tracking import Tracker
from csm_components.tree_list import TREE, tree_of
from csm_model.errors import InputError
from csm_model.files import read_json, write_json

QUIET = Console(quiet=True)
ANY_CODEC = CheckSettings(min_energy_correlation=-1)
NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)
CALLS = {
    "call-1": [("anna", "The harbour was empty this morning."), ("ben", "Nobody had told the fishermen.")],
    "call-2": [("ben", "We planted seven apple trees."), ("clara", "Two of them are blooming already.")],
    "call-3": [("clara", "My brother mends old clocks."), ("anna", "He might look at my grandfather's.")],
    "call-4": [("ben", "The train stops in every village."), ("clara", "Then bring a long book with you.")],
}
ANNAS = [text for turns in CALLS.values() for speaker, text in turns if speaker == "anna"]


@dataclass(frozen=True)
class House:
    """A corpus, and what runs have made of it."""

    corpus: Path
    runs: Path
    digest: str

    @property
    def run(self) -> Path:
        return self.runs / "demo-1"


def sound_of(text: str) -> np.ndarray:
    """As long as the text takes to say, and like no other text's: float32 `[S]`, 24 kHz."""
    rng = np.random.default_rng(list(text.encode()))
    tone = np.sin(np.arange(round((0.3 + len(text) / 15) * 24_000)) * rng.uniform(0.02, 0.08))
    return (0.2 * tone + 0.02 * rng.standard_normal(len(tone))).astype(np.float32)


def write_calls(folder: Path) -> Path:
    """`CALLS`, a file a turn, as JSONL with addresses."""
    (folder / "audio").mkdir(parents=True)
    rows = []
    for call, turns in CALLS.items():
        for number, (speaker, text) in enumerate(turns):
            name = f"audio/{call}-{number}.flac"
            soundfile.write(folder / name, sound_of(text), 24_000)
            url = {"url": f"https://talks.example/{call}"}
            rows.append({"audio": name, "text": text, "speaker": speaker, "conversation": call, "license": "MIT"} | url)
    (folder / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, debug_codec: Path) -> House:
    """A run up to its tokens, with what evaluate, train and the log leave of it; and another that knows nobody here."""
    home = tmp_path_factory.mktemp("house")
    corpus, runs = write_calls(home / "corpus"), home / "runs"
    run = runs / "demo-1"
    digest = ingest(corpus, run / "ingest", workers=1, console=QUIET).digest
    tokenise(run / "ingest", debug_codec, None, run / "tokens", workers=1, check=ANY_CODEC, console=QUIET)
    write_json(run / "config.json", {"preset": "demo"})
    (run / "evaluate" / "clips" / "original").mkdir(parents=True)
    shutil.copy(corpus / "audio" / "call-1-0.flac", run / "evaluate" / "clips" / "original" / "call-1-000.1.wav")
    (run / "evaluate" / "report.html").write_text("<td>Nothing</td>")
    (run / "logs").mkdir()
    (run / "logs" / "ingest.log").write_text(f"call-3-001\t{ANNAS[1]}\n")
    (run / "report.html").write_text(f"<p>{ANNAS[1].replace(chr(39), '&#x27;')}</p>")
    write_json(run / "train" / "final" / "manifest.json", {"digest": "f" * 64, "dataset_digest": digest})
    (run / "train" / "final" / "model.safetensors").write_bytes(b"weights")
    other = runs / "demo-2"
    write_json(other / "config.json", {"preset": "demo"})
    (other / "report.html").parent.mkdir(exist_ok=True)
    (other / "report.html").write_text("<p>Somebody else's words.</p>")
    return House(corpus, runs, digest)


@pytest.fixture
def house(made: House, tmp_path: Path) -> House:
    """A copy of it."""
    shutil.copytree(made.runs, tmp_path / "runs")
    return House(made.corpus, tmp_path / "runs", made.digest)


def needles(house: House) -> list[bytes]:
    """Bytes of Anna's words and of the sound that she is heard in."""
    found = [text.encode() for text in ANNAS]
    for call, begin, end in (("call-1", 0.05, 0.45), ("call-3", 0.6, 0.95)):  # where she speaks
        sound = (house.run / "ingest" / "audio" / f"{call}.flac").read_bytes()
        pieces = [sound[at : at + 48] for at in range(int(begin * len(sound)), int(end * len(sound)), 997)]
        found += [piece for piece in pieces if len(set(piece)) > 24]  # not the silence that is in every call
    assert len(found) > 20
    return found


def read_here(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files, unpacked where they are packed."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield str(path), gzip.decompress(data) if path.suffix == ".gz" else data


def read_stored(storage: Storage, scratch: Path) -> Iterator[tuple[str, bytes]]:
    """The same of a storage."""
    for key in storage.list():
        storage.get_file(key, scratch / "fetched" / key)
    yield from read_here(scratch / "fetched")


def left(files: Iterator[tuple[str, bytes]], searched: Sequence[bytes]) -> list[str]:
    return [name for name, data in files if any(needle in data for needle in searched)]


def here(house: House, value: str = "anna", **options: Any) -> Forgotten:
    return forget(value, runs=house.runs, now=NOW, **options)


def test_a_speaker_is_gone_and_the_rest_stays_whole(house: House) -> None:
    searched = needles(house)
    assert len(left(read_here(house.runs), searched)) >= 6
    before = {path: path.read_bytes() for path in house.runs.rglob("*") if path.is_file()}
    told = here(house, dry_run=True)
    assert {path: path.read_bytes() for path in house.runs.rglob("*") if path.is_file()} == before
    done = here(house)
    assert left(read_here(house.runs), searched) == []
    assert (done.removed, done.conversations) == (told.removed, 2)
    assert done.bytes == sum(len(before[path]) for path in before if not path.exists())
    assert done.datasets == [house.digest]
    assert done.bundles == [f"{house.runs}/demo-1/train/final"]
    parts = sorted(path.stem for path in (house.run / "ingest" / "parts").iterdir())
    assert parts == ["call-2", "call-4"], "what nobody asked to forget is not made again"
    assert (house.run / "train" / "final" / "model.safetensors").read_bytes() == b"weights"
    assert (house.runs / "demo-2" / "report.html").is_file()


def test_a_run_after_it_never_brings_it_back(house: House) -> None:
    searched = needles(house)
    here(house)
    with open_gate(None, runs=house.runs) as gate:
        result = ingest(house.corpus, house.run / "ingest", gate=gate, workers=1, console=QUIET)
        assert left(read_here(house.runs), searched) == []
        assert (result.turns, result.rejected) == (6, 2)
        turns = [turn for item in read_conversations(house.run / "ingest") for turn in item.turns]
        assert {turn.speaker for turn in turns} == {int(number) for number in result.speakers}
        assert sorted(result.speakers.values()) == ["ben", "clara"]
        reasons = read_json(house.run / "ingest" / "manifest.json")["rejected"]
        assert reasons == {"blocked": 2}
        again = here(house)
        assert (again.removed, again.conversations) == ([], 0), "nothing of her is left to be removed"
        assert ingest(house.corpus, house.run / "ingest", gate=gate, workers=1, console=QUIET).reused


def test_killed_anywhere_and_started_again_it_ends_as_if_nothing_had_been(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, remove = needles(house), RunsShelf.remove
    shutil.copytree(house.runs, tmp_path / "whole")
    here(House(house.corpus, tmp_path / "whole", house.digest))
    expected = tree_of(tmp_path / "whole")["files"]

    class Killed(BaseException):
        pass

    step = 0
    while True:
        runs, budget = tmp_path / f"runs-{step}", step
        shutil.copytree(house.runs, runs)

        def stopping(shelf: RunsShelf, keys: Sequence[str]) -> None:
            nonlocal budget
            for key in keys:
                if not budget:
                    raise Killed
                budget -= 1
                remove(shelf, [key])

        monkeypatch.setattr(RunsShelf, "remove", stopping)
        killed = False
        try:
            forget("anna", runs=runs, now=NOW)
        except Killed:
            killed = True
        monkeypatch.setattr(RunsShelf, "remove", remove)
        forget("anna", runs=runs, now=NOW)
        assert tree_of(runs)["files"] == expected, f"killed after {step} files"
        assert left(read_here(runs), searched) == []
        shutil.rmtree(runs)
        if not killed:
            break
        step += 1
    assert step > 12


@pytest.mark.parametrize(
    ("value", "kind", "calls"),
    [
        ("call-2", "recording", 1),
        ("audio/call-4-1.flac", "recording", 1),
        ("https://talks.example/call-3", "url", 1),
        ("clara", "speaker", 3),
    ],
)
def test_what_a_name_is_is_found(house: House, value: str, kind: str, calls: int) -> None:
    done = here(house, value)
    assert done.names == [{"kind": kind, "value": value}]
    assert done.conversations == calls
    assert [(row.kind, row.value) for row in blocklist_here(house.runs).rows] == [(kind, value)]


def test_nobody_by_that_name(house: House) -> None:
    with pytest.raises(InputError, match=r"'dora': nothing here is of .* say what it is with --kind"):
        here(house, "dora")
    assert not (house.runs / BLOCKLIST).exists()
    assert here(house, "dora", kind="speaker").removed == []
    assert here(house, "dora").names == [{"kind": "speaker", "value": "dora"}], "the blocklist knows her now"


def test_every_version_that_has_heard_it_is_named_and_marked(house: House) -> None:
    tracker = Tracker(folder=house.runs / "forget")

    def register(name: str, **tags: str) -> None:
        tracker.register(name, source="x", run_id=None, tags=tags, description="x")

    register("calls", bundle_digest="q1", parent_digest="f" * 64, dataset_digest=house.digest)
    register("calls", bundle_digest="q2", parent_digest="f2", dataset_digest="others")
    register("tuned", bundle_digest="q3", parent_digest="f3", base_digest="f" * 64, dataset_digest="others")
    register("tuned-again", bundle_digest="q4", parent_digest="f4", base_digest="f3", dataset_digest="others")
    register("fresh", bundle_digest="q5", parent_digest="f5", dataset_digest="others")
    with tracker.step("evaluate") as log:
        log.tags({"dataset_digest": house.digest})
        log.artifact(house.run / "report.html")
    heard = [("calls", 1), ("tuned", 1), ("tuned-again", 1)]
    told = here(house, tracker=tracker, dry_run=True)
    assert [(row.model, row.version) for row in told.versions] == heard
    done = here(house, tracker=tracker)
    assert done.versions == told.versions
    assert left(read_here(house.runs / "mlruns"), [b"grandfather"]) == []
    again = here(house, tracker=tracker)
    assert (again.versions, again.removed) == (done.versions, []), "named again, by their marks"
    marks = tracker.client.get_model_version("tuned-again", "1").tags
    assert [value for name, value in marks.items() if name.startswith("forgotten.")] == ["2027-01-31"]
    assert "anna" not in json.dumps(marks)


def test_no_byte_stays_in_a_storage_that_is_a_folder(house: House, tmp_path: Path) -> None:
    nothing_stays(house, LocalStorage(tmp_path / "storage"), tmp_path)


def test_no_byte_stays_in_s3(house: House, tmp_path: Path, s3: Settings) -> None:
    nothing_stays(house, open_storage("s3://forget/csm", s3), tmp_path)


def nothing_stays(house: House, storage: Storage, tmp_path: Path) -> None:
    """Forgets a speaker in a storage with all that steps put there, and searches what is left byte by byte."""
    searched = needles(house)
    for name in ("00000-of-00002", "00001-of-00002"):
        shard = ingest_shard(str(house.corpus), name, tmp_path / name, workers=1, console=QUIET)
        storage.put_tree(tmp_path / name, f"shards/ingest/{shard.key}")
    storage.put_tree(house.run / "ingest", f"conversations/{house.digest}")
    storage.put_tree(house.run / "tokens", "tokens/t1")
    storage.put_tree(house.run / "tokens", "shards/tokenise/k1")
    storage.put_tree(house.run / "evaluate", "evaluations/e1")
    storage.put_tree(house.corpus, f"inputs/{tree_of(house.corpus)['digest']}")
    storage.put_tree(house.corpus, "corpora/calls")
    storage.put_tree(house.runs / "demo-2", "evaluations/e2")
    storage.delete(f"conversations/{house.digest}/{TREE}")  # as a step or a forgetting leaves it that was stopped
    options: Any = {"storage": storage, "address": "s3://forget/csm", "now": NOW}
    told = forget("anna", dry_run=True, **options)
    done = forget("anna", **options)
    assert done.removed == told.removed
    assert done.yours == ["s3://forget/csm/corpora/calls"]
    kept = storage.list()
    assert [key for key in kept if not key.startswith("corpora/")] == [
        BLOCKLIST,
        f"evaluations/e2/{TREE}",
        "evaluations/e2/config.json",
        "evaluations/e2/report.html",
    ]
    for key in [key for key in kept if key.startswith("corpora/")]:
        storage.delete(key)  # which its keeper does
    assert left(read_stored(storage, tmp_path), searched) == []
    assert forget("anna", **options).removed == []
    with open_gate(None, storage=storage) as gate:
        for name in ("00000-of-00002", "00001-of-00002"):
            ingest_shard(str(house.corpus), name, tmp_path / f"again-{name}", gate=gate, workers=1, console=QUIET)
            assert left(read_here(tmp_path / f"again-{name}"), searched) == []
