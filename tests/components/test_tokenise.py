"""Tokenise as a whole: shards that say what the sound was, the same for any number of workers, restartable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from waiting import eventually

from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.step import ingest
from csm_components.tokenise.check import compare
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.shard import shard_key
from csm_components.tokenise.step import TokeniseResult, tokenise
from csm_components.tokenise.tokenizer import given_tokenizer
from csm_model.bundle import load_bundle
from csm_model.codec import load_codec
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.frames import FRAME_SAMPLES
from csm_model.inference.generator import Generator
from csm_model.inference.sampling import Sampling
from csm_model.text import PhonemeTokenizer, load_tokenizer, train_bpe
from csm_model.training.config import TrainingConfig
from csm_model.training.main import main
from csm_model.training.shards import load_tokens, read_shard

SPLITS = {"talk-1": "train", "talk-2": "train", "talk-3": "validation", "talk-4": "test"}


@pytest.fixture
def conversations(tmp_path: Path, write_corpus: dict[str, Callable[..., Path]]) -> Path:
    corpus = write_corpus["lhotse"](tmp_path / "corpus", splits=SPLITS)
    ingest(corpus, tmp_path / "conversations", workers=1, console=Console(quiet=True))
    return tmp_path / "conversations"


def run(conversations: Path, codec: Path, out: Path, **options: object) -> TokeniseResult:
    settings: dict[str, object] = {
        "tokenizer_from": None,
        "workers": 1,
        "shard_conversations": 1,
        "check": CheckSettings(min_energy_correlation=-1.0),
        "console": Console(quiet=True),
    }
    return tokenise(conversations, codec, out=out, **{**settings, **options})  # type: ignore[arg-type]


def test_shards_hold_every_turn(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    out = tmp_path / "tokens"
    result = run(conversations, debug_codec, out)
    manifest = json.loads((out / "manifest.json").read_text())
    tokenizer, codec = load_tokenizer(out / "tokenizer.json"), load_codec(out / "codec")
    assert manifest["codec_digest"] == codec.digest == load_codec(debug_codec).digest
    assert manifest["tokenizer_digest"] == tokenizer.digest
    assert manifest["dataset_digest"] == json.loads((conversations / "manifest.json").read_text())["digest"]
    assert (manifest["num_codebooks"], manifest["codebook_size"]) == (codec.num_codebooks, codec.codebook_size)
    assert manifest["text_prefix"] == tokenizer.text_prefix == 2
    assert manifest["speakers"] == {"0": "anna", "1": "ben"}
    assert [len(manifest["splits"][split]) for split in ("train", "validation", "test")] == [2, 1, 1]

    tokens = {turn.id: turn for split in manifest["splits"] for turn in load_tokens(out, split)}
    for conversation in read_conversations(conversations):
        for turn, audio in zip(conversation.turns, conversation.turn_audios(), strict=True):
            token = tokens.pop(turn.id)
            assert (token.text, token.speaker, token.split) == (turn.text, turn.speaker, conversation.split)
            assert token.text_ids.tolist() == tokenizer.encode(turn.text, turn.speaker)
            frames = -(-len(audio) // FRAME_SAMPLES)
            assert token.codes.shape == (codec.num_codebooks, frames)
            padded = np.pad(audio, (0, frames * FRAME_SAMPLES - len(audio)))
            codes = codec.encode(torch.from_numpy(padded)[None, None])[0]
            assert (codes.numpy() == token.codes).mean() > 0.99  # another number of threads may round otherwise
    assert not tokens
    assert result.frames == manifest["frames"]
    assert result.sound_seconds_per_second > 0
    assert manifest["check"]["turns"] == 9
    assert set(manifest["check"]) >= {"energy_correlation", "mel_distance_db", "worst_turn"}


def test_workers_do_not_change_the_result(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    one = run(conversations, debug_codec, tmp_path / "one")
    two = run(conversations, debug_codec, tmp_path / "two", workers=2)
    assert one.digest == two.digest
    for path in (tmp_path / "one").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_second_run_takes_the_first_one(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    out = tmp_path / "tokens"
    first = run(conversations, debug_codec, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = run(conversations, debug_codec, out)
    assert second.reused
    assert (second.digest, second.frames) == (first.digest, first.frames)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_lost_shard_alone_is_made_again(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    out = tmp_path / "tokens"
    first = run(conversations, debug_codec, out)
    (out / "train-00001.safetensors").write_bytes(b"damaged")
    (out / "old-00000.safetensors").write_bytes(b"of another plan")
    with pytest.raises(DigestError, match="train-00001"):
        load_tokens(out, "train")
    kept = (out / "train-00000.safetensors").stat().st_mtime_ns
    again = run(conversations, debug_codec, out)
    assert not again.reused
    assert again.digest == first.digest
    assert (out / "train-00000.safetensors").stat().st_mtime_ns == kept
    assert not (out / "old-00000.safetensors").exists()


def test_killed_and_started_again_equals_uninterrupted(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import signal, sys; from pathlib import Path; from rich.console import Console\n"
        "from csm_components.tokenise import step\n"
        "from csm_components.tokenise.spec import CheckSettings\n"
        "made = step.make_shard\n"
        "def held(task):\n"
        "    return made(task) if len(list(Path(sys.argv[3], 'parts').glob('*.json'))) < 2 else signal.pause()\n"
        "step.make_shard = held\n"
        "step.tokenise(Path(sys.argv[1]), Path(sys.argv[2]), None, Path(sys.argv[3]), 1, shard_conversations=1,\n"
        "    check=CheckSettings(min_energy_correlation=-1.0), console=Console(quiet=True))\n"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, script, conversations, debug_codec, out])
    eventually(lambda: process.poll() is not None or len(list((out / "parts").glob("*.json"))) >= 2)
    process.kill()
    process.wait()
    assert 2 <= len(list((out / "parts").glob("*.json"))) < 4, "the kill must come in the middle"
    with pytest.raises(InputError, match="no such file"):
        load_tokens(out, "train")
    resumed = run(conversations, debug_codec, out)
    whole = run(conversations, debug_codec, tmp_path / "whole")
    assert resumed.digest == whole.digest


def test_a_codec_that_brings_nothing_back_is_refused(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    with pytest.raises(ArtifactError, match=r"energy correlation .* at least 0\.90 is needed") as caught:
        run(conversations, debug_codec, tmp_path / "tokens", check=CheckSettings(min_energy_correlation=0.9))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokens/manifest.json").exists()


def test_another_tokenizer(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    PhonemeTokenizer(num_speakers=5).save(tmp_path / "base" / "tokenizer.json")
    result = run(conversations, debug_codec, tmp_path / "tokens", tokenizer_from=tmp_path / "base")
    assert result.tokenizer_digest == PhonemeTokenizer(num_speakers=5).digest
    PhonemeTokenizer(num_speakers=1).save(tmp_path / "small.json")
    with pytest.raises(InputError, match=r"speaker 1 \(conversation talk-\d\) has no place"):
        run(conversations, debug_codec, tmp_path / "tokens", tokenizer_from=tmp_path / "small.json")


def test_a_bpe_of_the_training_split(
    tmp_path: Path, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus", splits=SPLITS)
    ingest(corpus, tmp_path / "conversations", workers=1, console=Console(quiet=True))
    path = corpus / "supervisions.jsonl"
    path.write_text(path.read_text().replace("Over the bridge.", "Bridge bridge bridge bridge."))  # of the test split
    ingest(corpus, tmp_path / "other", workers=1, console=Console(quiet=True))
    options = {"tokenizer": "bpe:300", "prompt_format": "sesame"}
    made = run(tmp_path / "conversations", debug_codec, tmp_path / "tokens", **options)
    other = run(tmp_path / "other", debug_codec, tmp_path / "other-tokens", **options)
    assert other.tokenizer_digest == made.tokenizer_digest
    assert other.dataset_digest != made.dataset_digest

    tokenizer = load_tokenizer(tmp_path / "tokens/tokenizer.json")
    texts = [t.text for item in read_conversations(tmp_path / "conversations", split="train") for t in item.turns]
    assert tokenizer.digest == made.tokenizer_digest
    assert tokenizer.digest == train_bpe(texts, vocab_size=300, num_speakers=16, prompt="sesame").digest
    manifest = json.loads((tmp_path / "tokens/manifest.json").read_text())
    assert (manifest["vocab_size"], manifest["text_prefix"]) == (tokenizer.vocab_size, 2)
    for turn in load_tokens(tmp_path / "tokens", "train"):
        assert turn.text_ids.tolist() == tokenizer.encode(turn.text, turn.speaker)
    assert run(tmp_path / "conversations", debug_codec, tmp_path / "tokens", **options).reused
    spaced = run(tmp_path / "conversations", debug_codec, tmp_path / "tokens", **{**options, "prompt_format": "miso"})
    assert not spaced.reused
    assert spaced.tokenizer_digest != made.tokenizer_digest


def test_what_is_tokenised_by_bpe_is_trained_on_and_spoken(
    tmp_path: Path, conversations: Path, debug_codec: Path
) -> None:
    train_bpe(["How are you?"] * 9, vocab_size=280, num_speakers=2, prompt="miso").save(tmp_path / "own.json")
    tokens = run(conversations, debug_codec, tmp_path / "tokens", tokenizer=str(tmp_path / "own.json"))
    recipe = {"model": "csm-30m", "steps": 1, "row_length": 256, "log_every": 1, "text_dropout": 0.5}
    TrainingConfig(tokens=tokens.out, out=str(tmp_path / "train"), **recipe).save(tmp_path / "config.json")
    assert main(["--config", str(tmp_path / "config.json")]) == 0
    bundle = load_bundle(tmp_path / "train/final")
    assert bundle.tokenizer.digest == tokens.tokenizer_digest == bundle.manifest["tokenizer_digest"]
    assert bundle.model.config.text_prefix == bundle.tokenizer.text_prefix == 2
    assert bundle.model.config.text_vocab_size == bundle.tokenizer.vocab_size
    speech = Generator(bundle).speak("Hello.", 1, sampling=Sampling(guidance=1.5), max_frames=2)
    assert speech.codes.shape[1] <= 2

    again = run(conversations, debug_codec, tmp_path / "again", tokenizer_from=tmp_path / "train/final")
    assert again.digest == tokens.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "bpe:400"}, "'bpe:400' needs a prompt format: sesame or miso"),
        ({"tokenizer": "bpe:many", "prompt_format": "miso"}, "write a BPE as bpe:SIZE, such as bpe:4096"),
        ({"tokenizer": "bpe:100", "prompt_format": "miso"}, "vocabulary of 100 is too small"),
        ({"tokenizer": "bpe:400", "prompt_format": "x"}, "prompt format 'x' is unknown"),
        ({"prompt_format": "miso"}, "phonemes and a base's tokenizer have their own; leave it out"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json: no such file"),
    ],
)
def test_wrong_settings_of_the_tokenizer(
    tmp_path: Path, conversations: Path, debug_codec: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(conversations, debug_codec, tmp_path / "tokens", **options)
    assert "\n" not in str(caught.value)


def test_a_base_keeps_its_tokenizer(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    phonemes, bpe = tmp_path / "phonemes.json", tmp_path / "bpe.json"
    PhonemeTokenizer(num_speakers=5).save(phonemes)
    train_bpe(["Hello"], vocab_size=300, num_speakers=2, prompt="sesame").save(bpe)
    for base, setting in ((phonemes, "phonemes"), (bpe, None), (bpe, str(bpe))):
        assert given_tokenizer(setting, None, base).digest == load_tokenizer(base).digest
    for base, setting, prompt in (
        (phonemes, "bpe:300", "sesame"), (bpe, "phonemes", None), (bpe, "bpe:300", "sesame"), (phonemes, str(bpe), None)
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"tokenizer '{setting}' is not the one that {base} was trained with"):
            run(
                conversations,
                debug_codec,
                tmp_path / "tokens",
                tokenizer_from=base,
                tokenizer=setting,
                prompt_format=prompt,
            )
    assert not (tmp_path / "tokens").exists()


def test_text_that_nobody_can_say_is_left_out(
    tmp_path: Path, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> None:
    corpus = write_corpus["lhotse"](tmp_path / "corpus", splits=SPLITS)
    path = corpus / "supervisions.jsonl"
    path.write_text(path.read_text().replace("Is it raining?", "雨ですか雨ですか雨"))
    ingest(corpus, tmp_path / "conversations", workers=1, console=Console(quiet=True))
    result = run(tmp_path / "conversations", debug_codec, tmp_path / "tokens")
    manifest = json.loads((tmp_path / "tokens/manifest.json").read_text())
    assert result.left_out == 1
    assert manifest["left_out"][0]["turn"] == "talk-2-0"
    assert [turn.id for turn in read_shard(tmp_path / "tokens/train-00001.safetensors")] == ["talk-2-1"]


def test_what_is_not_there_is_said(tmp_path: Path, conversations: Path, debug_codec: Path) -> None:
    with pytest.raises(InputError, match="run the step that writes it"):
        run(tmp_path / "nowhere", debug_codec, tmp_path / "tokens")
    with pytest.raises(InputError, match=r"codec\.json: no such file"):
        run(conversations, tmp_path / "nowhere", tmp_path / "tokens")


def test_likeness(say: Callable[..., np.ndarray]) -> None:
    speech = say("The quick brown fox jumps over the lazy dog.")
    same = compare(speech, speech)
    assert same.energy_correlation == pytest.approx(1.0)
    assert same.mel_distance_db == pytest.approx(0.0)
    late = compare(speech, np.pad(speech, (720, 0))[: len(speech)])  # as late as the STFT of the codec makes it
    assert late.energy_correlation > 0.99
    noise = np.random.default_rng(0).normal(0, 0.1, len(speech)).astype(np.float32)
    assert compare(speech, noise).energy_correlation < 0.4
    assert compare(speech, speech + noise / 100).mel_distance_db < compare(speech, noise).mel_distance_db
    assert compare(speech, np.zeros_like(speech)).energy_correlation == 0.0


def test_other_rules_of_reading_make_other_shards() -> None:
    class Newer(PhonemeTokenizer):
        rules = PhonemeTokenizer.rules + 1

    assert Newer().digest == PhonemeTokenizer().digest, "models and tokenizers stay as they are"
    keys = {shard_key((), "codec", tokenizer) for tokenizer in (PhonemeTokenizer(), Newer())}
    assert len(keys) == 2
