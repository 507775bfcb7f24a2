"""The data card and what is said of a record: equal to what the shards hold."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from planted_faults import clips_of
from rich.console import Console
from typer.testing import CliRunner

from csm_cli.cli import app
from csm_components.annotate.annotations import FORMAT, RECORDINGS, TURNS, write_rows
from csm_components.datacard.facts import EDGES, histogram, read_facts
from csm_components.datacard.page import drawn, write_page
from csm_components.datacard.record import find_folders, find_record, read_records, why
from csm_components.datacard.summary import CARD, markdown
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.step import ingest
from csm_model.errors import DigestError, InputError
from csm_model.files import digest_of_file, write_json

LANGUAGES = ("en", "en-GB", None)
LICENSES = ("CC0-1.0", "CC-BY-4.0", "No-Such-License")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: conversations of a corpus with two silent files, a noisy one and a licence that is not taken."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "corpus").mkdir()
    records, rows = [], []
    for number, clip in enumerate(clips_of("train", 12, 9)):
        sound = np.zeros_like(clip.sound) if number in (3, 7) else clip.sound
        soundfile.write(folder / "corpus" / f"{number}.flac", sound, 24_000)
        language = LANGUAGES[number % 3]
        records.append(
            {
                "id": f"turn{number}",
                "audio": f"{number}.flac",
                "text": clip.text,
                "speaker": "a" if number % 2 else "b",
                "conversation": f"c{number // 3}",
                "license": LICENSES[number % 3] if number == 5 else LICENSES[number % 2],
            }
            | ({"language": language} if language else {})
        )
        rows.append(
            {
                "id": f"turn{number}",
                "audio": f"{number}.flac",
                "speaker": "a",
                "text_heard": f"heard {number}",
                "channel": None,
                "start": 0.0,
                "end": len(sound) / 24_000,
                "text": clip.text,
                "language": {"given": language} if language else {},
                "figures": {"snr_db": 3.0 if number == 4 else 20.0 + number, "bandwidth_hz": 9_000.0},
            }
        )
    (folder / "corpus" / "all.jsonl").write_text("\n".join(map(json.dumps, records)))
    annotations = folder / "annotate"
    annotations.mkdir()
    write_rows(annotations / TURNS, rows)
    write_rows(annotations / RECORDINGS, [])
    sha256 = {name: digest_of_file(annotations / name) for name in (TURNS, RECORDINGS)}
    write_json(annotations / "manifest.json", {"format": FORMAT, "kind": "annotations", "sha256": sha256})
    quiet = Console(file=io.StringIO())
    ingest(folder / "corpus", folder / "ingest", annotations=annotations, workers=1, console=quiet)
    return folder


def test_its_numbers_are_those_of_the_shards(run: Path) -> None:
    facts = read_facts(run / "ingest")
    turns = [(source, turn) for source in read_conversations(run / "ingest") for turn in source.turns]
    heard = sum(len(source.audio(turn)) for source, turn in turns) / 24_000
    assert facts.kept.turns == len(turns)
    assert facts.kept.seconds == pytest.approx(heard, abs=2e-3)
    assert facts.conversations == len(list(read_conversations(run / "ingest")))
    for title, of in (
        ("licence", lambda source, turn: turn.license),
        ("split", lambda source, turn: source.split),
        ("corpus", lambda source, turn: "jsonl"),
    ):
        counted = Counter(of(source, turn) for source, turn in turns)
        assert {name: amount.turns for name, amount in facts.tables[title].items()} == counted
        seconds = sum(amount.seconds for amount in facts.tables[title].values())
        assert seconds == pytest.approx(facts.kept.seconds, abs=0.01)
    rejected = [json.loads(line) for line in (run / "ingest" / "rejected.jsonl").read_text().splitlines()]
    assert facts.left_out.turns == len(rejected) == 12 - len(turns)
    assert {name: amount.turns for name, amount in facts.tables["reason"].items()} == Counter(
        row["reason"] for row in rejected
    )
    assert facts.histograms["turn length, s"].total == len(turns)
    assert facts.histograms["speech over noise, dB"].total == len(turns)
    assert facts.histograms["speakers of a conversation"].total == facts.conversations
    gaps = facts.histograms["gap before a turn, s"].total + facts.histograms["overlap with the turn before, s"].total
    assert gaps == len(turns) - facts.conversations


@pytest.mark.parametrize("title", EDGES)
def test_every_value_is_in_one_bin(title: str) -> None:
    rng = np.random.default_rng(len(title))
    edges = EDGES[title]
    values = rng.uniform(edges[0] - 1, edges[-1] * 1.5 + 1, 500).tolist() + list(map(float, edges))
    found = histogram(values, edges)
    assert found.total == len(values)
    low, high = edges[2], edges[3]
    assert found.counts[2] == sum(low <= value < high for value in values)
    assert histogram([], edges).total == 0


def test_the_markdown_has_the_numbers_and_nobody_in_it(run: Path) -> None:
    text = (run / "ingest" / CARD).read_text()
    facts = read_facts(run / "ingest")
    assert text == markdown(facts)
    for rows in facts.tables.values():
        for name, amount in rows.items():
            assert f"| {name} | {amount.turns} | {amount.hours:.3f} |" in text
    for source in read_conversations(run / "ingest"):
        assert not any(turn.text in text or turn.id in text for turn in source.turns)


def test_the_page_has_players_of_what_may_be_heard(run: Path, tmp_path: Path) -> None:
    folders = find_folders(run)
    write_page(tmp_path / "card.html", folders, corpus=run / "corpus")
    page = (tmp_path / "card.html").read_text()
    kept = sum(row.kept for row in read_records(folders))
    heard = sum(row.reason in ("silent", "noisy") for row in read_records(folders))
    assert page.count("<audio") == kept + heard == 11, "one whose licence is not taken is not heard"
    assert page.count("<svg") == 5, "no turn overlaps"
    assert not re.search(r'(src|href)="(?!data:)', page)
    write_page(tmp_path / "few.html", folders, players=2)
    assert (tmp_path / "few.html").read_text().count("<audio") == 2


def test_players_are_drawn_over_all_reasons(run: Path) -> None:
    kept, left_out = drawn(read_records(find_folders(run)), 2)
    assert len(kept) == 2
    assert {row.reason for row in left_out} == {"silent", "noisy"}
    assert {row.reason for row in drawn(read_records(find_folders(run)), 3)[1]} == {
        "silent",
        "noisy",
        "unknown licence",
    }
    assert drawn(read_records(find_folders(run)), 2) == (kept, left_out)


def test_a_record_says_why_it_is_there_or_not(run: Path) -> None:
    folders = find_folders(run)
    (kept,), (silent,) = find_record(folders, "turn0"), find_record(folders, "turn3")
    assert why(kept) == f"turn0: kept, in {kept.split} (c0)"
    assert kept.figures == {"snr_db": 20.0, "bandwidth_hz": 9_000.0}
    assert kept.heard == "heard 0"
    assert why(silent) == "turn3: left out, silent: -120 dB of full scale, at least -55 dB are needed"
    (noisy,) = find_record(folders, "turn4")
    assert why(noisy) == "turn4: left out, noisy: speech 3 dB above the noise, at least 12 dB are needed"
    assert silent.figures["snr_db"] == 23.0
    assert {row.id for row in find_record(folders, "c1")} == {"turn3", "turn4", "turn5"}
    assert [row.id for row in find_record(folders, "3.flac")] == ["turn3"]
    with pytest.raises(InputError, match=r"'turn99': no turn, conversation or file of .*; did you mean turn9"):
        find_record(folders, "turn99")
    with pytest.raises(InputError, match="holds no conversations"):
        find_folders(run / "corpus")


def test_damage_is_told(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "ingest", tmp_path / "ingest")
    cuts = tmp_path / "ingest" / "cuts.jsonl.gz"
    cuts.write_bytes(cuts.read_bytes()[:-4])
    with pytest.raises(DigestError, match="is not the list that the manifest names"):
        read_facts(tmp_path / "ingest")


def asked(*words: object) -> Any:
    outcome = CliRunner().invoke(app, ["data", *map(str, words)])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_the_commands(run: Path, tmp_path: Path) -> None:
    assert asked("why", run, "turn3") == why(find_record(find_folders(run), "turn3")[0]) + "\n"
    (told,) = json.loads(asked("why", run, "turn3", "--json"))
    assert (told["kept"], told["reason"]) == (False, "silent")
    (shown,) = json.loads(asked("show", run / "ingest", "turn0", "--json"))
    assert shown["figures"] == {"snr_db": 20.0, "bandwidth_hz": 9_000.0}
    assert re.search(r"^snr_db +20\.0$", asked("show", run, "turn0"), re.MULTILINE)
    page = tmp_path / "data.html"
    numbers = json.loads(asked("card", run, "--out", page, "--json"))
    assert numbers["kept"]["turns"] == read_facts(run / "ingest").kept.turns
    assert page.exists()
