"""The step evaluate, end to end with a random model: what it writes, what it keeps, and the page it makes."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from csm_components.evaluate import html
from csm_components.evaluate.clips import ClipPlace, SpeakTask
from csm_components.evaluate.codec import main as codec_main
from csm_components.evaluate.context import ContextFigures, context_table, judge_context
from csm_components.evaluate.context import main as context_main
from csm_components.evaluate.figures import JudgedSentence, figures_of, wilson_interval
from csm_components.evaluate.html import Markup
from csm_components.evaluate.oracle import Help, Helped, codes_with_help, helps, measure_parts, parts_table
from csm_components.evaluate.oracle import main as oracle_main
from csm_components.evaluate.report_sentences import badness, choose_samples
from csm_components.evaluate.sampling import Tried, compare_samplings, grid, own_sampling, samplings_table
from csm_components.evaluate.sampling import main as sampling_main
from csm_components.evaluate.sentences import choose_sentences
from csm_components.evaluate.sources import FromBundle, FromServer
from csm_components.evaluate.step import EvaluateResult, EvaluateSettings, evaluate
from csm_components.evaluate.suite import figures_by, read_suite, speak_suite
from csm_components.evaluate.suite import main as suite_main
from csm_components.evaluate.verdicts import JudgeTask
from csm_components.ingest.conversations import Conversation, RecordedTurn, read_conversations
from csm_components.ingest.step import ingest
from csm_components.speak.dialogue import cast_dialogue, hold_dialogue, judge_dialogue, voices_of
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_model.bundle import load_bundle, write_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json
from csm_model.inference.context import ContextTurn
from csm_model.inference.generator import Generator
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel
from csm_model.text import load_tokenizer
from csm_model.training.shards import load_tokens
from csm_serving.client.dialogue import PAUSE_S, DialogueLine, Said, dialogue_of
from csm_serving.server.local import LocalSpeech
from csm_serving.wire.protocol import SpeechRequest, Turn

SETTINGS = EvaluateSettings(
    sentences_per_voice=2, parent_per_voice=1, base_per_voice=1, recogniser="tiny", mos=False, max_frames=8
)
ANY_CODEC = CheckSettings(min_energy_correlation=-1)
SPLITS = {"talk-1": "train", "talk-2": "validation", "talk-3": "test", "talk-4": "test"}
LOG = [
    {"step": 1, "loss": 3.0, "loss_first": 2.0, "loss_depth": 1.0},
    {"step": 2, "loss": 2.5, "loss_first": 1.5, "loss_depth": 1.0, "validation_first": 1.8, "validation_depth": 1.1},
]


@dataclass(frozen=True)
class Material:
    conversations: Path
    tokens: Path
    bundle: Path
    base: Path


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, write_corpus: dict[str, Callable[..., Path]]) -> Material:
    """Ingested talks, tokenised by a random codec; a random model, and another in the part of its base."""
    folder = tmp_path_factory.mktemp("evaluate")
    corpus = write_corpus["lhotse"](folder / "corpus", splits=SPLITS)
    ingest(corpus, folder / "ingest", workers=1, console=quiet())
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig.debug()).eval()
    codec.save(folder / "codec")
    tokenise(
        folder / "ingest",
        folder / "codec",
        None,
        folder / "tokens",
        1,
        check=ANY_CODEC,
        console=quiet(),
    )
    tokenizer = load_tokenizer(folder / "tokens" / "tokenizer.json")
    sizes = {"num_codebooks": codec.num_codebooks, "codebook_size": codec.codebook_size}
    for seed, name in ((1, "bundle"), (2, "base")):
        torch.manual_seed(seed)
        write_bundle(
            folder / name,
            model=CsmModel(debug_config(text_vocab_size=tokenizer.vocab_size, **sizes)).eval(),
            tokenizer=tokenizer,
            codec_folder=folder / "codec",
            precision="fp32",
            info={"dataset_digest": "0" * 64, "speakers": {"0": "<anna>", "1": "ben"}},
        )
    (folder / "bundle" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG) + '{"step"')
    return Material(folder / "ingest", folder / "tokens", folder / "bundle", folder / "base")


def run(material: Material, out: Path, *, workers: int = 1, settings: EvaluateSettings = SETTINGS) -> EvaluateResult:
    return evaluate(
        material.bundle,
        material.conversations,
        material.tokens,
        out,
        settings=settings,
        base=material.base,
        parent=material.bundle,
        thresholds={"wer": 0.15, "speaker_accuracy": 0.95},
        workers=workers,
        console=quiet(),
    )


@pytest.fixture(scope="module")
def evaluated(material: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluateResult, Path]:
    out = tmp_path_factory.mktemp("evaluated")
    return run(material, out), out


def test_every_series_is_spoken_and_judged(evaluated: tuple[EvaluateResult, Path]) -> None:
    result, out = evaluated
    stored = read_json(out / "result.json")
    assert {name: len(rows) for name, rows in stored["rows"].items()} == {
        "generated": 4,
        "parent": 2,
        "base": 2,
        "original": 4,
        "reconstruction": 4,
    }
    assert result.sentences == 4
    assert not result.reused
    assert result.wer_interval[0] <= result.wer_generated <= result.wer_interval[1]
    assert stored["figures"]["original"]["speaker_accuracy"] == 1.0
    assert stored["voices"]["1"]["name"] == "ben"
    assert result.mos is None
    assert result.for_gate()["wer"] == result.wer_generated
    assert sum(row["context"] is not None for row in stored["rows"]["generated"]) == 2
    for row in stored["rows"]["generated"]:
        assert (out / "clips" / "generated" / row["wav"]).exists()


def test_a_parent_that_is_the_bundle_costs_nothing(evaluated: tuple[EvaluateResult, Path]) -> None:
    result, _ = evaluated
    assert result.wer_int8_delta == 0.0
    assert result.compared["parent"]["wer"] == result.compared["parent"]["wer_here"]
    assert result.compared["base"]["sentences"] == 2


def test_what_was_learned_is_shown_by_voice_on_equal_sentences_and_seeds(
    evaluated: tuple[EvaluateResult, Path],
) -> None:
    result, out = evaluated
    spoken = [(row["voice"], row["sentences"]) for row in result.learned]
    assert spoken == [("<anna>", 1), ("ben", 1), ("all voices", 2)]
    stored = read_json(out / "result.json")
    for row in result.learned:
        voices = {"<anna>": [0], "ben": [1], "all voices": [0, 1]}[row["voice"]]
        wer = {}
        for series in ("base", "parent"):
            kept = [each for each in stored["rows"][series] if each["speaker"] in voices]
            wer[series] = sum(each["word_errors"] for each in kept) / sum(each["words"] for each in kept)
        assert (row["wer_before"], row["wer_after"]) == pytest.approx((wer["base"], wer["parent"]))
        low, high = row["wer_difference_interval"]
        assert low <= row["wer_difference"] <= high
    sounds = {
        series: {each["wav"]: (out / "clips" / series / each["wav"]).read_bytes() for each in rows}
        for series, rows in stored["rows"].items()
    }
    assert sounds["parent"].keys() == sounds["base"].keys() < sounds["generated"].keys()
    assert sounds["parent"].items() < sounds["generated"].items(), "one bundle, one seed a sentence: the same sound"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Words wrong before" in page
    assert "after: the same model before its weights were quantised" in page


def test_a_second_run_takes_what_is_there(material: Material, evaluated: tuple[EvaluateResult, Path]) -> None:
    result, out = evaluated
    again = run(material, out)
    assert again == replace(result, reused=True)


def test_a_killed_run_goes_on(material: Material, evaluated: tuple[EvaluateResult, Path]) -> None:
    result, out = evaluated
    (out / "made.json").unlink()
    clips, verdicts = (sorted((out / part / "generated").glob("*.json")) for part in ("clips", "verdicts"))
    clips[0].unlink()
    verdicts[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in (*clips[1:], verdicts[0], *verdicts[2:])}
    again = run(material, out)
    assert replace(again, minutes=0.0) == replace(result, minutes=0.0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert clips[0].exists()
    assert verdicts[1].exists()


class Reader(HTMLParser):
    """Counts what a page has, and checks that every tag is closed."""

    EMPTY = frozenset({"img", "meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: dict[str, list[str]] = {"audio": [], "img": []}
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag in self.sources:
            self.sources[tag].append(dict(attrs)["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_holds_players_pictures_and_figures(evaluated: tuple[EvaluateResult, Path]) -> None:
    result, out = evaluated
    page = (out / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.sources["audio"]) == 4 * 3 + 2 + 2 + 4
    assert all(source.startswith("data:audio/ogg;base64,") for source in reader.sources["audio"])
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources["img"])
    assert len(reader.sources["img"]) == 16 + 2
    for said in (f"{result.wer_generated:.1%}", "misses at most 15%", "What the run learned", "What quantising cost"):
        assert said in reader.text
    assert "asked of <anna>" in reader.text
    assert "http" not in page.replace("http-equiv", "")


def test_seeds_and_data_make_another_result(material: Material, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"sentences_per_voice": 1})
    first = evaluate(
        material.bundle,
        material.conversations,
        material.tokens,
        tmp_path,
        settings=settings,
        workers=1,
        console=quiet(),
    )
    kept = (tmp_path / "clips" / "original").glob("*.json")
    times = {path: path.stat().st_mtime_ns for path in kept}
    other = settings.model_copy(update={"seed": 7})
    second = evaluate(
        material.bundle, material.conversations, material.tokens, tmp_path, settings=other, workers=1, console=quiet()
    )
    assert not second.reused
    assert first.digest != second.digest
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_what_does_not_belong_together_is_refused(material: Material, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = RvqCodec(RvqConfig.debug()).eval()
    other.save(tmp_path / "codec")
    tokenise(
        material.conversations, tmp_path / "codec", None, tmp_path / "tokens", 1, check=ANY_CODEC,
        console=quiet(),
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="run tokenise with the bundle's codec"):
        evaluate(material.bundle, material.conversations, tmp_path / "tokens", tmp_path / "out", console=quiet())
    with pytest.raises(InputError, match="not a bundle"):
        evaluate(tmp_path, material.conversations, material.tokens, tmp_path / "out", console=quiet())
    with pytest.raises(InputError, match="base_per_voice 0: must be 1 or more"):
        EvaluateSettings(base_per_voice=0)
    with pytest.raises(InputError, match="'large' is not one of tiny, base"):
        EvaluateSettings(recogniser="large")  # type: ignore[arg-type]


def talk(name: str, lines: list[tuple[int, str]]) -> Conversation:
    turns = tuple(
        RecordedTurn(
            id=f"{name}-{number}", text=text, speaker=speaker, start=0.0, duration=1.0, start_sample=0, samples=24_000,
            license="CC0-1.0",
        )
        for number, (speaker, text) in enumerate(lines)
    )  # fmt: skip
    return Conversation(id=name, split="test", turns=turns, folder=Path("x"), file="x.flac", samples=0, pcm_sha256="")


def test_sentences_are_unseen_spread_and_have_a_turn_before_them() -> None:
    talks = [
        talk("a", [(0, "Good morning."), (1, "Hello there."), (0, "It is late."), (1, "It is 9:30.")]),
        talk("b", [(1, "Is it dry?"), (0, "No, it is wet."), (1, "What a pity.")]),
    ]
    ids = {turn.id for item in talks for turn in item.turns} - {"b-2"}
    choice = choose_sentences(talks, encoded=ids, training_texts=["it is nine thirty"], per_voice=4)
    assert choice.seen == 1
    by_voice = {voice: [item for item in choice.sentences if item.speaker == voice] for voice in (0, 1)}
    assert [(item.turn, item.own) for item in by_voice[0]] == [
        ("b-1", True),
        ("a-2", True),
        ("a-0", True),
        ("a-1", False),
    ]
    assert [item.turn for item in by_voice[1]] == ["a-1", "b-0", "b-1", "a-2"]
    assert by_voice[1][1].context is None
    assert by_voice[0][0].context == "b-0"
    with pytest.raises(InputError, match="no held-out sentence to speak"):
        choose_sentences(talks, encoded=[], training_texts=[], per_voice=4)


def test_samples_begin_with_the_worst(material: Material, evaluated: tuple[EvaluateResult, Path]) -> None:
    from csm_components.evaluate.outcome import row_of
    from csm_components.evaluate.work import Take, place_of

    _, out = evaluated
    held_out = list(read_conversations(material.conversations, "test"))
    ids = {turn.id for item in held_out for turn in item.turns}
    choice = choose_sentences(held_out, encoded=ids, training_texts=[], per_voice=2)
    rows = []
    for sentence in choice.sentences:
        place = place_of(out, "generated", sentence)
        rows.append(row_of(Take(sentence=sentence, place=place), out / "verdicts" / "generated" / place.note.name))
    chosen = choose_samples(rows, 3)
    assert len(chosen) == 3
    assert badness(chosen[0]) == min(map(badness, rows))
    assert badness(chosen[-1]) == max(map(badness, rows))
    assert choose_samples(rows, 9) == sorted(rows, key=badness)
    assert figures_of(rows).sentences == 4


def test_a_dialogue_is_spoken_judged_and_shown_first(
    material: Material, evaluated: tuple[EvaluateResult, Path], tmp_path: Path
) -> None:
    turns: list[Said] = [
        (0, "Good morning."),
        (1, "Hello <you>."),
        (0, "Where do we go?"),
        (1, "Over the bridge."),
    ]
    manifest = read_json(material.bundle / "manifest.json")
    voices = voices_of(manifest, read_json(material.conversations / "manifest.json"))
    assert voices == {0: "<anna>", 1: "ben"}
    takes = hold_dialogue(
        LocalSpeech(material.bundle),
        cast_dialogue(dialogue_of(turns, source="t"), voices),
        tmp_path,
        manifest=manifest,
        seed=3,
        max_frames=8,
        say=lambda line: None,
    )
    assert [(take.sentence.speaker, take.sentence.text) for take in takes] == turns
    heard = judge_dialogue(takes, material.conversations, tmp_path, names=voices, judging=SETTINGS, workers=1)
    sound, rate = soundfile.read(heard.speech)
    clips = [soundfile.read(take.place.wav)[0] for take in takes]
    assert len(sound) == sum(map(len, clips)) + 3 * round(PAUSE_S * rate)
    assert (heard.turns, heard.words, heard.mos) == (4, 11, None)
    assert [(row["voice"], row["text"]) for row in heard.rows] == [(voices[int(who)], text) for who, text in turns]
    assert heard.wer == sum(row["word_errors"] for row in heard.rows) / 11
    assert set(heard.voices) == {"<anna>", "ben"}
    json.dumps(asdict(heard))
    page = html.put_in(
        (evaluated[1] / "report.html").read_text(encoding="utf-8"), Markup(Path(heard.part).read_text(encoding="utf-8"))
    )
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert html.PLACE not in page
    assert reader.text.index("A dialogue") < reader.text.index("Beside the baselines")
    assert "Hello <you>." in reader.text
    assert len(reader.sources["audio"]) == 4 * 3 + 2 + 2 + 4 + 1 + len(turns)


@pytest.mark.parametrize(
    ("asked", "voices", "cast"),
    [
        (["heart", "kumo"], {0: "heart", 1: "kumo"}, [0, 1]),
        (["kumo", "heart"], {0: "heart", 1: "kumo"}, [1, 0]),
        ([1, "heart"], {0: "heart", 1: "kumo"}, [1, 0]),
        (["kumo", "anna"], {0: "heart", 1: "kumo"}, [1, 0]),
        (["anna", "kumo"], {0: "heart", 1: "kumo"}, [0, 1]),
        (["heart", "kumo"], {4: "anna", 7: "ben", 9: "cleo"}, [4, 7]),
        (["heart", "kumo", "cleo"], {4: "anna", 7: "ben"}, [4, 7, 4]),
        (["heart", "kumo"], {7: "ben"}, [7, 7]),
        ([0, 1], {1: "heart", 7: "ben"}, [7, 1]),
    ],
)
def test_who_is_no_voice_of_the_corpus_is_spoken_by_one_of_it(
    asked: list[int | str], voices: dict[int, str], cast: list[int]
) -> None:
    lines = [DialogueLine(place="t", who=who, text="Hi.") for who in [*asked, *asked]]
    assert [line.who for line in cast_dialogue(lines, voices)] == [*cast, *cast]


def test_shares_have_honest_intervals() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(96, 96)
    assert high == pytest.approx(1.0)
    assert 0.95 < low < 0.97


def test_text_never_becomes_a_tag() -> None:
    made = html.element("p", "<script>alert('&')</script>", cls='a"b')
    assert made == '<p class="a&quot;b">&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;</p>'
    assert html.join("a<b", made).startswith("a&lt;b<p")


def test_tasks_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    place = ClipPlace(wav=tmp_path / "a.wav", key="k")
    request = SpeechRequest(text="Hello.", context=(Turn(speaker=1, text="Hi.", codes=np.zeros((2, 3), np.int64)),))
    for source in (FromBundle(folder=tmp_path), FromServer(url="127.0.0.1:8001", digest="d")):
        task = pickle.loads(pickle.dumps(SpeakTask(source=source, request=request, place=place)))
        assert task.source == source
        assert task.request.context[0].text == "Hi."
        assert not task.place.committed
    judged = JudgeTask(
        clip=place,
        path=tmp_path / "v.json",
        recogniser="tiny",
        references={0: np.ones(4, np.float32)},
        references_key="r",
    )
    assert pickle.loads(pickle.dumps(judged)).key == judged.key


def suite_of(folder: Path, *lines: str) -> Path:
    path = folder / "suite.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_suite_is_spoken_in_every_voice_and_judged(material: Material, tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path,
        '{"id": "a", "text": "The moth circled the light.", "kind": "plain"}',
        '{"id": "b", "text": "Who left the door open?", "kind": "question"}',
    )

    def spoken() -> list[JudgedSentence]:
        return speak_suite(
            material.bundle,
            material.conversations,
            suite,
            tmp_path / "out",
            speakers=(0, 1),
            recogniser="tiny",
            mos=False,
            max_frames=4,
            workers=1,
            console=quiet(),
        )

    rows = spoken()
    assert [row.sentence.id for row in rows] == ["a.0", "b.0", "a.1", "b.1"]
    assert all(set(row.verdict.similarity) == {0, 1} and row.errors.words == 5 for row in rows)
    by_kind = figures_by(rows, lambda row: row.sentence.conversation)
    assert {name: figures.sentences for name, figures in by_kind.items()} == {"plain": 2, "question": 2}
    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    assert [row.verdict for row in spoken()] == [row.verdict for row in rows]
    assert {path: path.stat().st_mtime_ns for path in clips} == clips, "what was committed is not made again"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (('{"id": "a", "text": "One."}', "{"), "line 2: no sentence"),
        (('{"id": "a"}',), "line 1: no sentence"),
        (("[]",), "line 1: no sentence"),
        (('{"id": "a", "text": "One."}', '{"id": "a", "text": "Two."}'), "line 2: id 'a' is there twice"),
        ((), "line 1: no sentence"),
    ],
)
def test_what_is_no_suite_is_refused_by_its_line(lines: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        read_suite(suite_of(tmp_path, *lines))
    assert suite_main(["--bundle", "b", "--conversations", "c", "--out", "o", "--suite", str(tmp_path / "no")]) == 2


def test_context_is_judged_with_the_right_turn_another_and_none(
    material: Material, write_corpus: dict[str, Callable[..., Path]], tmp_path: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus", splits={**dict.fromkeys(SPLITS, "test"), "talk-3": "train"})
    ingest(corpus, tmp_path / "ingest", workers=1, console=quiet())
    codec, tokens = material.bundle / "codec", tmp_path / "tokens"
    tokenise(tmp_path / "ingest", codec, None, tokens, 1, check=ANY_CODEC, console=quiet())

    def judged() -> ContextFigures:
        return judge_context(
            material.bundle,
            tokens,
            tmp_path / "ingest",
            tmp_path / "out",
            spoken=4,
            max_frames=12,
            workers=1,
            console=quiet(),
        )

    figures = judged()
    assert figures.answers >= 2
    assert set(figures.nats) == {"right", "none", "other"}
    for which, saved in figures.nats_saved.items():
        assert saved == pytest.approx(figures.nats[which] - figures.nats["right"])
        low, high = figures.nats_saved_interval[which]
        assert low <= saved <= high
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.wav")}
    assert len(made) == 2 * min(4, figures.answers)
    assert judged() == figures
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was committed is not made again"
    assert read_json(tmp_path / "out" / "context.json")["nats"] == figures.nats
    assert context_table(figures).row_count >= 2


def test_context_of_a_split_without_conversations_is_refused(
    material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"bundle": material.bundle, "tokens": material.tokens, "conversations": material.conversations}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert context_main([*options, "--out", str(tmp_path), "--split", "validation"]) == 2
    assert "give tokens of such conversations" in capsys.readouterr().err


def test_samplings_are_compared_on_the_same_sentences_and_seeds(material: Material, tmp_path: Path) -> None:
    own = own_sampling(material.bundle)
    settings = grid(own, temperature=[0.0, own.temperature], guidance=None)
    assert settings == [own, replace(own, temperature=0.0)], "the bundle's own comes first, and once"

    def tried() -> list[Tried]:
        return compare_samplings(
            material.bundle,
            material.tokens,
            material.conversations,
            tmp_path / "out",
            settings,
            per_voice=1,
            draws=2,
            max_frames=4,
            workers=1,
            console=quiet(),
        )

    first, second = tried()
    assert (first.sampling, second.sampling) == tuple(settings)
    assert (first.difference, first.difference_interval) == (0.0, (0.0, 0.0))
    assert second.difference == pytest.approx(second.figures.wer - first.figures.wer)
    assert first.figures.sentences == second.figures.sentences == 2 * 2, "two voices, two draws"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.name != "sampling.json"}
    sounds = {path: path.read_bytes() for path in made if path.suffix == ".wav"}
    draws = [sounds[path] for path in sorted(sounds) if path.parent.name.startswith("0-")]
    assert len(sounds) == 8
    assert len(set(draws)) == 4, "the depth decoder is drawn anew"
    assert tried() == [first, second]
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was committed is not made again"
    assert [row["sampling"]["temperature"] for row in read_json(tmp_path / "out/sampling.json")] == [own.temperature, 0]
    assert samplings_table([first, second]).row_count == 2


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--temperature", "5.5", "temperature"),
        ("--guidance", "nan", "guidance"),
        ("--draws", "0", "draws 0"),
        ("--per-voice", "0", "0 sentences a voice"),
        ("--split", "nobody", "no split 'nobody'"),
    ],
)
def test_a_comparison_of_nothing_is_refused_in_one_line(
    option: str, value: str, said: str, material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"bundle": material.bundle, "tokens": material.tokens, "conversations": material.conversations}
    options = [word for name, folder in given.items() for word in (f"--{name}", str(folder))]
    assert sampling_main([*options, "--out", str(tmp_path / "out"), option, value]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_is_helped_by_the_recordings_codes(material: Material, tmp_path: Path) -> None:
    def measured() -> list[Helped]:
        return measure_parts(
            material.bundle,
            material.tokens,
            material.conversations,
            tmp_path / "out",
            books=[0, 1, 4],
            split="test",
            per_voice=1,
            max_frames=4,
            workers=1,
            console=quiet(),
        )

    parts = measured()
    named = ["free" if each.help is None else each.help.series for each in parts]
    assert named == ["free", "recorded-0", "recorded-1", "recorded-4", "own-1", "own-4"], "own-0 is free"
    assert all(set(each.voices) == {0, 1} and each.figures.sentences == 2 for each in parts)
    for each in parts:
        assert each.difference == pytest.approx(each.figures.wer - parts[0].figures.wer)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.name != "oracle.json"}
    assert measured() == parts
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was committed is not made again"
    assert [row["help"] for row in read_json(tmp_path / "out/oracle.json")][:2] == [
        None,
        {"history": "recorded", "books": 0},
    ]
    assert parts_table(parts).row_count == len(parts)


def test_given_codebooks_stay_and_the_rest_is_drawn_as_the_generator_draws(material: Material) -> None:
    bundle = load_bundle(material.bundle, codec_folder=material.tokens / "codec", kernels=False)
    books = bundle.model.config.num_codebooks
    before, turn = next(
        (before, turn)
        for before, turn in zip(*(list(load_tokens(material.tokens, "test"))[start:] for start in (0, 1)), strict=False)
        if before.conversation == turn.conversation
    )
    sampling = Sampling(temperature=0.8, depth_temperature=0.6, guidance=1.5, depth_guidance=2.0, depth_mean=1, seed=7)
    recorded = torch.from_numpy(turn.codes.astype(np.int64))
    for given in helps(range(books + 1), ("recorded", "own"), books):
        codes = codes_with_help(bundle, before, turn, given, sampling)
        assert codes.shape == recorded.shape
        assert codes[: given.books].equal(recorded[: given.books])
        assert codes.equal(recorded) == (given.books == books), given
        assert int(codes.max()) < bundle.model.config.codebook_size
    context = ContextTurn(
        speaker=before.speaker, text=before.text, codes=torch.from_numpy(before.codes.astype(np.int64))
    )
    by_itself = Generator(bundle, sampling=sampling).speak(turn.text, turn.speaker, context=[context]).codes
    drawn = codes_with_help(bundle, before, turn, Help(history="own", books=0), sampling)
    least = min(by_itself.shape[1], drawn.shape[1])
    assert least > 2
    assert drawn[:, :least].equal(by_itself[:, :least])
    first = codes_with_help(bundle, before, turn, Help(history="recorded", books=0), sampling)
    assert first[:, 0].equal(drawn[:, 0]), "nothing stands before the first frame"
    likely = Sampling(temperature=0.0, depth_temperature=0.0)  # random weights hardly move the odds, but the likeliest
    after = [codes_with_help(bundle, before, turn, Help(history=each, books=1), likely) for each in ("recorded", "own")]
    assert not after[0].equal(after[1]), "what was drawn is heard"


def test_help_by_more_codebooks_than_there_are_is_refused(
    material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"bundle": material.bundle, "tokens": material.tokens, "conversations": material.conversations}
    options = [word for name, folder in given.items() for word in (f"--{name}", str(folder))]
    assert oracle_main([*options, "--out", str(tmp_path / "out"), "--books", "99"]) == 2
    assert capsys.readouterr().err.startswith("books 99: must be from 0 to the model's ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("main", [codec_main, context_main, oracle_main])
def test_a_split_that_there_is_none_of_is_refused_with_those_that_there_are(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--split", "tset"])
    assert "'tset' (choose from 'train', 'validation', 'test')" in capsys.readouterr().err
