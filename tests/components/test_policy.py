"""The policy file: what it may say, what is wrong with it, and what a run takes by it; over many generated policies."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from csm_cli.cli import app
from csm_components.ingest.blocklist import Blocked, Blocklist, parse_blocklist, with_rows
from csm_components.ingest.licenses import FREE_LICENSES, KNOWN_LICENSES, license_of_folder
from csm_components.ingest.policy import USES, Policy, Rules, load_policy, pack_policy, parse_policy, sections_of
from csm_components.ingest.records import Corpus, Reason, SourceConversation, SourceTurn, TurnRights
from csm_components.ingest.rights import RecordGate, is_over, last_day, refuse_expired, rights_of
from csm_components.tree_list import tree_of
from csm_model.errors import ArtifactError, InputError

LDC = "LDC User Agreement for Non-Members\n\nThis agreement is between...\n"
TODAY = date(2027, 1, 31)


def private(folder: Path, name: str = "ldc.txt") -> str:
    """The section of a private licence whose document lies in a folder."""
    (folder / name).write_text(LDC)
    digest = hashlib.sha256(LDC.encode()).hexdigest()
    return f'''[licenses.LicenseRef-LDC]
document = "{name}"
sha256 = "{digest}"
approver = "J. Doe, legal"
uses = ["train", "evaluate"]
'''


def refused(text: str, folder: Path = Path()) -> list[str]:
    """What is wrong with a policy, line by line."""
    with pytest.raises(InputError) as caught:
        parse_policy(text, "policy.toml", folder)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix("policy.toml: ").split("; ")


def test_without_a_file_the_free_licences_are_taken_for_all_uses() -> None:
    assert load_policy(None) == Policy()
    assert dict(Policy().licenses) == dict.fromkeys(FREE_LICENSES, USES)
    assert parse_policy("", "empty", Path()) == Policy()


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    """A thousand policies of random licences, uses, rights and bounds."""
    rng = random.Random(1)
    document = private(tmp_path)
    for _ in range(1_000):
        names = rng.sample(KNOWN_LICENSES, rng.randint(1, 6))
        uses = {name: rng.sample(USES, rng.randint(1, 3)) for name in names}
        lines = ["[licenses]", *(f'"{name}" = {json.dumps(row)}' for name, row in uses.items())]
        lines += [document] if rng.random() < 0.5 else []
        days = rng.randint(0, 400)
        lines += ["[rights]", f'consent = "{rng.choice(["optional", "required"])}"', f"days_left = {days}"]
        lines += ["[checks]", f"min_seconds = {rng.uniform(0, 1):.3f}", f"max_clipped = {rng.uniform(0, 1):.4f}"]
        policy = parse_policy("\n".join(lines), "policy.toml", tmp_path)
        assert {name: list(policy.licenses[name]) for name in names} == uses
        again = parse_policy(policy.to_toml(), "printed", tmp_path)
        assert (again, again.digest) == (policy, policy.digest)
        assert policy.rights.days_left == days


def test_all_that_is_wrong_is_said_at_once_with_its_place_its_value_and_the_nearest_name() -> None:
    lines = refused(
        """
        [licences]
        [licenses]
        "CC-BY-40" = ["train"]
        "MIT" = ["trian"]
        LicenseRef-Mine = ["train"]
        [licenses.LicenseRef-LDC]
        document = "nowhere.pdf"
        sha256 = "12"
        uses = []
        [rights]
        consent = "yes"
        days_left = -1
        blocklst = "x"
        [checks]
        min_chars_per_second = 40
        """
    )
    for line in (
        "licences: there is no such section",
        "did you mean licenses?",
        "licenses.CC-BY-40: no SPDX name of a licence that is known here",
        "did you mean CC-BY-4.0?",
        "licenses.MIT.0 'trian' is not one of train, evaluate, research",
        "licenses.LicenseRef-Mine ['train']: a private licence needs document, sha256, approver and uses",
        "licenses.LicenseRef-LDC.sha256: '12' is no SHA-256 (64 digits of 0-9, a-f)",
        "licenses.LicenseRef-LDC.approver: is missing",
        "licenses.LicenseRef-LDC.uses []: must not be empty",
        "rights.consent 'yes' is not one of optional, required",
        "rights.days_left -1: must be 0 or more",
        "did you mean blocklist?",
        "checks.min_chars_per_second 40: must be less than max_chars_per_second, 32",
    ):
        assert line in lines


def test_a_mutated_policy_is_refused_or_says_what_it_says(tmp_path: Path) -> None:
    """Two thousand texts with a character changed, added or taken away: never another error than the one line."""
    text = private(tmp_path) + Policy().to_toml()
    rng, passed = random.Random(2), 0
    refusals: list[str] = []
    for _ in range(2_000):
        at, letter = rng.randrange(len(text)), rng.choice('a"[]=.\n 0-#{}\x00é')
        change = rng.choice(
            [text[:at] + text[at + 1 :], text[:at] + letter + text[at:], text[:at] + letter + text[at + 1 :]]
        )
        try:
            policy = parse_policy(change, "policy.toml", tmp_path)
        except InputError as error:
            refusals.append(str(error))
            continue
        passed += 1
        assert parse_policy(policy.to_toml(), "again", tmp_path) == policy
    assert passed > 100
    assert len(refusals) > 100
    assert all(line.startswith("policy.toml: ") and "\n" not in line for line in refusals)


@pytest.mark.parametrize("section", ["licenses", *sections_of()])
def test_a_section_that_is_none_is_refused(section: str) -> None:
    (line,) = refused(f"{section} = 3")
    assert line == f"{section} 3: must be a section, [{section}]"


def test_a_private_licence_needs_the_document_that_was_approved(tmp_path: Path) -> None:
    text = private(tmp_path)
    policy = parse_policy(text, "policy.toml", tmp_path)
    assert policy.licenses == {"LicenseRef-LDC": ("train", "evaluate")}
    (tmp_path / "ldc.txt").write_text(LDC + " ")
    (line, cure) = refused(text, tmp_path)
    assert line.startswith("licenses.LicenseRef-LDC.sha256")
    assert cure == "have it approved anew"
    (tmp_path / "ldc.txt").unlink()
    assert "no such file" in refused(text, tmp_path)[0]


def test_a_policy_travels_with_its_documents(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    text = '[rights]\nblocklist = "never.jsonl"\n' + private(tmp_path / "here", "a paper.pdf")
    (tmp_path / "here" / "p.toml").write_text(text)
    (tmp_path / "here" / "never.jsonl").write_text('{"kind": "speaker", "value": "anna"}\n')
    pack_policy(tmp_path / "here" / "p.toml", tmp_path / "there")
    packed = load_policy(tmp_path / "there")
    assert packed.licenses == load_policy(tmp_path / "here" / "p.toml").licenses
    (tmp_path / "here").rename(tmp_path / "moved")
    (tmp_path / "moved" / "p.toml").rename(tmp_path / "moved" / "another.toml")
    pack_policy(tmp_path / "moved" / "another.toml", tmp_path / "again")
    assert tree_of(tmp_path / "again") == tree_of(tmp_path / "there"), "its content counts, not its place"
    assert packed.rights.blocklist is not None
    assert (tmp_path / "there" / packed.rights.blocklist).is_file()


def test_a_document_in_the_corpus_is_its_private_licence_or_is_named_as_what_is_not_taken(tmp_path: Path) -> None:
    policy = parse_policy(private(tmp_path), "policy.toml", tmp_path)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "LICENSE").write_text(LDC)
    assert license_of_folder(corpus, policy.documents) == "LicenseRef-LDC"
    assert license_of_folder(corpus, {}) == "LDC User Agreement for Non-Members"
    (corpus / "LICENSE").write_bytes(b"\xff\xfe%PDF")
    assert license_of_folder(corpus, {}) is None


def test_the_command_prints_the_policy_in_force(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("[checks]\nmin_seconds = 0.5\n")
    printed = CliRunner().invoke(app, ["data", "policy", str(tmp_path / "p.toml")])
    assert parse_policy(printed.stdout, "printed", tmp_path).checks == Rules(min_seconds=0.5)
    as_json = CliRunner().invoke(app, ["data", "policy", "--json"])
    assert json.loads(as_json.stdout)["rights"] == {"consent": "optional", "expired": "refuse", "days_left": 0}


@pytest.mark.parametrize(
    ("given", "last"),
    [
        ("2027-01-31", "2027-01-31"),
        ("20270131", "2027-01-31"),
        ("2027-02-01T00:00:00Z", "2027-01-31"),
        ("2027-02-01T00:30:00+01:00", "2027-01-30"),
        ("2027-01-31 23:59", "2027-01-30"),
        ("2028-02-29", "2028-02-29"),
    ],
)
def test_days_and_moments_end_with_their_last_whole_day(given: str, last: str) -> None:
    assert last_day(given, "x") == last


@pytest.mark.parametrize(
    "given", ["2027", "2027-02-29", "31.1.2027", "soon", "2027-01-31T25:00", "0001-01-01T00:00+12:00", 3]
)
def test_what_is_no_day_is_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"f:3: expires .* ISO 8601"):
        last_day(given, "f:3")


def test_a_moment_never_ends_later_than_it_says() -> None:
    rng = random.Random(3)
    for _ in range(2_000):
        day = TODAY + timedelta(days=rng.randint(-4_000, 4_000))
        zone = f"{rng.choice('+-')}{rng.randint(0, 14):02}:{rng.choice(['00', '30'])}"
        moment = f"{day}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:00{zone}"
        assert day - timedelta(days=2) <= date.fromisoformat(last_day(moment, "x")) <= day
        assert last_day(str(day), "x") == str(day)
        assert is_over(str(day), day + timedelta(days=1))
        assert not is_over(str(day), day)


def test_rights_of_a_record() -> None:
    assert rights_of({"audio": "a.wav", "consent": "", "uses": []}, "x") is None
    assert rights_of({"consent": 17, "uses": "evaluate,train", "url": "https://a.example/1"}, "x") == TurnRights(
        consent="17", uses=("train", "evaluate"), url="https://a.example/1"
    )
    with pytest.raises(InputError, match=r"f:2: uses 'trian' is not one of train, evaluate, research; did you mean"):
        rights_of({"uses": ["trian"]}, "f:2")
    with pytest.raises(InputError, match=r"f:2: consent .* must be text"):
        rights_of({"consent": ["a"]}, "f:2")


def turn(**fields: Any) -> SourceTurn:
    return SourceTurn(**{"id": "t", "text": "Hello.", "speaker": "anna", "audio": "a.wav", "license": "MIT"} | fields)


def reason(gate: RecordGate, split: Any = None, **fields: Any) -> Reason | None:
    one = turn(**fields)
    found = gate.refusal(one, SourceConversation(id="c", turns=(one,), split=split))
    return found[0] if found else None


def test_each_refusal_has_its_reason() -> None:
    gate = RecordGate(today=TODAY)
    assert reason(gate) is None
    assert reason(gate, license=None) == "unknown licence"
    assert reason(gate, license="CC-BY-NC-4.0") == "unknown licence"
    assert reason(gate, rights=TurnRights(expires="2027-01-31")) is None
    assert reason(gate, rights=TurnRights(expires="2027-01-30")) == "expired"
    assert reason(gate, rights=TurnRights(uses=("research",))) == "not for this use"
    asks = Policy.model_validate({"rights": {"consent": "required", "days_left": 10}})
    strict = RecordGate(policy=asks, today=TODAY)
    assert reason(strict) == "no consent"
    assert reason(strict, rights=TurnRights(consent="17")) is None
    assert reason(strict, rights=TurnRights(consent="17", expires="2027-02-09")) == "expired"
    assert reason(strict, rights=TurnRights(consent="17", expires="2027-02-10")) is None
    for kind, value in (("speaker", "anna"), ("recording", "a.wav"), ("recording", "c"), ("url", "https://a")):
        listed = Blocklist(frozenset({Blocked(kind=kind, value=value)}))  # type: ignore[arg-type]
        assert reason(RecordGate(today=TODAY, blocklist=listed), rights=TurnRights(url="https://a")) == "blocked"


@pytest.mark.parametrize("use", ["train", "research"])
@pytest.mark.parametrize("split", [None, "train", "validation", "test"])
def test_uses_of_licence_and_record_must_both_allow_what_the_run_does(use: Any, split: Any) -> None:
    """Every pair of sets of uses."""
    sets = [tuple(each for bit, each in enumerate(USES) if number >> bit & 1) for number in range(1, 8)]

    def allows(uses: tuple[str, ...]) -> bool:
        judged = split in ("validation", "test")
        return "train" in uses or (use == "research" and "research" in uses) or (judged and "evaluate" in uses)

    for licence in sets:
        gate = RecordGate(policy=Policy(licenses={"MIT": licence}), use=use, today=TODAY)
        for record in sets:
            found = reason(gate, split, rights=TurnRights(uses=record))
            assert (found is None) == (allows(licence) and allows(record))


def test_a_blocked_record_says_no_word_any_more() -> None:
    one, other = turn(), turn(id="u", speaker="ben")
    corpus = Corpus(
        layout="jsonl",
        conversations=(SourceConversation(id="c", turns=(one, other)),),
        keep_speaker_numbers=False,
        speaker_names={},
    )
    listed = Blocklist(frozenset({Blocked(kind="speaker", value="anna")}))
    passed, refusals = RecordGate(today=TODAY, blocklist=listed).passed(corpus)
    assert [each.text for each in passed.conversations[0].turns] == ["", "Hello."]
    assert {name: why for name, (why, _) in refusals.items()} == {"t": "blocked"}


def test_what_has_expired_since_is_refused_by_later_steps() -> None:
    refuse_expired({"expires": "2027-01-31"}, TODAY)
    refuse_expired({}, TODAY)
    with pytest.raises(InputError, match="may be used until 2027-01-30, and today is 2027-01-31: run ingest again"):
        refuse_expired({"expires": "2027-01-30"}, TODAY)


def test_a_blocklist_grows_by_what_it_does_not_have() -> None:
    rng, text = random.Random(4), ""
    known: set[Blocked] = set()
    for number in range(200):
        value = rng.choice(['anna "a"', "bén", "x\\y", f"n{rng.randint(0, 9)}"])
        row = Blocked(kind=rng.choice(["speaker", "recording", "url"]), value=value)
        now = with_rows(text, {row}, f"2027-01-01T00:00:{number % 60:02}+00:00", "list")
        assert now.startswith(text)
        assert (now == text) == (row in known)
        known, text = known | {row}, now
    assert parse_blocklist(text, "list").rows == known
    for line in ("{", '{"kind": "person", "value": "a"}', '{"kind": "url"}', "[]", '{"kind": "url", "value": ""}'):
        with pytest.raises(ArtifactError, match="list:1: no line of a blocklist"):
            parse_blocklist(line, "list")


def test_every_reason_of_rights_is_one_that_the_tables_know() -> None:
    assert {"no consent", "expired", "not for this use", "blocked", "unknown licence"} <= set(get_args(Reason))
