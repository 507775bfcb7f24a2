"""The step annotate, from sound alone and beside given texts, and what ingest makes of it; with the real recogniser."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from annotated.scores import Said, all_words_wrong
from rich.console import Console

from csm_components.annotate import step
from csm_components.annotate.annotations import RECORDINGS, TURNS, read_rows
from csm_components.annotate.fanout import annotate_shard, join_annotate, plan_shards, share
from csm_components.annotate.knobs import AnnotateSettings
from csm_components.annotate.step import AnnotateResult, annotate
from csm_components.ingest.bounds import OFF, FigureBounds
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.corpora import corpus_in
from csm_components.ingest.policy import Policy
from csm_components.ingest.rights import RecordGate
from csm_components.ingest.step import ingest
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import read_json

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus"
TALKS = ("demo-test-1000000", "demo-test-1000002")
TINY = AnnotateSettings(recogniser="tiny")
QUIET = Console(file=io.StringIO())


def truth_of(recording: str) -> list[Said]:
    rows = (json.loads(line) for line in (DEMO / "supervisions.jsonl").read_text().splitlines())
    return [
        Said(row["start"], row["start"] + row["duration"], row["speaker"], row["text"])
        for row in rows
        if row["recording_id"] == recording
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two talks, a file that is no sound, one in which nobody speaks, and a licence."""
    folder = tmp_path_factory.mktemp("sound")
    (folder / "calls").mkdir()
    for name in TALKS:
        shutil.copy(DEMO / "audio" / f"{name}.opus", folder / "calls")
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(2000))
    soundfile.write(folder / "quiet.wav", np.zeros(8_000, np.float32), 16_000)
    (folder / "LICENSE").write_text("CC-BY-4.0\n")
    return folder


@pytest.fixture(scope="module")
def made(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnotateResult, Path]:
    out = tmp_path_factory.mktemp("annotations")
    return annotate(corpus_in(sound), out, TINY, workers=1, console=QUIET), out


def said(folder: Path, audio: str) -> list[Said]:
    return [
        Said(row["start"], row["end"], row["speaker"], row["text"])
        for row in read_rows(folder, TURNS)
        if row["audio"] == audio
    ]


def test_who_says_what_and_when_is_found_in_sound_alone(made: tuple[AnnotateResult, Path]) -> None:
    result, out = made
    assert (result.recordings, result.left_out, result.reused) == (3, 1, False)
    for name in TALKS:
        turns, truth = said(out, f"calls/{name}.opus"), truth_of(name)
        wrong, words = all_words_wrong(truth, turns)
        assert wrong <= 0.15 * words
        assert {turn.speaker for turn in turns} == {"0", "1"}
        assert [turn.start for turn in turns] == sorted(turn.start for turn in turns)
    rows = list(read_rows(out, TURNS))
    assert len(rows) == result.turns == len({row["id"] for row in rows})
    for row in rows:
        assert row["text"] == row["text_heard"] == " ".join(word[0] for word in row["words"])
        assert "text_given" not in row
        assert row["language"]["sound"] == "en"
        assert row["figures"]["bandwidth_hz"] > 8_000, "of the sound at the model's rate"
        assert row["figures"]["snr_db"] > 15
        assert 0 <= row["figures"]["speaker_certainty"] <= 1
        assert "overlap" not in row, "in one channel nobody can know"
        assert row["start"] - 1e-3 <= row["words"][0][1]
        assert row["words"][-1][2] <= row["end"] + 1e-3


def test_a_poisoned_file_costs_itself(made: tuple[AnnotateResult, Path]) -> None:
    rows = {row["audio"]: row for row in read_rows(made[1], RECORDINGS)}
    assert list(rows) == sorted(rows)
    assert "cannot be read as sound" in rows["broken.flac"]["reason"]
    assert rows["quiet.wav"]["speech_seconds"] == 0
    talk = rows[f"calls/{TALKS[0]}.opus"]
    assert (talk["channels"], talk["codec"], talk["speakers"], talk["music"]) == (1, "ogg opus", 2, 0.0)
    assert len(talk["sha256"]) == 64


def test_what_is_made_is_taken_and_what_is_damaged_is_made_again(
    made: tuple[AnnotateResult, Path], sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = made
    before = {name: (out / name).read_bytes() for name in (TURNS, RECORDINGS, "manifest.json")}
    again = annotate(corpus_in(sound), out, TINY, workers=1, console=QUIET)
    assert again.reused
    assert again.digest == result.digest
    part = out / "parts" / "quiet.wav.json"
    part.write_text("{")
    (out / "parts" / ".of-a-kill.partial").write_text("half")
    worked = []
    one = step.annotate_recording
    monkeypatch.setattr(step, "annotate_recording", lambda task: worked.append(task.audio) or one(task))
    healed = annotate(corpus_in(sound), out, TINY, workers=1, console=QUIET)
    assert worked == ["quiet.wav"], "the others are committed"
    assert not healed.reused
    assert {name: (out / name).read_bytes() for name in before} == before
    (out / TURNS).write_bytes(before[RECORDINGS])
    with pytest.raises(DigestError, match="is not the table that the manifest names"):
        list(read_rows(out, TURNS))
    (out / TURNS).write_bytes(before[TURNS])


def test_a_run_in_another_folder_takes_what_is_kept_of_a_recording(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shutil.copy(sound / "quiet.wav", corpus)
    first = annotate(corpus_in(corpus), tmp_path / "a", TINY, kept=tmp_path / "kept", workers=1, console=QUIET)
    monkeypatch.setattr(step, "annotate_recording", lambda task: pytest.fail(f"{task.audio} is kept"))
    again = annotate(corpus_in(corpus), tmp_path / "b", TINY, kept=tmp_path / "kept", workers=1, console=QUIET)
    assert (again.digest, again.reused) == (first.digest, False)


def test_shards_that_are_joined_are_what_one_step_makes(
    made: tuple[AnnotateResult, Path], sound: Path, tmp_path: Path
) -> None:
    plan = plan_shards(str(sound), TINY, shards=2)
    assert (plan.shards, plan.recordings) == (["00000-of-00002", "00001-of-00002"], 4)
    tasks = step.plan_annotate(corpus_in(sound), tmp_path, TINY)
    halves = [share(tasks, name) for name in plan.shards]
    assert sorted(task.audio for half in halves for task in half) == [task.audio for task in tasks]
    assert {sum(task.audio.startswith("calls/") for task in half) for half in halves} == {1}, "even in size"
    for name, half in zip(plan.shards, halves, strict=True):
        for task in half:  # made by the step already: a shard that was stopped goes on from its parts
            (tmp_path / name / "parts").mkdir(parents=True, exist_ok=True)
            shutil.copy(made[1] / "parts" / task.part.name, tmp_path / name / "parts")
    shards = [annotate_shard(str(sound), name, tmp_path / name, TINY, workers=1, console=QUIET) for name in plan.shards]
    assert [shard.reused for shard in shards] == [False, False]
    joined = join_annotate(
        [tmp_path / name for name in plan.shards], str(sound), tmp_path / "joined", TINY, console=QUIET
    )
    assert joined.digest == made[0].digest
    assert (tmp_path / "joined" / TURNS).read_bytes() == (made[1] / TURNS).read_bytes()
    with pytest.raises(InputError, match="is in none of 1 shards; join all of one plan"):
        join_annotate([tmp_path / plan.shards[0]], str(sound), tmp_path / "half", TINY, console=QUIET)


def test_a_setting_or_another_file_is_another_key(sound: Path, tmp_path: Path) -> None:
    tasks = step.plan_annotate(corpus_in(sound), tmp_path, TINY)
    for other in (
        AnnotateSettings(recogniser="base"),
        AnnotateSettings(recogniser="tiny", speakers=2),
        AnnotateSettings(recogniser="tiny", language="en"),
        AnnotateSettings(recogniser="tiny", vad="silero"),
        AnnotateSettings(recogniser="tiny", channels="mixed"),
        AnnotateSettings(recogniser="tiny", pause=0.5),
    ):
        found = step.plan_annotate(corpus_in(sound), tmp_path, other)
        assert {task.key for task in found}.isdisjoint(task.key for task in tasks)
    copy = tmp_path / "elsewhere"
    shutil.copytree(sound, copy)
    assert [task.key for task in step.plan_annotate(corpus_in(copy), tmp_path, TINY)] == [task.key for task in tasks]


def test_a_corpus_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(InputError, match="holds no sound to annotate"):
        annotate(corpus_in(tmp_path / "corpus"), tmp_path / "out", TINY, console=QUIET)
    (tmp_path / "corpus" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"none of 1 recordings can be annotated; the first: .*a\.wav"):
        annotate(corpus_in(tmp_path / "corpus"), tmp_path / "out", TINY, workers=1, console=QUIET)


# Ingest


@pytest.fixture(scope="module")
def ingested(made: tuple[AnnotateResult, Path], sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ingest")
    ingest(sound, out, annotations=made[1], workers=1, console=QUIET)
    return out


def test_ingest_makes_conversations_of_what_was_found(ingested: Path, made: tuple[AnnotateResult, Path]) -> None:
    conversations = list(read_conversations(ingested))
    assert [item.id for item in conversations] == [f"calls/{name}.opus-w0000" for name in TALKS]
    rows = {row["id"]: row for row in read_rows(made[1], TURNS)}
    for item in conversations:
        assert [turn.text for turn in item.turns] == [rows[turn.id]["text"] for turn in item.turns]
        assert item.turns[0].speaker == 0
        assert {turn.speaker for turn in item.turns} == {0, 1}
        assert {turn.license for turn in item.turns} == {"CC-BY-4.0"}
    left_out = {row["audio"]: row for row in map(json.loads, (ingested / "rejected.jsonl").read_text().splitlines())}
    assert left_out["broken.flac"]["reason"] == "unreadable"
    assert left_out["quiet.wav"]["detail"] == "nobody is heard to speak in it"
    assert read_json(ingested / "manifest.json")["layout"] == "annotations"


def test_figures_go_with_the_cuts(ingested: Path, made: tuple[AnnotateResult, Path]) -> None:
    from lhotse import CutSet

    rows = {row["id"]: row for row in read_rows(made[1], TURNS)}
    supervisions = [row for cut in CutSet.from_jsonl_lazy(ingested / "cuts.jsonl.gz") for row in cut.supervisions]
    assert supervisions
    for row in supervisions:
        assert row.custom["figures"] == rows[row.id]["figures"]
        assert row.custom["text_heard"] == rows[row.id]["text_heard"]
        assert row.language == "en"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with texts, one of them of something else, one empty; and a recording that no text names."""
    folder = tmp_path_factory.mktemp("told")
    for name in TALKS:
        shutil.copy(DEMO / "audio" / f"{name}.opus", folder)
    lines = []
    for number, turn in enumerate(truth_of(TALKS[0])[:3]):
        text = {0: turn.text, 1: "Something else altogether, I should think."}.get(number, turn.text)
        lines.append(
            {
                "audio": f"{TALKS[0]}.opus",
                "id": f"t{number}",
                "text": text,
                "speaker": f"anna{turn.speaker}",
                "start": turn.start,
                "duration": turn.end - turn.start,
                "conversation": "c",
                "license": "CC0-1.0",
            }
        )
    (folder / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "LICENSE").write_text("CC-BY-4.0\n")
    return folder


def test_given_texts_stay_and_get_what_is_heard_beside_them(told: Path, tmp_path: Path) -> None:
    annotate(corpus_in(told), tmp_path / "annotations", TINY, workers=1, console=QUIET)
    rows = {row["id"]: row for row in read_rows(tmp_path / "annotations", TURNS)}
    truth = truth_of(TALKS[0])
    assert rows["t0"]["text"] == rows["t0"]["text_given"] == truth[0].text
    for number in range(3):
        heard = [truth[number]._replace(text=rows[f"t{number}"]["text_heard"])]
        wrong, words = all_words_wrong([truth[number]], heard)
        assert wrong <= 0.2 * words
    assert rows["t1"]["text_given"] != rows["t1"]["text_heard"]
    assert rows["t1"]["text"] == rows["t1"]["text_given"]
    digests = []
    for bound, kept in ((FigureBounds().max_wer, ["t0", "t2"]), (OFF, ["t0", "t1", "t2"])):
        gate = RecordGate(policy=Policy(figures=FigureBounds(max_wer=bound, max_unheard_words=OFF)))
        annotations, out = tmp_path / "annotations", tmp_path / "ingest"
        found = ingest(told, out, annotations=annotations, gate=gate, workers=1, console=QUIET)
        digests.append(found.digest)
        conversations = {item.id: item for item in read_conversations(out)}
        assert [turn.id for turn in conversations["c"].turns] == kept
    assert digests[0] != digests[1], "two policies are two data sets of the same annotations"
    assert f"{TALKS[1]}.opus-w0000" in conversations, "what no text names comes from the sound"


def test_annotations_of_another_kind_are_refused(sound: Path, ingested: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a folder of annotations of format 1"):
        ingest(sound, tmp_path, annotations=ingested, console=QUIET)


def test_sound_alone_is_led_to_the_option_that_takes_it(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"for sound alone: csm run --data FOLDER"):
        ingest(sound, tmp_path, console=QUIET)
