"""Tokenizers: turns as Sesame and Miso write them, id for id as the library cuts them; files told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from csm_model.errors import ArtifactError, InputError
from csm_model.text import BEGIN, END, BpeTokenizer, PhonemeTokenizer, Tokenizer, load_tokenizer, train_bpe
from csm_model.text.bpe_training import LLAMA_PATTERN, least_vocabulary

TEXTS = (
    "Hello there, how are you today?",
    "I'm well; it is sunny in Rome, isn't it?",
    "See you at 9:30 or at 12, in room 305.",
    "The café near the river opens at 7.",
)
BASE = 128_000
"""Llama 3's first special id."""


@pytest.fixture(scope="session")
def llama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json built as Llama 3's is: its pattern, its special names and ids, a post-processor that adds begin
    alone, words of the vocabulary taken before merges; the merges are few, and ids without use fill up to 128,000."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [f" {number}" for number in range(1000)] * 3
    joined = ["x]Hello", "]Hello"] * 30  # as Llama 3 has ids such as "]int"
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*TEXTS * 50, *numbers, *joined], trainer=trainer)
    file = json.loads(tokenizer.to_str())
    vocabulary = file["model"]["vocab"]
    vocabulary |= {f"unused {number}": number for number in range(len(vocabulary), BASE)}
    file["model"]["ignore_merges"] = True
    names = {0: "<|begin_of_text|>", 1: "<|end_of_text|>"}
    file["added_tokens"] = [
        {
            "id": BASE + number, "content": names.get(number, f"<|reserved_special_token_{number}|>"),
            "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True,
        }
        for number in range(256)
    ]  # fmt: skip
    whole = tokenizers.Tokenizer.from_str(json.dumps(file))
    whole.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", BASE)]
    )
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    whole.save(str(path))
    return path


@pytest.fixture(scope="session")
def llama(llama_file: Path) -> dict[str, Tokenizer]:
    return {prompt: load_tokenizer(llama_file, prompt=prompt) for prompt in ("sesame", "miso")}


@pytest.fixture(scope="session")
def oracle(llama_file: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(llama_file))


@pytest.fixture(scope="session")
def trained() -> BpeTokenizer:
    return train_bpe(TEXTS * 3, vocab_size=400, num_speakers=16, prompt="sesame")


@pytest.mark.parametrize("text", [*TEXTS, "  Leading spaces", "\n9 men", '"Quoted," she said.', "雨です"])
@pytest.mark.parametrize("speaker", [0, 7, 12, 305])
def test_llama_writes_turns_as_sesame_and_miso_do(
    llama: dict[str, Tokenizer], oracle: tokenizers.Tokenizer, text: str, speaker: int
) -> None:
    for prompt, written in (("sesame", f"[{speaker}]{text}"), ("miso", f"[{speaker}] {text.lstrip()}")):
        tokenizer = llama[prompt]
        ids = tokenizer.encode(text, speaker)
        assert ids == [128_000, *oracle.encode(written, add_special_tokens=False).ids, 128_001]
        assert ids[:-1] == oracle.encode(written).ids  # this file's post-processor adds begin, and begin alone
        assert max(ids) < tokenizer.vocab_size == 128_256


@pytest.mark.parametrize("speaker", [0, 15])
def test_a_trained_bpe_writes_turns_as_the_library_reads_them(trained: BpeTokenizer, speaker: int) -> None:
    plain = trained._state()["tokenizer"]
    oracle = tokenizers.Tokenizer.from_str(json.dumps(plain))
    miso = BpeTokenizer(plain, prompt="miso", where="here")
    for text in TEXTS:
        assert trained.encode(text, speaker) == oracle.encode(f"[{speaker}]{text}").ids
        assert miso.encode(text, speaker) == oracle.encode(f"[{speaker}] {text}").ids
        assert trained.encode(text, speaker) != miso.encode(text, speaker)
    assert miso.digest != trained.digest


def test_the_prefix_says_who_speaks_and_nothing_of_the_words(
    llama: dict[str, Tokenizer], oracle: tokenizers.Tokenizer, trained: BpeTokenizer
) -> None:
    made: list[Tokenizer] = [*llama.values(), trained, PhonemeTokenizer(num_speakers=16)]
    assert [each.text_prefix for each in made] == [3, 3, 2, 2]
    assert [each.num_speakers for each in made] == [1000, 1000, 16, 16]
    for each in made:
        seen = set()
        for speaker in {0, 9, 10, 15, each.num_speakers - 1}:
            heads = {tuple(each.encode(text, speaker)[: each.text_prefix]) for text in (*TEXTS, "Hello", "9 men")}
            assert len(heads) == 1
            seen |= heads
        assert len(seen) == len({0, 9, 10, 15, each.num_speakers - 1})
    joined, apart = (made[0].encode(text, 0) for text in ("Hello", "see"))
    assert oracle.id_to_token(joined[3]) == "]Hello"  # why "]" is no part of the prefix
    assert oracle.id_to_token(apart[3]) == "]"


def test_speakers_that_take_another_number_of_ids_are_refused(llama_file: Path, tmp_path: Path) -> None:
    file = json.loads(llama_file.read_text())
    file["model"] |= {"merges": [], "ignore_merges": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    digits = load_tokenizer(tmp_path / "tokenizer.json", prompt="sesame")
    assert digits.num_speakers == 10
    with pytest.raises(InputError, match="speaker 10 is unknown: speakers are numbered 0 to 9"):
        digits.encode("Hello", 10)


@pytest.mark.parametrize(
    "typed", ["<|end_of_text|>", "<|begin_of_text|>", "[3]", "<|reserved_special_token_5|>", "\x00"]
)
def test_what_a_user_types_is_ordinary_text(llama: dict[str, Tokenizer], trained: BpeTokenizer, typed: str) -> None:
    for tokenizer in (*llama.values(), trained):
        special = {BASE + number for number in range(256)} if tokenizer is not trained else set(range(18))
        for text in (f"{typed}Stop{typed}{typed}", f"Stop {typed} here", f"{typed} [1]{typed}a"):
            ids = tokenizer.encode(text, 1)
            assert special.isdisjoint(ids[tokenizer.text_prefix : -1])
            assert tokenizer.encode("Stop", 1)[: tokenizer.text_prefix] == ids[: tokenizer.text_prefix]
    assert trained._tokenizer.decode(trained.encode(f"a{typed}b", 1)) == f"a{typed}b"


def test_a_file_that_would_give_special_ids_for_text_is_guarded(trained: BpeTokenizer) -> None:
    file = trained._state()["tokenizer"]
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    file |= {"pre_tokenizer": whole, "model": {**file["model"], "ignore_merges": True}}  # a text is looked up uncut
    tokenizer = BpeTokenizer(file, prompt="sesame", where="here")
    assert tokenizer._tokenizer.encode("[3]").ids[1:2] == [tokenizer._special["[3]"]]
    with pytest.raises(InputError, match=r"text '\[3\]' cannot be told from the marks around it"):
        tokenizer.encode("[3]", 1)


def test_every_tokenizer_refuses_what_cannot_be_said(llama: dict[str, Tokenizer], trained: BpeTokenizer) -> None:
    for tokenizer in (PhonemeTokenizer(), trained, llama["sesame"]):
        for text, speaker, message in (
            ("?!", 0, "nothing to say"),
            ("a" * 1001, 0, "1001 characters is too long"),
            ("a\ud800", 0, "half of a surrogate pair at character 1"),
            ("Hello", tokenizer.num_speakers, f"speaker {tokenizer.num_speakers} is unknown"),
            ("Hello", -1, "speaker -1 is unknown"),
        ):
            with pytest.raises(InputError, match=message) as caught:
                tokenizer.encode(text, speaker)
            assert "\n" not in str(caught.value)


def test_tokenizers_survive_saving(llama: dict[str, Tokenizer], trained: BpeTokenizer, tmp_path: Path) -> None:
    for tokenizer in (PhonemeTokenizer(num_speakers=3), trained, llama["miso"]):
        tokenizer.save(tmp_path / "tokenizer.json")
        again = load_tokenizer(tmp_path / "tokenizer.json")
        assert (again.digest, again.kind, again.vocab_size) == (tokenizer.digest, tokenizer.kind, tokenizer.vocab_size)
        assert again.encode(TEXTS[2], 2) == tokenizer.encode(TEXTS[2], 2)
    with pytest.raises(InputError, match="its prompt format is 'miso', not 'sesame'"):
        load_tokenizer(tmp_path / "tokenizer.json", prompt="sesame")


def test_the_demo_s_tokenizer_is_still_the_same() -> None:
    base = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "base"
    tokenizer = load_tokenizer(base / "tokenizer.json")
    assert tokenizer.digest == json.loads((base / "manifest.json").read_text())["tokenizer_digest"]


def test_phonemes_read_numbers() -> None:
    tokenizer = PhonemeTokenizer()
    ids = tokenizer.encode("The bus leaves at 9:30.", 3)
    assert ids[:2] == [BEGIN, tokenizer.speaker_id(3)]
    assert ids[-1] == END
    assert ids == tokenizer.encode("The bus leaves at nine thirty.", 3)
    assert max(ids) < tokenizer.vocab_size


def test_training_is_the_same_whatever_the_order_and_the_process(trained: BpeTokenizer) -> None:
    assert train_bpe(reversed(TEXTS * 3), vocab_size=400, num_speakers=16, prompt="sesame").digest == trained.digest
    script = (
        "from csm_model.text import train_bpe\n"
        f"print(train_bpe({TEXTS * 3!r}, vocab_size=400, num_speakers=16, prompt='sesame').digest)"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == trained.digest
    assert train_bpe(TEXTS, vocab_size=400, num_speakers=16, prompt="sesame").digest != trained.digest


def test_a_trained_bpe_knows_every_text_and_merges_its_own(trained: BpeTokenizer) -> None:
    assert trained.vocab_size <= 400
    strange = "Ωμέγα 雨 🎈 \u202e \x07"
    assert trained._tokenizer.decode(trained.encode(strange, 0)) == strange
    assert len(trained.encode(TEXTS[0], 0)) < len(TEXTS[0]) / 2
    smallest = train_bpe(TEXTS, vocab_size=least_vocabulary(4), num_speakers=4, prompt="sesame")
    assert smallest.vocab_size == least_vocabulary(4) == 262
    assert len(smallest.encode("Hello", 0)) == 3 + len("Hello")
    with pytest.raises(InputError, match=r"vocabulary of 261 is too small: .* are 262; give more"):
        train_bpe(TEXTS, vocab_size=261, num_speakers=4, prompt="sesame")
    assert train_bpe(["?", "a\ud800"], vocab_size=300, num_speakers=1, prompt="miso").vocab_size == least_vocabulary(1)


def test_sounds_bound_what_is_said(llama: dict[str, Tokenizer], trained: BpeTokenizer) -> None:
    phonemes = PhonemeTokenizer()
    for text in (*TEXTS, "It costs $1,999 or 45%.", "NASA and the BBC met in 1987.", "No."):
        said = len(phonemes.encode(text, 0)) - 3
        for tokenizer in (trained, *llama.values()):
            assert said <= tokenizer.sounds(tokenizer.encode(text, 0)) <= 4 * said
        assert phonemes.sounds(phonemes.encode(text, 0)) == said + 3


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("[1, 2]", ArtifactError, "holds a list, not a tokenizer"),
        ("{", ArtifactError, "not valid JSON"),
        ('{"kind": "words"}', ArtifactError, "kind 'words' is not a tokenizer of this program"),
        ("{}", ArtifactError, "kind None is not a tokenizer"),
        ('{"kind": "phonemes", "symbols": ["a"]}', ArtifactError, "damaged tokenizer .*num_speakers"),
        ('{"kind": "bpe", "prompt": "other", "tokenizer": {}}', ArtifactError, r"damaged tokenizer \(prompt 'other'\)"),
        ('{"kind": "bpe", "prompt": "miso", "tokenizer": {"a": 1}}', ArtifactError, "not a tokenizer.json of Hugging"),
        ('{"model": {}}', InputError, "does not say how a turn is written; name its prompt format: sesame or miso"),
    ],
)
def test_what_is_no_tokenizer_is_said(tmp_path: Path, content: str, error: type[Exception], message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(error, match=message) as caught:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)


def test_files_that_do_not_serve_are_refused(trained: BpeTokenizer, llama_file: Path, tmp_path: Path) -> None:
    file = trained._state()["tokenizer"]
    model, added = file["model"], file["added_tokens"]
    renamed = [{**token, "content": token["content"].replace("end_of", "start_of")} for token in added]
    harmless = [{**token, "special": False} for token in added]
    shifted = [{**token, "id": token["id"] + 1} for token in added]
    names = {token["content"] for token in added[2:]}
    unmarked = {(f"unused {token}" if token in names else token): number for token, number in model["vocab"].items()}
    joining = {
        "added_tokens": added[:2],
        "model": {**model, "vocab": unmarked | {"0]": len(unmarked)}, "merges": [["0", "]"]]},
        "pre_tokenizer": file["pre_tokenizer"]["pretokenizers"][1],  # the bytes alone, uncut
    }
    byteless = {("no" if token == "Ā" else token): number for token, number in model["vocab"].items()}
    for change, message in (
        ({"added_tokens": renamed}, r"has no special token '<\|end_of_text\|>'"),
        ({"added_tokens": harmless}, r"has no special token '<\|begin_of_text\|>'"),
        ({"added_tokens": shifted}, r"says that '<\|begin_of_text\|>' is id 1, but its vocabulary gives 0"),
        (joining, r"joins '\[0' with what follows it, so that nothing says who speaks"),
        ({"decoder": None}, "BPE with decoder NoneType may not know every text"),
        ({"model": {**model, "vocab": byteless}}, "must be byte-level BPE with all 256 bytes"),
        ({"model": {**model, "dropout": 0.1}}, "drops merges at random"),
    ):
        (tmp_path / "changed.json").write_text(json.dumps(file | change))
        with pytest.raises(ArtifactError, match=message) as caught:
            load_tokenizer(tmp_path / "changed.json", prompt="sesame")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="prompt format 'chatml' is unknown; there are sesame, miso"):
        load_tokenizer(llama_file, prompt="chatml")
    PhonemeTokenizer().save(tmp_path / "phonemes.json")
    with pytest.raises(InputError, match="phonemes has no prompt format; leave 'miso' out"):
        load_tokenizer(tmp_path / "phonemes.json", prompt="miso")
    with pytest.raises(InputError, match="no such file"):
        load_tokenizer(tmp_path / "nowhere.json")
