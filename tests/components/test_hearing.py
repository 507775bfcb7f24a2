"""Hearing: judges listen to a sample through the codec; one that cannot carry a voice is refused before any work."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from csm_components.evaluate.codec import Judged
from csm_components.evaluate.wer import Errors
from csm_components.ingest.conversations import Conversation, RecordedTurn, read_conversations
from csm_components.ingest.step import ingest
from csm_components.tokenise.fanout import join_tokenise, plan_tokenise, tokenise_shard
from csm_components.tokenise.hearing import ENOUGH, FILE, Hearing, Loss, hear, hearing_key, sample
from csm_components.tokenise.knobs import CheckSettings, HearingSettings
from csm_components.tokenise.step import tokenise
from csm_model.codec import AudioCodec, load_codec
from csm_model.errors import ArtifactError
from csm_model.files import copy_file, read_json

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
QUIET = Console(quiet=True)
ANY_CODEC = CheckSettings(min_energy_correlation=-1.0)
NO_BOUNDS = {"max_codec_wer_added": None, "min_codec_likeness": None}


def talks(seed: int) -> list[Conversation]:
    """Conversations of a few voices, some of which speak much more than others."""
    rng = random.Random(seed)
    voices = rng.randint(1, 40)
    made = []
    for number in range(rng.randint(1, 30)):
        turns = tuple(
            RecordedTurn(
                id=f"{seed}-{number}-{place}", text="", speaker=rng.randrange(voices) // rng.choice([1, 1, 7]),
                start=0.0, duration=rng.choice([0.3, 2.0, 5.0, 40.0]), start_sample=0, samples=0, license="",
            )
            for place in range(rng.randint(1, 12))
        )  # fmt: skip
        made.append(
            Conversation(id=str(number), split="train", turns=turns, folder=Path(), file="", samples=0, pcm_sha256="")
        )
    return made


@pytest.mark.parametrize("seed", range(60))
def test_a_sample_is_even_over_the_voices(seed: int) -> None:
    made = talks(seed)
    there = Counter(turn.speaker for item in made for turn in item.turns)
    asked = random.Random(seed).randint(1, 50)
    chosen = [turn for _, turn in sample(made, asked)]
    assert len({turn.id for turn in chosen}) == len(chosen) == min(asked, there.total())
    taken = Counter(turn.speaker for turn in chosen)
    if len(there) >= asked:
        assert set(taken.values()) == {1}
    else:
        most = max(taken.values())
        assert all(taken[voice] >= min(count, most - 1) for voice, count in there.items())
    for voice in taken:
        good = sum(1 <= t.duration <= 14 for item in made for t in item.turns if t.speaker == voice)
        heard = sum(1 <= turn.duration <= 14 for turn in chosen if turn.speaker == voice)
        assert heard == min(good, taken[voice]), "what is too short or too long comes last"
    random.Random(1).shuffle(made)
    assert {turn.id for _, turn in sample(made, asked)} == {turn.id for turn in chosen}


def errors(total: int, words: int = 10) -> Errors:
    return Errors(substitutions=total, deletions=0, insertions=0, words=words, steps=())


def judged(before: int, after: int, likeness: float, words: int = 10) -> Judged:
    return Judged(
        speaker="anna", seconds=2.0, before={"base": errors(before, words)}, after={"base": errors(after, words)},
        mos=(4.0, 3.0), voice=np.zeros(256, np.float32), similarity=likeness, pitch=np.zeros(0, np.float32),
        pitch_off=(0, 0), voiced=(0.5, 0.5), steps=200,
    )  # fmt: skip


def test_a_loss_counts_words_where_the_recordings_can_be_read() -> None:
    loss = Loss.of([judged(1, 3, 0.9), judged(0, 2, 0.8)])
    assert (loss.turns, loss.wer_added) == (2, pytest.approx(0.2))
    assert (loss.likeness, loss.mos, loss.mos_recorded) == (pytest.approx(0.85), 3.0, 4.0)
    assert loss.words == "+20.0 points of word errors, likeness 0.85, distillMOS 4.0 to 3.0"
    unheard = replace(judged(0, 0, 0.9), before={}, after={})
    for unread in (judged(8, 9, 0.9), judged(0, 0, 0.9, words=0), unheard):
        loss = Loss.of([unread])
        assert (loss.wer_added, loss.wer_added_interval) == (None, None)
        assert loss.words.startswith("words not read, likeness 0.90")


def loss_of(rng: random.Random) -> Loss:
    added, likeness = rng.choice([None, rng.uniform(-0.05, 0.5)]), rng.uniform(0.3, 1.0)
    width = rng.uniform(0.0, 0.2)
    return Loss(
        turns=rng.choice([1, ENOUGH, 12]),
        wer_added=added,
        wer_added_interval=None if added is None else (added - width, added + width),
        likeness=likeness,
        likeness_interval=(likeness - width / 2, likeness + width / 2),
        mos=3.0,
        mos_recorded=4.0,
    )


def listen(codec: AudioCodec, folder: Path, settings: HearingSettings) -> Hearing | None:
    return hear(codec, [], settings, folder, called=Path("codec"), dataset_digest="d", workers=1, console=QUIET)


@pytest.mark.parametrize("seed", range(40))
def test_a_codec_is_refused_where_a_voice_loses_too_much_beyond_doubt(
    tmp_path: Path, debug_codec: Path, seed: int
) -> None:
    rng, codec = random.Random(seed), load_codec(debug_codec)
    settings = HearingSettings(
        max_codec_wer_added=rng.choice([None, rng.uniform(0, 0.4)]),
        min_codec_likeness=rng.choice([None, rng.uniform(0.4, 0.9)]),
    )
    voices = {name: loss_of(rng) for name in ("anna", "ben", "cleo")}
    heard = Hearing(key=hearing_key(codec, "d", settings), total=loss_of(rng), voices=voices)
    heard.save(tmp_path)

    def beyond(loss: Loss) -> bool:
        most, least = settings.max_codec_wer_added, settings.min_codec_likeness
        words = most is not None and loss.wer_added_interval is not None and loss.wer_added_interval[0] > most
        return loss.turns >= ENOUGH and (words or (least is not None and loss.likeness_interval[1] < least))

    lost = [name for name, loss in {**voices, "all voices": heard.total}.items() if beyond(loss)]
    if not lost:
        assert listen(codec, tmp_path, settings) == heard
        return
    with pytest.raises(ArtifactError, match=rf"^codec: the codec cannot carry {lost[0]}: ") as caught:
        listen(codec, tmp_path, settings)
    said = str(caught.value)
    assert "\n" not in said
    assert "--set data.codec=FOLDER" in said
    unbound = settings.model_copy(update=NO_BOUNDS)
    assert listen(codec, tmp_path, unbound) == heard, "other bounds, and nothing is heard again"


def test_nobody_listens_where_nobody_is_asked(tmp_path: Path, debug_codec: Path) -> None:
    Hearing(key="of before", total=loss_of(random.Random(0)), voices={}).save(tmp_path)
    assert listen(load_codec(debug_codec), tmp_path, HearingSettings(heard_turns=0)) is None
    assert Hearing.load(tmp_path) is None


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory, write_corpus: dict[str, Callable[..., Path]]) -> Path:
    home = tmp_path_factory.mktemp("hearing")
    splits = {"talk-1": "train", "talk-2": "train", "talk-3": "validation", "talk-4": "test"}
    ingest(write_corpus["lhotse"](home / "corpus", splits=splits), home / "ingest", workers=1, console=QUIET)
    return home / "ingest"


def test_a_random_codec_is_refused_before_any_work(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    settings = HearingSettings(heard_turns=8)
    with pytest.raises(ArtifactError, match=r"cannot carry (anna|ben): likeness to the recordings 0\.\d\d, at least"):
        tokenise(conversations, debug_codec, None, tmp_path, 1, check=ANY_CODEC, hearing=settings, console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == [FILE], "nothing is made of its codes"
    before = (tmp_path / FILE).stat().st_mtime_ns
    loose = HearingSettings(heard_turns=8, **NO_BOUNDS)
    made = tokenise(conversations, debug_codec, None, tmp_path, 1, check=ANY_CODEC, hearing=loose, console=QUIET)
    assert (tmp_path / FILE).stat().st_mtime_ns == before, "what was heard is not heard again"
    heard = read_json(tmp_path / "manifest.json")["heard"]
    assert sorted(heard["voices"]) == ["anna", "ben"]
    assert made.codec_likeness == heard["total"]["likeness"] < 0.8
    assert made.codec_mos is not None
    again = tokenise(conversations, debug_codec, None, tmp_path, 1, check=ANY_CODEC, hearing=loose, console=QUIET)
    assert again == replace(made, reused=True)
    with pytest.raises(ArtifactError, match="the codec cannot carry"):
        tokenise(conversations, debug_codec, None, tmp_path, 1, check=ANY_CODEC, hearing=settings, console=QUIET)

    (tmp_path / "tools").mkdir()
    copy_file(tmp_path / FILE, tmp_path / "tools" / FILE)
    plan = plan_tokenise(conversations, debug_codec, None, tmp_path / "tools", shards=1, hearing=loose, workers=1)
    (name,) = plan.shards
    tokenise_shard(conversations, tmp_path / "tools", name, tmp_path / "part", workers=1, console=QUIET)
    joined = join_tokenise(
        [tmp_path / "part"], conversations, tmp_path / "tools", tmp_path / "joined", check=ANY_CODEC, console=QUIET
    )
    assert joined.digest == made.digest
    for file in ("manifest.json", FILE):
        speeds = {"sound_seconds_per_second": None}
        assert read_json(tmp_path / "joined" / file) | speeds == read_json(tmp_path / file) | speeds


def test_the_demos_codec_carries_the_demos_first_voice(tmp_path: Path) -> None:
    ingest(DEMO / "corpus", tmp_path / "conversations", workers=1, max_conversations=2, console=QUIET)
    said = Console(record=True, width=200, file=io.StringIO())
    heard = hear(
        load_codec(DEMO / "codec"),
        list(read_conversations(tmp_path / "conversations")),
        HearingSettings(heard_turns=8, max_codec_wer_added=None),
        tmp_path,
        called=DEMO / "codec",
        dataset_digest="demo",
        workers=1,
        console=said,
    )
    assert heard is not None
    assert heard.voices["heart"].likeness > 0.8
    assert heard.voices["heart"].wer_added is not None
    assert "Through the codec, heart (4 turns): " in said.export_text()
