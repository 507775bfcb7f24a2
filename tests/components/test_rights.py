"""Rights from a corpus's record to what later steps refuse, in each layout that has them; and how a policy travels."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import soundfile
from rich.console import Console

from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.layouts import find_sounds, read_corpus
from csm_components.ingest.policy import USES, Policy, load_policy
from csm_components.ingest.records import TurnRights
from csm_components.ingest.rights import RecordGate
from csm_components.ingest.step import IngestResult, ingest
from csm_components.made import Record, enter
from csm_components.storage import LocalStorage
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_model.errors import InputError
from csm_model.files import read_json
from csm_pipelines.keys import StepKey, rights_now

QUIET = Console(quiet=True)
ANY_CODEC = CheckSettings(min_energy_correlation=-1)
RIGHTS = {"consent": "17", "expires": "2027-01-31", "uses": ["train", "evaluate"], "url": "https://talks.example/1"}
READ = TurnRights(consent="17", expires="2027-01-31", uses=("train", "evaluate"), url="https://talks.example/1")
LINES = ("Good morning to you.", "The sun is out again.", "Two tickets, please.", "That is nine pounds.")


@pytest.fixture
def write_turns(tmp_path: Path, say: Callable[..., Any]) -> Callable[..., Path]:
    """Writes a JSONL corpus of one conversation a line, with more fields for each."""

    def write(*fields: dict[str, Any]) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        rows = []
        for number, (text, more) in enumerate(zip(LINES, fields, strict=True)):
            soundfile.write(folder / f"{number}.flac", say(text), 24_000)
            rows.append({"audio": f"{number}.flac", "text": text, "speaker": "0", "license": "MIT"} | more)
        (folder / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


def quiet(corpus: Path, out: Path, **options: Any) -> IngestResult:
    return ingest(corpus, out, workers=1, console=QUIET, **options)


def reasons(out: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (out / "rejected.jsonl").read_text().splitlines()]


def test_each_layout_that_has_rights_reads_them(tmp_path: Path, write_corpus: dict[str, Callable[..., Path]]) -> None:
    jsonl, table = tmp_path / "jsonl", tmp_path / "table"
    for folder in (jsonl, table):
        folder.mkdir()
        (folder / "a.wav").write_bytes(b"")
    (jsonl / "t.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "Hello.", "speaker": "x"} | RIGHTS) + "\n")
    (table / "t.csv").write_text(
        "audio,text,speaker,consent,expires,uses,url\n"
        "a.wav,Hello.,x,17,2027-01-31,evaluate train,https://talks.example/1\n"
    )
    lhotse = write_corpus["lhotse"](tmp_path / "lhotse")
    lines = [json.loads(line) for line in (lhotse / "supervisions.jsonl").read_text().splitlines()]
    for line in lines:
        line["custom"] |= RIGHTS
    (lhotse / "supervisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for folder in (jsonl, table, lhotse):
        corpus = read_corpus(folder, find_sounds(folder))
        assert {turn.rights for source in corpus.conversations for turn in source.turns} == {READ}


def test_a_wrong_right_costs_its_record(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "t.csv").write_text("audio,text,speaker,expires\na.wav,Hello.,x,soon\na.wav,Yes.,x,2027-01-31\n")
    corpus = read_corpus(tmp_path, find_sounds(tmp_path))
    assert [(row.reason, "ISO 8601" in row.detail) for row in corpus.rejections] == [("damaged record", True)]
    (tmp_path / "t.jsonl").write_text('{"audio": "a.wav", "text": "Hello.", "speaker": "x", "uses": "trian"}\n')
    corpus = read_corpus(tmp_path, find_sounds(tmp_path))
    assert [row.reason for row in corpus.rejections] == ["damaged record"]
    assert re.search(r"t\.jsonl:1: .*uses 'trian' is not one of .* did you mean train\?", corpus.rejections[0].detail)


def test_rights_go_with_the_turn_and_records_without_them_are_as_before(
    tmp_path: Path, write_turns: Callable[..., Path]
) -> None:
    plain = quiet(write_turns({}, {}, {}, {}), tmp_path / "plain")
    assert plain.expires is None
    assert "rights" not in (tmp_path / "plain" / "manifest.json").read_text()
    gate = RecordGate(today=date(2027, 1, 1))
    result = quiet(write_turns({}, RIGHTS, RIGHTS | {"expires": "2029-01-01"}, {}), tmp_path / "out", gate=gate)
    assert (result.turns, result.expires) == (4, "2027-01-31")
    turns = {turn.text: turn.rights for item in read_conversations(tmp_path / "out") for turn in item.turns}
    assert (turns[LINES[0]], turns[LINES[1]]) == (None, READ)
    assert result.digest != plain.digest


def test_what_expires_is_left_out_from_the_day_after_and_the_rest_is_not_made_again(
    tmp_path: Path, write_turns: Callable[..., Path], debug_codec: Path
) -> None:
    corpus, out = write_turns({}, {"expires": "2001-02-03"}, {}, {}), tmp_path / "out"
    assert quiet(corpus, out, gate=RecordGate(today=date(2001, 2, 3))).turns == 4
    assert quiet(corpus, out, gate=RecordGate(today=date(2001, 2, 1))).reused, "the day alone changes nothing"
    with pytest.raises(InputError, match=r"may be used until 2001-02-03, and today is .* run ingest again"):
        tokenise(out, debug_codec, None, tmp_path / "tokens", workers=1, check=ANY_CODEC, console=QUIET)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    result = quiet(corpus, out, gate=RecordGate(today=date(2001, 2, 4)))
    assert (result.turns, result.expires, reasons(out)) == (3, None, ["expired"])
    assert {path.name: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}.items() <= kept.items()
    assert tokenise(out, debug_codec, None, tmp_path / "tokens", workers=1, check=ANY_CODEC, console=QUIET).turns == 3


def test_research_licences_are_taken_by_research_and_said_to_be(
    tmp_path: Path, write_turns: Callable[..., Path]
) -> None:
    corpus = write_turns({}, {"license": "CC BY-NC 4.0"}, {}, {})
    policy = Policy(licenses={**Policy().licenses, "CC-BY-NC-4.0": ("research",)})
    assert quiet(corpus, tmp_path / "a", gate=RecordGate(policy=policy)).turns == 3
    assert reasons(tmp_path / "a") == ["not for this use"]
    assert quiet(corpus, tmp_path / "b", gate=RecordGate(policy=policy, use="research")).turns == 4
    manifest = read_json(tmp_path / "b" / "manifest.json")
    assert (manifest["use"], manifest["licenses"]) == ("research", {"CC-BY-NC-4.0": 1, "MIT": 3})
    assert "use" not in read_json(tmp_path / "a" / "manifest.json")


def test_own_calls_are_taken_by_the_document_that_their_corpus_holds(
    tmp_path: Path, write_turns: Callable[..., Path]
) -> None:
    corpus = write_turns(*[{"license": None}] * 4)
    text = "LDC User Agreement for Non-Members\n\nYou may train.\n"
    (corpus / "LICENSE").write_text(text)
    with pytest.raises(InputError, match="'LDC User Agreement for Non-Members' is not on the list"):
        quiet(corpus, tmp_path / "out")
    (tmp_path / "agreement.txt").write_text(text)
    (tmp_path / "policy.toml").write_text(
        '[licenses.LicenseRef-LDC]\ndocument = "agreement.txt"\napprover = "J. Doe"\nuses = ["train"]\n'
        f'sha256 = "{hashlib.sha256(text.encode()).hexdigest()}"\n'
    )
    policy = load_policy(tmp_path / "policy.toml")
    assert quiet(corpus, tmp_path / "out", gate=RecordGate(policy=policy)).turns == 4
    assert read_json(tmp_path / "out" / "manifest.json")["licenses"] == {"LicenseRef-LDC": 4}


def test_a_changed_policy_converts_only_what_it_changes(tmp_path: Path, write_turns: Callable[..., Path]) -> None:
    corpus, out = write_turns({}, {"license": "CC-BY-4.0"}, {}, {}), tmp_path / "out"
    quiet(corpus, out)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    assert quiet(corpus, out, gate=RecordGate(policy=Policy(licenses={"MIT": USES}))).turns == 3
    now = {path.name: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    assert len(now) == 3
    assert now.items() <= kept.items()


def test_the_key_of_ingest_on_a_cluster_knows_who_is_blocked_and_what_has_expired(tmp_path: Path) -> None:
    storage, keys = LocalStorage(tmp_path), {"ingest": StepKey(step="ingest", inputs={}, upstream=(), key="k")}
    day = date(2027, 2, 1)
    assert rights_now(storage, keys, day) == {}
    enter(storage, Record(step="ingest", key="k", result={"expires": "2027-02-01"}))
    assert rights_now(storage, keys, day) == {}
    enter(storage, Record(step="ingest", key="k", result={"expires": "2027-01-31"}))
    assert rights_now(storage, keys, day) == {"expired": "2027-01-31"}
    (tmp_path / "blocklist.jsonl").write_text('{"kind": "speaker", "value": "anna"}\n')
    first = rights_now(storage, keys, day)
    (tmp_path / "blocklist.jsonl").write_text('{"kind": "speaker", "value": "ben"}\n')
    assert rights_now(storage, keys, day)["blocklist"] != first["blocklist"]
