"""The judges on sounds whose truth is known: a packaged voice, the same voice made deep, noise, silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from csm_components.evaluate import judges
from csm_components.evaluate.codec import evenly, main, pitch_errors, read_clips
from csm_components.evaluate.judges import Mos, Recogniser, SpeakerJudge, whisper_folder
from csm_components.evaluate.silence import silence_of
from csm_components.evaluate.wer import corpus_wer, word_errors
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.errors import DigestError, InputError

CORPUS = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus"
TEXTS = (
    "The library opens at nine thirty on Monday.",
    "I would like a cheese sandwich and black coffee, please.",
    "It costs twelve dollars.",
    "My brother works at the museum in Chicago.",
)


@pytest.fixture(scope="module")
def heart() -> list[np.ndarray]:
    """`TEXTS` in hibari's packaged voice."""
    from hibari import Hibari

    voice = Hibari(threads=1)
    return [voice(text, seed=number) for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def deep(heart: list[np.ndarray]) -> list[np.ndarray]:
    """The same with pitch and formants at 0.78: to a listener another person."""
    return [resample_poly(sound, 100, 78).astype(np.float32) for sound in heart]


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser("tiny")


@pytest.fixture(scope="module")
def speaker_judge() -> SpeakerJudge:
    return SpeakerJudge()


def test_the_recogniser_reads_speech(recogniser: Recogniser, heart: list[np.ndarray]) -> None:
    heard = [recogniser.transcribe(sound) for sound in heart]
    assert corpus_wer([word_errors(text, line) for text, line in zip(TEXTS, heard, strict=True)]) <= 0.05, heard
    assert recogniser.transcribe(heart[0]) == heard[0]


def test_long_sound_is_read_to_its_end(recogniser: Recogniser, heart: list[np.ndarray]) -> None:
    pause = np.zeros(12_000, np.float32)
    sound = np.concatenate([piece for clip in heart * 2 for piece in (clip, pause)])
    assert len(sound) > 15 * 24_000
    errors = word_errors(" ".join(TEXTS * 2), recogniser.transcribe(sound))
    assert errors.rate < 0.15, errors.steps


def test_silence_says_nothing(recogniser: Recogniser) -> None:
    assert recogniser.transcribe(np.zeros(24_000, np.float32)) == ""


def test_base_is_put_together_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whisper_folder("base", cache=tmp_path)
    weights = folder / "model.bin"
    made = weights.stat().st_mtime_ns
    assert whisper_folder("base", cache=tmp_path) == folder
    assert weights.stat().st_mtime_ns == made
    with weights.open("r+b") as file:
        file.write(b"damaged")
    with pytest.raises(DigestError, match=r"model\.bin has SHA-256 .* remove the file"):
        whisper_folder("base", cache=tmp_path)
    with pytest.raises(InputError, match="'huge' is not one of tiny, base"):
        whisper_folder("huge")  # type: ignore[arg-type]
    monkeypatch.setitem(judges.WHISPER_DIGESTS, "tiny", "0" * 64)
    with pytest.raises(DigestError):
        whisper_folder("tiny")


def test_the_score_falls_with_noise(heart: list[np.ndarray]) -> None:
    mos, rng = Mos(), np.random.default_rng(0)
    noise = rng.standard_normal(len(heart[0])).astype(np.float32)
    scores = [mos.score(heart[0] + level * noise) for level in (0.0, 0.01, 0.1)]
    assert scores[0] > 4.0 > scores[1] > scores[2] >= 1.0
    assert mos.score(np.zeros(24_000, np.float32)) == 1.0


def test_voices_are_told_apart(speaker_judge: SpeakerJudge, heart: list[np.ndarray], deep: list[np.ndarray]) -> None:
    references = {0: speaker_judge.centroid(heart[:2]), 3: speaker_judge.centroid(deep[:2])}
    for sound, voice in [(heart[2], 0), (heart[3], 0), (deep[2], 3), (deep[3], 3)]:
        verdict = speaker_judge.decide(speaker_judge.embed(sound), references)
        assert verdict.nearest == voice
        assert verdict.similarity[voice] > max(verdict.similarity[other] for other in references if other != voice)
    assert speaker_judge.similarity(heart[0], heart[1]) > speaker_judge.similarity(heart[0], deep[0])


def test_silence_is_nobody(speaker_judge: SpeakerJudge, heart: list[np.ndarray]) -> None:
    references = {0: speaker_judge.centroid(heart[:2])}
    verdict = speaker_judge.decide(speaker_judge.embed(np.zeros(24_000, np.float32)), references)
    assert verdict.nearest is None
    assert verdict.similarity == {0: 0.0}


def test_silence_is_found_where_it_is() -> None:
    tone = (0.3 * np.sin(np.arange(24_000) * 0.05)).astype(np.float32)
    quiet = np.zeros(12_000, np.float32)
    found = silence_of(np.concatenate([quiet, tone, quiet, quiet, tone, quiet[:6_000]]))
    assert found.leading == pytest.approx(0.5, abs=0.03)
    assert found.longest_pause == pytest.approx(1.0, abs=0.03)
    assert found.trailing == pytest.approx(0.25, abs=0.03)
    assert found.share == pytest.approx(1.75 / 3.75, abs=0.02)
    nothing = silence_of(np.zeros(24_000, np.float32))
    assert (nothing.share, nothing.leading) == (1.0, 1.0)


@pytest.mark.skipif(not (CORPUS / "supervisions.jsonl").exists(), reason="the demo corpus is not in this copy")
def test_the_demo_voices_are_told_apart_and_read(recogniser: Recogniser, speaker_judge: SpeakerJudge) -> None:
    clips = evenly(list(read_clips(CORPUS, "test")), 12)
    names = sorted({clip.speaker for clip in clips})
    references = {
        number: speaker_judge.centroid([clip.audio for clip in clips if clip.speaker == name][:3])
        for number, name in enumerate(names)
    }
    assert len(references) == 2
    for clip in clips:
        assert names[speaker_judge.decide(speaker_judge.embed(clip.audio), references).nearest or 0] == clip.speaker
    errors = [word_errors(clip.text, recogniser.transcribe(clip.audio)) for clip in clips[:4]]
    assert corpus_wer(errors) <= 0.1


def test_a_codec_is_measured_from_a_corpus(
    tmp_path: Path, lhotse_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RvqCodec(RvqConfig.debug()).eval().save(tmp_path / "codec")
    arguments = ["--codec", str(tmp_path / "codec"), "--from", str(lhotse_corpus)]
    assert main([*arguments, "--limit", "2", "--recognisers", "tiny", "--json", str(tmp_path / "figures.json")]) == 0
    assert "distillMOS" in capsys.readouterr().out
    assert (tmp_path / "figures.json").exists()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["voices"]) == 2
    assert all(own["clips"] == 2 for own in figures["voices"].values()), "the limit is a voice's"
    assert figures["total"]["clips"] == 4
    assert main([*arguments[:3], str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_codec_is_measured_on_sounds_without_texts(tmp_path: Path, lhotse_corpus: Path) -> None:
    RvqCodec(RvqConfig.debug()).eval().save(tmp_path / "codec")
    for number, clip in enumerate(evenly(list(read_clips(lhotse_corpus, "test")), 1)):
        (tmp_path / "sounds" / f"voice-{number}").mkdir(parents=True)
        soundfile.write(tmp_path / "sounds" / f"voice-{number}" / "a.wav", clip.audio, 24_000)
    arguments = ["--codec", str(tmp_path / "codec"), "--from", str(tmp_path / "sounds")]
    assert main([*arguments, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert sorted(figures["voices"]) == ["voice-0", "voice-1"]
    assert figures["total"]["wer_decoded"] == {}, "nothing was said that could be compared"
    assert figures["total"]["mos_decoded"] >= 1.0


def test_pitch_errors_allow_for_a_delay() -> None:
    time = np.arange(24_000) / 24_000
    phase = 2 * np.pi * np.cumsum(120 + 40 * time) / 24_000
    real = (0.1 * sum(np.cos(k * phase) / k for k in range(1, 10))).astype(np.float32)
    late = np.concatenate([np.zeros(720, np.float32), real[:-720]])
    assert pitch_errors(real, late)[0] == 0
    wrong = (0.1 * sum(np.cos(k * 1.6 * phase) / k for k in range(1, 10))).astype(np.float32)
    off, both = pitch_errors(real, wrong)
    assert both > 50
    assert off > 0.9 * both
