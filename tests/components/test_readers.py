"""Readers: corpora in their true layouts are read as they are, and what is broken in one costs itself."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import corpus_layouts as layouts
import numpy as np
import pytest
import soundfile
from rich.console import Console
from typer.testing import CliRunner

from csm_cli.cli import app
from csm_components.ingest.bounds import TextPolicy
from csm_components.ingest.checks import check_text
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.layouts import find_sounds, read_corpus
from csm_components.ingest.policy import USES, Policy
from csm_components.ingest.readers.marks import read_marks, telephone
from csm_components.ingest.readers.table import READERS
from csm_components.ingest.readers.texts import read_lines, read_text
from csm_components.ingest.records import Corpus, SourceConversation, SourceTurn
from csm_components.ingest.rights import RecordGate
from csm_components.ingest.step import IngestResult, ingest
from csm_model.errors import InputError


def read(folder: Path, layout: str | None = None) -> Corpus:
    return read_corpus(folder, find_sounds(folder, archives=True), layout)


def said(corpus: Corpus) -> list[layouts.Said]:
    """The turns as the writers say them."""
    return [
        (
            turn.id,
            turn.audio,
            turn.channel,
            turn.start,
            None if turn.duration is None else round((turn.start or 0.0) + turn.duration, 6),
            turn.text,
            turn.speaker,
        )
        for source in corpus.conversations
        for turn in source.turns
    ]


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_a_corpus_is_recognised_and_read_as_it_is(name: str, tmp_path: Path) -> None:
    expected = layouts.write_layout(name, tmp_path / "corpus")
    corpus = read(tmp_path / "corpus")
    assert corpus.layout == name
    found = said(corpus)
    assert sorted(found, key=lambda row: row[0]) == sorted(expected, key=lambda row: row[0])
    starts = [[turn.start or 0.0 for turn in source.turns] for source in corpus.conversations]
    assert all(times == sorted(times) for times in starts)
    assert said(read(tmp_path / "corpus", name)) == found


def splits_of(corpus: Corpus) -> dict[str, str | None]:
    return {source.id: source.split for source in corpus.conversations}


def test_splits_languages_licences_and_tags(tmp_path: Path) -> None:
    for name in ("ami", "voxpopuli", "common-voice", "gigaspeech", "switchboard", "fisher", "podcast"):
        layouts.write_layout(name, tmp_path / name)
    ami, vox, voice, giga, calls, fisher, podcast = (
        read(tmp_path / name)
        for name in ("ami", "voxpopuli", "common-voice", "gigaspeech", "switchboard", "fisher", "podcast")
    )
    assert splits_of(ami) == {"ES2002a": "train", "ES2004a": "test"}
    assert splits_of(giga) == {"POD01": "train", "YOU01": "validation"}
    assert sorted(str(split) for split in splits_of(vox).values()) == ["test", "train", "validation"]
    assert not any(source.whole for source in vox.conversations)
    assert splits_of(voice)["common_voice_de_dev0"] == "validation"
    turns = {turn.id: turn for source in calls.conversations for turn in source.turns}
    assert turns["sw2001A-ms98-a-0003"].tags == ("laughing",)
    tags = {turn.id: turn.tags for source in fisher.conversations for turn in source.turns}
    assert tags["fe_03_00001-B-0002"] == ("sighing",)
    for corpus, language, license_ in (
        (ami, "en", "CC-BY-4.0"),
        (vox, "en", "CC0-1.0"),
        (voice, "de", "CC0-1.0"),
        (calls, "en", "LicenseRef-LDC"),
        (podcast, "en-us", "cc-by-4.0"),
    ):
        kinds = {(turn.language, turn.license) for source in corpus.conversations for turn in source.turns}
        assert kinds == {(language, license_)}
    assert [row.detail for row in vox.rejections] == [
        "asr_en.tsv.gz:6: its split 'other' is none of train, dev and test"
    ]
    assert [row.conversation for row in fisher.rejections] == ["fe_03_01243"]


def test_old_and_new_releases_of_common_voice_are_the_same(tmp_path: Path) -> None:
    layouts.common_voice(tmp_path / "old", old=True)
    layouts.common_voice(tmp_path / "new")
    assert said(read(tmp_path / "old")) == said(read(tmp_path / "new"))
    for name in ("train", "dev", "test"):  # a delta release has none of them
        (tmp_path / f"new/de/{name}.tsv").rename(tmp_path / f"new/de/{'validated' if name == 'train' else name}.old")
    (tmp_path / "new/de/validated.old").rename(tmp_path / "new/de/validated.tsv")
    assert set(splits_of(read(tmp_path / "new")).values()) == {None}


TABLES = {
    "common-voice": "de/train.tsv",
    "voxpopuli": "asr_en.tsv.gz",
    "switchboard": "swb_ms98_transcriptions/20/2001/sw2001A-ms98-a-trans.text",
    "fisher": "fe_03_p1_tran/data/trans/000/fe_03_00001.txt",
    "yodas": "data/en000/text/00000000.txt",
    "emilia": "EN/EN_B00001.jsonl",
    "csv": "turns.csv",
    "lhotse-shar": "cuts.000001.jsonl.gz",
}
"""A text of each layout that has a record a line."""
EMPTY = {
    "common-voice": (rb"A third sentence", b""),
    "voxpopuli": (rb"I agree\.\|i agree", b"|"),
    "yodas": (rb" first things first", b" "),
    "emilia": (rb'" Words of [^"]*"', b'" "'),
    "csv": (rb"Once again", b" "),
    "lhotse-shar": (rb'"words [^"]*"', b'""'),
}
BACKWARDS = {
    "voxpopuli": (rb"\|4\.0\|5\.0\|", b"|5.0|4.0|"),
    "switchboard": (rb" 4\.0", b" -4.0"),
    "fisher": (rb"4\.10 5\.00", b"4.10 4.00"),
    "yodas": (rb"-00000050-00000175", b"-00000500-00000175"),
    "csv": (rb",4\.5,", b",-4.5,"),
    "lhotse-shar": (rb'"duration": ?1\.25', b'"duration": -1.25'),
}


def kept_and_lost(folder: Path) -> tuple[dict[str, layouts.Said], list[tuple[str, str]]]:
    """Turns with words by their ids, and the reason of each record that is left out with where it stands."""
    corpus = read(folder)
    turns = {row[0]: row for row in said(corpus)}
    silent = {name for name, row in turns.items() if check_text(row[5])}
    lost = [(str(row.reason), row.detail) for row in corpus.rejections] + [("no text", name) for name in silent]
    return {name: row for name, row in turns.items() if name not in silent}, lost


def edit(path: Path, change: bytes | None, pattern: bytes, replacement: bytes = b"") -> None:
    """Replaces the first match of `pattern` in a text, packed or not; or appends `change`."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    after = raw + change if change is not None else re.sub(pattern, lambda _: replacement, raw, count=1)
    assert after != raw
    path.write_bytes(gzip.compress(after) if path.suffix == ".gz" else after)


@pytest.mark.parametrize("name", TABLES)
def test_what_is_broken_costs_itself_with_its_reason(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    rng = random.Random(name)
    expected: Sequence[layouts.Said] = layouts.write_layout(name, tmp_path / "good")
    good, before = kept_and_lost(tmp_path / "good")
    assert len(good) == len(expected)
    raw = (tmp_path / "good" / table).read_bytes()
    text = gzip.decompress(raw) if table.endswith(".gz") else raw
    lines = text.splitlines(keepends=True)
    header = 1 if name in ("common-voice", "voxpopuli", "csv") else 0
    records = [at for at, line in enumerate(lines) if at >= header and line.strip() and not line.startswith(b"#")]
    quiet = [at for at in records if b"[silence]" in lines[at] or b"[noise]\n" in lines[at] or b"|other|" in lines[at]]
    quiet += [at for at in records if name == "csv" and (b'"' in lines[at] or at == 3)]
    victims = [at for at in records if at not in quiet]
    each = 2 if name == "lhotse-shar" else 1  # a line is a cut of two turns

    def write(changed: list[bytes]) -> None:
        after = b"".join(changed)
        (tmp_path / "good" / table).write_bytes(gzip.compress(after) if table.endswith(".gz") else after)

    for case in ("torn", "encoding", "lost letter", "twice"):
        if case == "twice" and name == "fisher":
            continue  # its ids are places, which no line can have twice
        at = rng.choice(victims)
        changed = list(lines)
        if case == "torn":
            changed[at] = lines[at][: rng.randrange(2, 9)].rstrip() + b"\n"
        elif case == "encoding":
            changed[at] = lines[at].rstrip()[:-1] + b"\x92\n"
        elif case == "lost letter":
            place = lines[at].rstrip().rindex(b" ")
            if name in ("common-voice", "voxpopuli", "emilia", "csv", "lhotse-shar"):
                word = re.search(rb"(Br|sentence|Quoted|Mr |good|agree|open|Words|Once|words|Nun)", lines[at])
                assert word
                place = word.start()
                if name == "voxpopuli":  # the words stand twice, and one of them is taken
                    place = [found.start() for found in re.finditer(rb"\|", lines[at])][7] + 1
                    place += 0 if lines[at][place : place + 1] != b"|" else 1
            changed[at] = lines[at][:place] + "\ufffd".encode() + lines[at][place:]
        else:
            changed.append((b"" if lines[-1].endswith(b"\n") else b"\n") + lines[at])
        write(changed)
        kept, lost = kept_and_lost(tmp_path / "good")
        news = [row for row in lost if row not in before]
        reason = {"torn": "damaged record", "twice": "twice"}.get(case, "wrong encoding")
        assert {row[0] for row in news} == {reason}, (case, lines[at], news)
        assert len(news) == (each if case == "twice" else 1), (case, news)
        where = len(changed) if case == "twice" else at + 1
        assert all(f"{Path(table).name}:{where}: " in row[1] for row in news), (case, news)
        gone = {"twice": 0, "lost letter": 1}.get(case, each)
        assert len(kept) == len(good) - gone, (case, lines[at])
        assert all(good[turn] == row for turn, row in kept.items()), case
    for case, changes in (("no text", EMPTY), ("damaged record", BACKWARDS)):
        if name in changes:
            write(list(lines))
            edit(tmp_path / "good" / table, None, *changes[name])
            kept, lost = kept_and_lost(tmp_path / "good")
            assert [row[0] for row in lost if row not in before] == [case]
            assert len(kept) == len(good) - 1
    write(list(lines))
    sound = rng.choice(sorted({row[1].partition("::")[0] for row in good.values()}))
    (tmp_path / "good" / sound).unlink()
    kept, lost = kept_and_lost(tmp_path / "good")
    mine = [row for row in good.values() if row[1].startswith(sound)]
    assert [row[0] for row in lost if row not in before] == ["unreadable"] * len(mine)
    assert len(kept) == len(good) - len(mine)


def test_a_broken_file_of_one_speaker_or_episode_costs_itself(tmp_path: Path) -> None:
    ami = tmp_path / "ami"
    layouts.ami(ami)
    (ami / "words/ES2002a.A.words.xml").write_text("<nite:root")
    giga = tmp_path / "giga"
    layouts.gigaspeech(giga)
    value = json.loads((giga / "GigaSpeech.json").read_text())
    value["audios"][0]["segments"][0].pop("begin_time")
    value["audios"][1]["segments"][0]["end_time"] = -1
    (giga / "GigaSpeech.json").write_text(json.dumps(value))
    show = tmp_path / "show"
    layouts.podcast(show)
    (show / "texts/ep1.vtt").write_text(layouts.VTT.replace("00:03.000 --> 00:05.000", "00:03.000 -> 00:05.000"))
    (show / "texts/ep2.srt").write_bytes(layouts.SRT.encode().replace(b"Good", b"G\x92d"))
    (show / "texts/ep3.json").write_text(layouts.JSON[:40])
    light = tmp_path / "light"
    layouts.libri_light(light)
    (light / "small/84/1002_book/part_01.json").write_text("{")
    pairs = tmp_path / "pairs"
    layouts.sound_and_text(pairs)
    (pairs / "ann/1.txt").write_bytes(b"caf\xe9")
    for folder, kept, reasons in (
        (ami, 6, ["damaged record"]),
        (giga, 2, ["damaged record", "damaged record"]),
        (show, 5, ["damaged record", "wrong encoding", "damaged record"]),
        (light, 2, ["damaged record"]),
        (pairs, 2, ["wrong encoding"]),
    ):
        corpus = read(folder)
        assert (len(said(corpus)), [row.reason for row in corpus.rejections]) == (kept, reasons)
    assert "ann/1.txt: byte 3 (0xe9) is not UTF-8" in read(pairs).rejections[0].detail


def test_words_without_ranges_go_to_the_nearest_segment(tmp_path: Path) -> None:
    expected = layouts.ami(tmp_path)
    for path in (tmp_path / "segments").iterdir():
        path.write_text(re.sub(r"<nite:child[^>]*/>", "", path.read_text()))
    found = {row[0]: row[5] for row in said(read(tmp_path))}
    assert {name: found[name] for name in found if name.endswith("1")} == {
        row[0]: row[5] for row in expected if row[0].endswith("1")
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_in_any_encoding_that_says_itself(tmp_path: Path, encoding: str, separator: str) -> None:
    layouts.csv(tmp_path, separator=separator, encoding=encoding)
    assert [row[5] for row in said(read(tmp_path))][2] == "Nun über die Brücke"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_comes_back_or_is_refused(tmp_path: Path, encoding: str) -> None:
    rng = random.Random(encoding)
    for trial in range(50):
        letters = ["".join(rng.choice("aé—ツ𝄞 ") for _ in range(rng.randrange(30))) for _ in range(5)]
        path = tmp_path / f"{trial}.txt"
        path.write_bytes("\n".join(letters).encode(encoding))
        assert read_text(path).removeprefix("\ufeff") == "\n".join(letters)
        assert [line.text for line in read_lines(path)] == ("\n".join(letters).rstrip("\n").split("\n")) or not letters[
            -1
        ]
        broken = path.read_bytes() + b"\xd8\x92\xff\n"
        path.write_bytes(broken if encoding.startswith("utf-8") else broken + b"\xff")
        with pytest.raises(InputError, match=r"\d+\.txt: byte \d+ \(0x"):
            read_text(path)
        assert not any("\ufffd" in line.text for line in read_lines(path))
        assert any(line.problem for line in read_lines(path))


def quiet(corpus: Path, out: Path, **options: object) -> IngestResult:
    return ingest(corpus, out, workers=1, console=Console(quiet=True), **options)  # type: ignore[arg-type]


def ldc() -> RecordGate:
    """A policy that takes what the LDC gives out."""
    return RecordGate(policy=Policy(licenses={**Policy().licenses, "LicenseRef-LDC": USES}))


def pitch_of(samples: np.ndarray) -> float:
    """The strongest pitch of a sound at 24 kHz, Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * 24_000 / len(samples))


def test_sides_of_a_call_are_heard_apart(tmp_path: Path) -> None:
    layouts.switchboard(tmp_path / "corpus")
    result = quiet(tmp_path / "corpus", tmp_path / "out", gate=ldc())
    assert (result.turns, result.rejected, sorted(result.speakers.values())) == (8, 0, ["1000", "1001", "1002"])
    for conversation in read_conversations(tmp_path / "out"):
        for turn in conversation.turns:
            assert pitch_of(conversation.audio(turn)) == pytest.approx(300 if "A-" in turn.id else 900, abs=10)


def test_sound_in_archives_and_stretches_of_recordings(tmp_path: Path) -> None:
    for name in ("yodas", "lhotse-shar", "voxpopuli"):
        layouts.write_layout(name, tmp_path / name)
        (tmp_path / name / "spare.tar").write_bytes(b"")
        result = quiet(tmp_path / name, tmp_path / f"out-{name}")
        assert (result.turns, result.rejected) == {"yodas": (4, 0), "lhotse-shar": (6, 0), "voxpopuli": (4, 1)}[name]
    speech = {item.id: item for item in read_conversations(tmp_path / "out-voxpopuli")}
    paragraph = speech["20100614-0900-PLENARY-3-p1"]
    assert [(turn.start, turn.duration) for turn in paragraph.turns] == [(0.0, 1.0), (1.25, 1.0)]
    assert paragraph.samples == round(2.25 * 24_000)
    cut = next(read_conversations(tmp_path / "out-lhotse-shar"))
    assert cut.samples == 3 * 24_000


def test_what_everybody_says_stays_in_training_and_test(tmp_path: Path) -> None:
    layouts.ami(tmp_path / "corpus")  # both meetings hold the same words
    quiet(tmp_path / "corpus", tmp_path / "out")
    splits = {item.id: len(item.turns) for item in read_conversations(tmp_path / "out")}
    assert splits == {"ES2002a": 4, "ES2004a": 4}
    for path in (tmp_path / "corpus/words").iterdir():
        path.write_bytes(path.read_bytes().replace(b">yes<", b">I am so at it<"))
    assert quiet(tmp_path / "corpus", tmp_path / "out").rejected == 2
    assert {item.id: len(item.turns) for item in read_conversations(tmp_path / "out")} == {"ES2002a": 4, "ES2004a": 2}


def test_a_shortened_recording_is_refused_by_name(tmp_path: Path) -> None:
    layouts.switchboard(tmp_path / "corpus")
    sound = tmp_path / "corpus/swb1/sw02001.sph"
    layouts.sphere(sound, layouts.call((300, 900)), "pcm,embedded-shorten-v2.00")
    quiet(tmp_path / "corpus", tmp_path / "out", gate=ldc())
    rows = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert all("sw02001.sph: cannot be read as sound (it is packed with shorten" in row["detail"] for row in rows)


def test_marks_of_telephone_calls() -> None:
    for text, words, tags in (
        ("[silence]", "", ()),
        ("[laughter-yeah] okay", "yeah okay", ("laughing",)),
        ("um-[um] w[ent]- they[re]", "um- w- they", ("cut-off word",)),
        ("{widgy} them_1 %uh (( maybe ))", "widgy them uh maybe", ("unclear", "hesitation")),
        ("<b_aside> come here <e_aside> [vocalized-noise]", "come here", ()),
        ("[it'n/isn't] it [cough]", "isn't it", ("coughing",)),
        ("- (( ))", "", ()),
    ):
        assert telephone(text) == (words, tags)


@pytest.mark.parametrize("marks", ["keep", "strip"])
def test_marks_of_any_corpus_become_words_and_tags_by_the_policy(marks: Literal["keep", "strip"]) -> None:
    plain = ("It is 100% right - I think.", "A well-known fact (really).", "i < 5 and b>3", "Um, no.")
    told = {
        "um-[um] i [laughter-yeah] ((x)) %uh w[ent]- home": (
            {"keep": "um- i yeah x uh w- home", "strip": "i yeah x home"}[marks],
            ("unclear", "cut-off word", "laughing", "hesitation"),
        ),
        "[laughter] oh": ("oh", ("laughing",)),
        "%uh": ("uh", ("hesitation",)),
    }
    turns = [SourceTurn(id=text, text=text, speaker="a", audio="a.wav", tags=("fast",)) for text in (*plain, *told)]
    source = SourceConversation(id="c", turns=tuple(turns))
    corpus = Corpus(layout="jsonl", conversations=(source,), keep_speaker_numbers=True, speaker_names={})
    found = {turn.id: turn for turn in read_marks(corpus, TextPolicy(marks=marks)).conversations[0].turns}
    for text in plain:
        assert found[text].text == ("no." if (marks, text) == ("strip", "Um, no.") else text)
        assert found[text].tags == ("fast",)
    for text, (words, tags) in told.items():
        assert (found[text].text, found[text].tags) == (words, ("fast", *tags))


def test_one_that_might_be_two_is_asked_for_by_name(tmp_path: Path) -> None:
    layouts.switchboard(tmp_path)
    layouts.fisher(tmp_path)
    with pytest.raises(
        InputError, match=r"may be of the layout switchboard or fisher; say which by --set data\.layout"
    ):
        read(tmp_path)
    assert read(tmp_path, "fisher").layout == "fisher"
    with pytest.raises(InputError, match="is not of the layout ami: MEETING/"):
        read(tmp_path, "ami")
    with pytest.raises(InputError, match=r"layout 'amy' is not one of .*did you mean"):
        read(tmp_path, "amy")


def test_sound_that_nobody_describes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", layouts.tone(1), 8000)
    with pytest.raises(
        InputError, match=r"1 audio files, but no texts .* lhotse, librispeech, jsonl, common-voice"
    ) as no:
        read(tmp_path)
    assert "\n" not in str(no.value)


def test_readers_are_listed() -> None:
    listed = CliRunner().invoke(app, ["data", "readers", "--json"])
    rows = json.loads(listed.output)
    assert [row["name"] for row in rows] == list(READERS)
    assert all(row[field] for row in rows for field in ("license", "layout", "gives", "reference"))
    table = CliRunner().invoke(app, ["data", "readers"]).output
    assert all(name in table for name in READERS)
    page = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page.partition("## Your own")[0], re.MULTILINE)) == set(READERS)
