"""Characters as one would type them: composed, without what is invisible, one sign for each of its look-alikes.

What comes out has ASCII digits and quotes, `-` for hyphens, U+2212 for minus signs, U+2013 for en dashes, U+00A0 for
spaces that do not break, `^` before what stood raised, U+2044 in fractions. Letters of other scripts stay: whether they
can be said is not decided here.
"""

from __future__ import annotations

import functools
import re
import unicodedata

MINUS, EN_DASH, EM_DASH, HARD_SPACE, FRACTION_SLASH = "\u2212", "\u2013", "\u2014", "\u00a0", "\u2044"

_SAME: dict[str, str] = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bb\u02bc\u02bd\u02b9\u02c8\u02ca\u00b4\u055a\ua78c\uff07\u05f3", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\uff02\u02ba\u05f4\u301d\u301e\u301f", '"'),
    **dict.fromkeys("\u300c\u300d\u300e\u300f\u3008\u3009\u300a\u300b\u3010\u3011", '"'),
    **dict.fromkeys("\u2010\u2011\ufe63\uff0d\u2043\u30fb", "-"),
    **dict.fromkeys("\u2212\u02d7\u2796\u2052\u208b", MINUS),
    **dict.fromkeys("\u2012\u2013", EN_DASH),
    **dict.fromkeys("\u2014\u2015\u2e3a\u2e3b\ufe58\ufe31", EM_DASH),
    **dict.fromkeys("\u00a0\u202f\u2007\u2008\u2009\u200a", HARD_SPACE),
    **dict.fromkeys("\u2028\u2029\u0085\x0b\x0c\r", "\n"),
    **dict.fromkeys("\u2025\u22ef\ufe19", "\u2026"),
    **dict.fromkeys("\u3002\uff61\u06d4\u0964", "."),
    **dict.fromkeys("\u3001\u060c\u066b\uff64", ","),
    **dict.fromkeys("\u066c", ","),
    **dict.fromkeys("\u066a\uff05\ufe6a", "%"),
    **dict.fromkeys("\u061f\ufe56", "?"),
    **dict.fromkeys("\u061b\uff1b", ";"),
    **dict.fromkeys("\u2797", "\u00f7"),
    **dict.fromkeys("\u2795\u207a\u208a\uff0b", "+"),
    **dict.fromkeys("\u2a2f\u2715\u2716", "\u00d7"),
    **dict.fromkeys("\u2215\uff0f\u29f8", "/"),
    **dict.fromkeys("\u223c\uff5e\u02dc\u301c", "~"),
    **dict(zip("\uffe0\uffe1\uffe5\uffe6", "\u00a2\u00a3\u00a5\u20a9", strict=True)),
    **dict.fromkeys("\u2032\u2035", "\u2032"),
    **dict.fromkeys("\u2033\u2036", "\u2033"),
    **dict.fromkeys("\u2236\ua789\ufe55\uff1a", ":"),
    **dict.fromkeys("\u2219\u22c5\u2027", "\u00b7"),
    "\u066b": ".",
    "\u00ba": "\u00b0",
    "\u02da": "\u00b0",
    "\u00aa": "a",
    "\u00b5": "\u03bc",
    "\u2126": "\u03a9",
    "\u2116": "No. ",
    "\u00a0": HARD_SPACE,
    "\u2122": "\u2122",
    "\u2120": "\u2120",
    "\u2026": "\u2026",
    "\u00b8": "",
    "\u00a8": "",
    "\u00af": "",
    "\u02d9": "",
}
"""A character to the one that stands for all that look like it."""

_STRIPPED = {
    "\u0142": "l", "\u0141": "L", "\u00f8": "o", "\u00d8": "O", "\u0111": "d", "\u0110": "D", "\u00df": "ss",
    "\u1e9e": "SS", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe", "\u00fe": "th", "\u00de": "Th",
    "\u00f0": "th", "\u00d0": "Th", "\u0131": "i", "\u0127": "h", "\u0126": "H", "\u014b": "ng", "\u014a": "Ng",
    "\u0167": "t", "\u0166": "T", "\u0138": "k", "\u017f": "s", "\u0192": "f", "\u0259": "e", "\u0180": "b",
    "\u0268": "i", "\u0289": "u", "\u0237": "j", "\u2c65": "a",
}  # fmt: skip
"""Latin letters that are no letter with a mark, by what they are written for."""

_CONFUSED = dict(
    zip(
        "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u0412\u041d\u041a\u041c\u041e\u0420\u0421\u0422"
        "\u0410\u0415\u0425\u0406\u0405\u0408\u03bf\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1"
        "\u03a4\u03a5\u03a7",
        "aeopcyxisjBHKMOPCTAEXISJoABEZHIKMNOPTYX",
        strict=True,
    )
)
"""Cyrillic and Greek letters that look like Latin ones, for words that mix them."""
_MIXED = re.compile(r"[^\W\d_]+")
_SUPER = re.compile(r"\ue0ff([^\ue0ff]+)\ue0ff")
_NO_BASE = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+")


def clean(text: str) -> str:
    """The text in the characters that this module's head lists."""
    if text.isascii() and text.isprintable():
        return text
    text = unicodedata.normalize("NFC", text)
    if not text.isascii():
        text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", text)
    text = "".join(map(_plain, text))
    text = _SUPER.sub(
        lambda match: f"^{match[1]}" if match[1].strip("+-\u2212") else match[1], text.replace("\ue0ff\ue0ff", "")
    )
    text = _NO_BASE.sub(lambda match: "" if _is_latin_before(match) else match[0], text)
    return _MIXED.sub(_unmix, text)


def is_latin(character: str) -> bool:
    """Whether it is a letter of the Latin script."""
    return (character.isascii() and character.isalpha()) or _is_latin(character)


def strip_marks(word: str) -> str:
    """A word of Latin letters in ASCII: `Dvořák` -> Dvorak."""
    plain = "".join(_STRIPPED.get(character, character) for character in word)
    plain = unicodedata.normalize("NFD", plain)
    return "".join(character for character in plain if character.isascii())


@functools.lru_cache(maxsize=4096)
def _is_latin(character: str) -> bool:
    return character.isalpha() and unicodedata.name(character, "").startswith("LATIN ")


@functools.lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """What a character becomes."""
    if " " <= character <= "~" or character in "\n\t":
        return character
    if character in _SAME:
        return _SAME[character]
    category = unicodedata.category(character)
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if category in ("Cc", "Zs"):
        return " "
    if category in ("Co", "Cs", "Cn"):
        return "\ufffd"
    raised = unicodedata.decomposition(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if raised.startswith("<super>"):
        inside = "".join(map(_plain, unicodedata.normalize("NFKC", character)))
        return f"\ue0ff{inside}\ue0ff" if inside.isdigit() or inside in (MINUS, "-", "+", "n") else inside
    if raised.startswith("<fraction>"):
        return unicodedata.normalize("NFKC", character)
    if raised.startswith("<"):
        folded = unicodedata.normalize("NFKC", character)
        if folded != character and all(
            " " <= c <= "~" or _is_latin(c) or c in _SAME or c in "\u00b0\u03bc" for c in folded
        ):
            folded = "".join(map(_plain, folded))
            return f" {folded} " if raised.startswith("<circle>") and folded.isdigit() else folded
    return character


def _is_latin_before(match: re.Match[str]) -> bool:
    before = match.string[match.start() - 1] if match.start() else " "
    return is_latin(before) or not before.isalpha()


def _unmix(match: re.Match[str]) -> str:
    """A word with Latin letters and others that only look so, in Latin letters."""
    word = match[0]
    if word.isascii() or not any(c in _CONFUSED for c in word) or not any(is_latin(c) for c in word):
        return word
    return "".join(_CONFUSED.get(c, c) for c in word)
