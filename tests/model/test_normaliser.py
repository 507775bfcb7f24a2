"""The normaliser, rule by rule: what each makes of its forms, what it leaves alone, and what holds for every text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from random_texts import random_texts
from readings import forms, heard

from csm_model.errors import InputError
from csm_model.inference.sentences import SentenceSplitter
from csm_model.text import PhonemeTokenizer, phonemes
from csm_model.text.normaliser import characters, markup, read_markup, read_text, spelling
from csm_model.text.normaliser.markup import FIRST_PAUSE

CORPUS = Path(__file__).parents[2] / "deploy" / "demo" / "corpus" / "supervisions.jsonl"


def words(text: str) -> str:
    return read_text(text, phonemes._known).words


@pytest.mark.parametrize(
    ("digits", "cardinal", "ordinal", "plain", "short"),
    [
        ("0", "zero", "zeroth", "zero", "zero"),
        ("12", "twelve", "twelfth", "twelve", "twelve"),
        ("30", "thirty", "thirtieth", "thirty", "thirty"),
        ("101", "one hundred one", "one hundred first", "one hundred one", "one oh one"),
        ("1905", "one thousand nine hundred five", "one thousand nine hundred fifth", "nineteen oh five",
         "nineteen oh five"),
        ("2000", "two thousand", "two thousandth", "two thousand", "two thousand"),
        ("1000000", "one million", "one millionth", "one million", "one zero zero zero zero zero zero"),
        ("007", "seven", "seventh", "zero zero seven", "zero zero seven"),
    ],
)  # fmt: skip
def test_digits_have_words(digits: str, cardinal: str, ordinal: str, plain: str, short: str) -> None:
    assert spelling.cardinal(digits) == cardinal
    assert spelling.ordinal(digits) == ordinal
    assert spelling.plain_number(digits) == plain
    assert spelling.short_number(digits) == short


def test_no_number_is_too_long() -> None:
    for length in range(1, 200):
        said = spelling.cardinal("7" * length)
        assert said.count("seven") >= length if length > spelling.MOST_DIGITS else said
    assert spelling.cardinal("1" + "0" * 35) == "one hundred decillion"


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\u201cHi\u201d \u2018you\u2019", "\"Hi\" 'you'"),
        ("\uff21\uff11", "A1"),
        ("\u0661\u0662\u06f3", "123"),
        ("x\u2076", "x^6"),
        ("10\u207b\u00b3", "10^\u22123"),
        ("H\u2082O", "H2O"),
        ("1\u00bd", "1 1\u20442"),
        ("\u200bHel\u00adlo\u2060\ufeff\u202e", "Hello"),
        ("a\u202fb\u2009c", "a\u00a0b\u00a0c"),
        ("\ufb01n", "fin"),
        ("\u2163", "IV"),
        ("\u2460", " 1 "),
        ("\u2103", "\u00b0C"),
        ("H\u0435llo", "Hello"),
        ("\u041f\u0440\u0438", "\u041f\u0440\u0438"),
        ("Z\u0351\u036ba\u0334lgo", "Zalgo"),
        ("a\u2028b\u0007c", "a\nb c"),
        ("\ue005", "\ufffd"),
    ],
)
def test_characters_are_those_that_one_would_type(written: str, clean: str) -> None:
    assert characters.clean(written) == clean
    assert characters.clean(clean) == clean


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<b>bold</b> and <i class='x'>soft</i>", "bold and soft"),
        ("<p>One</p><p>Two</p>", " \nOne. \n \nTwo. \n"),
        ("a < b and c > d", "a < b and c > d"),
        ("x <y and z> w", "x <y and z> w"),
        ("List<String>", "List<String>"),
        ("<a title='1 > 2' href=\"x\">y</a>", "y"),
        ("Hi <break time='1s'", "Hi  "),
        ("</say-as", " "),
        ("<script>alert(1)</script>Hi", " Hi"),
        ("<!-- no -->Hi", " Hi"),
        ("Tom &amp; Jerry &lt;3 &#65;&#x42;", "Tom & Jerry <3 AB"),
        ("AT&amp;amp;T", "AT&T"),
        ("[a](/b/) [c][d] ![e](f.png) [g](h(i)j)", "a c e g"),
        ("[hello](/h\u0259l\u02c8O/) [broken](/x", "hello broken"),
        ("<https://a.io>", "https://a.io"),
        ("**a** __b__ *c* _d_ ~~e~~ `f` ***g***", "a b c d e f g"),
        ("2*3*4 and a_b_c and f * g", "2*3*4 and a_b_c and f * g"),
        ("# Head #\n\ntext", "Head.\n\ntext"),
        ("> quoted\n>> more", "quoted\nmore"),
        ("- a\n* b\n\u2022 c\n1. d", "a\nb\nc\n1. d"),
        ("- [x] done\n- [ ] open", "done\nopen"),
        ("---\ntext\n***", "\ntext\n"),
        ("```python\nx\n```", " \nx\n "),
        (r"\*not bold\*", "*not bold*"),
        ("don`t", "don't"),
    ],
)
def test_markup_is_down_to_its_words(written: str, said: str) -> None:
    assert markup.strip(written)[0] == said


@pytest.mark.parametrize(
    ("tag", "frames"),
    [
        ("<break time='500ms'/>", 6),
        ('<break time="1s" />', 12),
        ("<break time=2.5s></break>", 31),
        ("<break/>", 5),
        ("<break strength='x-strong'/>", 15),
        ("<break strength='none'/>", 0),
        ("<break time='99999s'/>", 125),
        ("<break time='0ms'/>", 0),
        ("<break time='1s'/> <break time='1s'/>", 24),
    ],
)
def test_pauses_are_kept(tag: str, frames: int) -> None:
    reading = read_text(f"Hi {tag} there", phonemes._known)
    assert reading.words == "Hi there"
    assert sum(passage.pause for passage in reading.passages) == frames
    assert [passage.words for passage in reading.passages] == (["Hi", "there"] if frames else ["Hi there"])
    assert read_text(f"Hi {tag}", phonemes._known).pause == frames


def test_no_character_that_a_caller_writes_is_a_pause() -> None:
    for written in (chr(FIRST_PAUSE + 12), f"&#{FIRST_PAUSE + 12};", f"&#x{FIRST_PAUSE + 12:x};"):
        reading = read_text(f"Hi {written} there", phonemes._known)
        assert [passage.pause for passage in reading.passages] == [0]
        assert reading.left_out == "\ufffd"


def test_nobody_writes_phonemes_by_hand() -> None:
    tokenizer = PhonemeTokenizer()
    for text, plain in (
        ("See [the guide](/docs/guide/).", "See the guide."),
        ("[hello](/\u0261\u028adb\u02c8I/)", "hello"),
        ("&#91;hello&#93;(/b\u02c8I/)", "hello"),
        ("\\[hello\\](/b\u02c8I/)", "hello"),
        ("\uff3bhello\uff3d\uff08/b\u02c8I/\uff09", "hello"),
    ):
        said = tokenizer.read(text).words
        assert not {"[", "]"} & set(said)
        assert said.startswith((plain, f"({plain})"))
        assert tokenizer.phonemes(text) == tokenizer.phonemes(said)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("Hello there.", ""),
        ("Hello \u4f60\u597d world", "\u4f60\u597d"),
        ("\u041f\u0440\u0438\u0432\u0435\u0442 world", "\u041f\u0440\u0438\u0432\u0435\u0442"),
        ("Nice \U0001f44d\U0001f3fd work", "\U0001f44d\U0001f3fd"),
        ("Hello :) you", ":)"),
        ("a # b", ""),
        ("Hi # ", ""),
        ("$$$ money", "$$$"),
        ("<unknown>x</unknown>", "<unknown></unknown>"),
        ("\u4f60\u597d", "\u4f60\u597d"),
        ("?! ...", ""),
        ("Hello\u200b\u202e there\u00a1", ""),
        ("iPhone\u2122, Acme\u00ae and Widget(TM)", "\u2122\u00ae(TM)"),
        ("\u00af\\_(\u30c4)_/\u00af well", "\u00af\\_(\u30c4)_/\u00af"),
        (
            "(\u256f\u00b0\u25a1\u00b0)\u256f\ufe35 \u253b\u2501\u253b",
            "(\u256f\u00b0\u25a1\u00b0)\u256f\ufe35 \u253b\u2501\u253b",
        ),
        ("ok (>_<) and \u0ca0_\u0ca0", "(>_<)\u0ca0_\u0ca0"),
        ("it is 5 (\u00b0C) or (so)", ""),
    ],
)
def test_what_has_no_words_is_told(text: str, left_out: str) -> None:
    assert read_text(text, phonemes._known).left_out == left_out


@pytest.mark.parametrize(
    "word", ["hello", "stop", "weekend", "fbi", "usa", "gpu", "cpus", "nasa", "kubernetes", "http", "don't"]
)
def test_case_does_not_change_the_words(word: str) -> None:
    forms_of = [word, word.upper(), word.capitalize(), word[0] + word[1:].upper() if "'" not in word else word]
    assert len({heard(words(f"Is it {form} or not?")) for form in forms_of}) == 1


def test_initials_are_told_from_shouting() -> None:
    assert words("WHO SAID THAT TO US?") == "who said that to us?"
    assert words("the WHO and the US") == "the WHO and the US"
    assert words("I CAN'T BELIEVE IT'S HERE") == "I can't believe it's here"
    assert words("Dr. Smith, St. Paul and Mr. T") == "Dr. Smith, St. Paul and Mr. T"


def test_plain_text_is_read_as_it_is() -> None:
    texts = {json.loads(line)["text"] for line in CORPUS.read_text(encoding="utf-8").splitlines()}
    assert len(texts) > 500
    assert [text for text in texts if words(text) != text] == []
    for text in ('It was \u2014 well... (yes) fine; "so" I said: no!', "He's at the well-known cafe, isn't he?"):
        assert words(text) == text


def test_random_texts_become_words_and_nothing_else() -> None:
    for text in random_texts(3_000, seed=1):
        reading = read_text(text, phonemes._known)
        for passage in reading.passages:
            for character in passage.words:
                assert characters.is_latin(character) or character in " '\",.?!;:\u2014\u2026()-", (text, passage.words)
            assert any(map(str.isalpha, passage.words))
        assert not {"\n", "\t"} & set(reading.words)


def test_random_texts_are_encoded_or_refused() -> None:
    tokenizer = PhonemeTokenizer()
    for text in random_texts(1_500, seed=2):
        try:
            ids = tokenizer.encode(text, 0)
        except InputError:  # no other exception, and what is said of it is one line
            assert not tokenizer.read(text).passages or not tokenizer.sounds_in(tokenizer.read(text).words)
        else:
            assert max(ids) < tokenizer.vocab_size


@pytest.mark.parametrize(
    "sign",
    [
        *"<[(*_`#&$1.-/'\"@:!~^|",
        "<a ",
        "[x](",
        "1,",
        "1 ",
        "1-",
        "a.",
        "&amp;",
        "**a",
        "x_",
        "\\",
        "{",
        "$x",
        "$x ",
        "\\frac{",
        "\\sqrt{x",
        "\\(",
        "x^",
        "1/2-",
        "Jan-",
        "Mon/",
        "(\u30c4",
        "\u00af\\_(",
        "1x",
        "1\u00b0 ",
        "1 Main ",
        "0x",
        "k-1",
        "km/",
    ],
)
def test_no_sign_hangs_however_often_it_stands(sign: str) -> None:
    """Where the time grows by more than the square of the length, this runs into pytest's own limit."""
    read_text((sign * 5_000)[:5_000], phonemes._known)


def test_words_are_read_as_themselves() -> None:
    for form, _ in forms():
        said = words(form)
        assert words(said) == said, form


@pytest.mark.parametrize("seed", range(3))
def test_a_text_in_parts_is_read_as_when_it_is_whole(seed: int) -> None:
    """Whatever a part's end cuts: a number, a tag, an entity, a letter and its mark."""
    rng = random.Random(seed)
    known = [form for form, _ in forms()]
    for _ in range(60):
        text = rng.choice([" ", ". ", "\n\n", ", "]).join(rng.choices(known, k=rng.randint(1, 6)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 20)))
        whole, parted = SentenceSplitter(), SentenceSplitter()
        pieces = whole.feed(text) + whole.finish()
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert [piece for part in parts for piece in parted.feed(part)] + parted.finish() == pieces


def test_a_text_is_read_as_its_sentences_are() -> None:
    rng = random.Random(5)
    known = [form for form, _ in forms() if "\n" not in form]
    for _ in range(200):
        begins, ends = ["We saw ", "It is ", "Look at "], ["", " there", " today", " and so on"]
        parts = [f"{rng.choice(begins)}{rng.choice(known)}{rng.choice(ends)}" for _ in range(rng.randint(2, 6))]
        text = rng.choice([". ", "! ", "; ", ", "]).join(parts)
        splitter = SentenceSplitter()
        pieces = splitter.feed(text) + splitter.finish()
        said = " ".join(words(piece.text) for piece in pieces)
        whole, apart = ("".join(filter(str.isalpha, one.lower())) for one in (words(text), said))
        assert whole == apart, text


@pytest.mark.parametrize(
    "text",
    [
        "The long story that I have to tell you about it begins with this number here: 1 000 000 people lived there.",
        "The long story that I have to tell you about it begins right here on the day of May 5, 2024, as we know.",
        "The long story that I have to tell you about it begins right with a price of about 25 \u20ac or so, you see.",
        "The long story that I have to tell you about all of it begins with a call to (555) 123-4567 and nothing more.",
        "The long story I have to tell you about begins with <break time='500ms' strength='weak'/> a pause, a word.",
        "The long story that I have to tell you about it, all of it, begins right with $x^2 + y^2 = z^2$ and more.",
        "The long story that I have to tell you about it, all of it, begins right with \\(x^2 + y^2 = z\\) and more.",
        "The long story that I have to tell you about begins with [a link that is rather long](http://a.com/a b) now.",
        "The long story that I have to tell you about it, all of it, begins at http://www.example.com/path/that/is/long.",
    ],
)
def test_no_form_is_cut_in_two(text: str) -> None:
    splitter = SentenceSplitter()
    pieces = splitter.feed(text) + splitter.finish()
    assert len(pieces) > 1
    said = " ".join(words(piece.text) for piece in pieces)
    assert heard(said) == heard(words(text))


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("$a/b$", "eh over b"),
        ("$2\\frac{1}{2}$", "two and a half"),
        ("$x = \\frac{-b \\pm \\sqrt{b^2-4}}{2}$",
         "x equals minus b plus or minus square root of b squared minus four over two"),
        ("$\\int_0^1 f(x) dx$", "integral from zero to one of f (x) d x"),
        ("$\\lim_{n \\to \\infty} x_n$", "limit as n goes to infinity of x n"),
        ("$\\log_2 n$", "log base two n"),
        ("$\\vec{v} \\cdot \\hat{n}$", "v vector times n hat"),
        ("$\\sqrt[3]{8}$", "cube root of eight"),
        ("$x \\in \\mathbb{R}$", "x in R"),
        ("$\\foo$", "foo"),
        ("$$c^2$$", "c squared"),
        ("\\begin{equation}x=1\\end{equation}", "x equals one"),
        ("2 \\times 3 \\leq 7", "two times three less than or equal to seven"),
    ],
)  # fmt: skip
def test_formulas_are_said(formula: str, said: str) -> None:
    assert words(formula) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$5 and $10", "five dollars and ten dollars"),
        ("$5 in my pocket and 10$", "five dollars in my pocket and ten dollars"),
        ("$HOME/bin:$PATH", "dollar home slash bin: dollar path"),
        ("US$5 or US$10", "five U.S dollars or ten U.S dollars"),
        ("\\(not a link\\)", "(not a link)"),
        ("C:\\alpha\\beta\\times", "C colon backslash alpha backslash beta backslash times"),
    ],
)
def test_money_paths_and_escapes_are_no_formulas(text: str, said: str) -> None:
    assert words(text) == said


def test_markup_alone_leaves_the_rest_as_it_is() -> None:
    reading = read_markup("**It** costs $5 <break time='1s'/> or 5\u20ac, [see](x).")
    assert [passage.words for passage in reading.passages] == ["It costs $5", "or 5\u20ac, see."]
