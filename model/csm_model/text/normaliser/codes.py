"""Numbers that are read digit by digit: telephone and card numbers, ZIP codes, and what machines count by."""

from __future__ import annotations

import re

from csm_model.text.normaliser.characters import EN_DASH, MINUS
from csm_model.text.normaliser.spelling import cardinal, letters, spell_digits

_ABROAD = re.compile(r"(?<![\w+])\+ ?(\d{1,3})((?:[ .\-\u00a0/]{0,2}\(?\d{1,5}\)?){1,6})(?![\w]|[.,]\d|:\d)")
_ABROAD_AT_ONCE = re.compile(r"(?<![\w+])\+ ?1(\d{3})(\d{3})(\d{4})(?![\w]|[.,]\d)")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:(1)[ .-])?(?:\((\d{3})\) ?|(\d{3})[ .-])(\d{3})[ .-](\d{4})"
    r"(?: ?(?:x|ext\.?) ?(\d{1,6}))?(?![\w-]|\.\d)"
)
_DASHED_PHONE = re.compile(rf"(?<![\w-])(\d{{3}})[{EN_DASH}{MINUS}](\d{{3}})[{EN_DASH}{MINUS}](\d{{4}})(?!\w)")
_LOCAL_PHONE = re.compile(r"(?<![\w.+$€£-])(\d{3})-(\d{4})(?![\w-]|\.\d)")
_WORD_PHONE = re.compile(r"(?<![\w-])(?:(1)-)?(8\d\d|900)-([A-Z]{3,}(?:-[A-Z]+)*|(?:\d{3}-)?[A-Z]{4})(?![\w-])")
_ZERO_GROUPS = re.compile(
    r"(?<![\w.+-])\(?(0\d{1,4})\)?(?:(?:[ -]\d{2,4}){2,4}|(?:[ -]\d{2,4}){0,2}[ -]\d{5,8})(?![\w-]|[.,]\d)"
)
_CARD = re.compile(r"(?<![\w-])\d{4}(?:([ -])\d{4})(?:\1\d{4}){2}(?![\w-])")
_GROUPS = re.compile(r"(?<![\w.-])\d+(?:-\d+){2,}(?:-[xX\d])?(?![\w-]|\.\d)")
_STATES = "A[KLRZ]|C[AOT]|D[CE]|FL|GA|I[ADL]|K[SY]|LA|M[ADINOST]|N[CDEHJMVY]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]"
_WORDS_TOO = "HI|IN|ME|OH|OK|OR|PR"
"""States that are words as well, and so are states only after a comma."""
_ZIP = re.compile(
    r"(?<![\w-])(?:((?i:zip(?: ?codes?)?|postal codes?|postcodes?)(?: is| are|:)? )"
    rf"|({_STATES}|(?<=, )(?:{_WORDS_TOO})),? )"
    r"(\d{5})(?:-(\d{4}))?(?![\w%-]|[.,]\d)"
)
_LONG_ZIP = re.compile(r"(?<![\w.,$-])\d{5}-\d{4}(?![\w-]|[.,]\d)")
_BASED = re.compile(r"(?<![\w.])0(?:[xX][0-9A-Fa-f]+|[bB][01]+|[oO][0-7]+)(?!\w)")
_MACHINE = re.compile(
    r"(?<![\w:-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])"
    r"|(?<![\w-])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![\w-])"
)
"""The address of a network card, or a UUID."""


def say(text: str) -> str:
    """The text with such numbers in words."""
    text = _BASED.sub(lambda match: by_signs(match[0]), text)
    text = _MACHINE.sub(lambda match: ", ".join(map(by_signs, re.split("[:-]", match[0]))), text)
    text = _ZIP.sub(_zip, text)
    text = _LONG_ZIP.sub(lambda match: _by_groups(match[0]), text)
    text = _DASHED_PHONE.sub(r"\1-\2-\3", text)
    text = _WORD_PHONE.sub(_word_phone, text)
    text = _ABROAD_AT_ONCE.sub(r"+1 \1 \2 \3", text)
    text = _ABROAD.sub(_abroad, text)
    text = _PHONE.sub(_phone, text)
    text = _CARD.sub(lambda match: _by_groups(match[0]), text)
    text = _GROUPS.sub(_hyphened, text)
    text = _LOCAL_PHONE.sub(lambda match: _by_groups(match[0]), text)
    return _ZERO_GROUPS.sub(lambda match: _by_groups(match[0]), text)


def by_signs(text: str) -> str:
    """Digits and letters one by one: `0x1F` -> zero X one F."""
    return " ".join(spell_digits(sign) if sign.isdigit() else letters(sign) for sign in text)


def _zip(match: re.Match[str]) -> str:
    before, state, five, four = match.groups()
    groups = ", ".join(map(spell_digits, filter(None, (five, four))))
    return f"{before or letters(state) + ', '}{groups}"


def _by_groups(text: str) -> str:
    return ", ".join(map(spell_digits, re.findall(r"\d+", text)))


def _hyphened(match: re.Match[str]) -> str:
    """Numbers joined by hyphens: long ones digit by digit."""
    groups = match[0].split("-")
    if all(len(group) <= 2 and (group == "0" or group[0] != "0") and group.isdigit() for group in groups):
        return ", ".join(map(cardinal, groups))
    return ", ".join(spell_digits(group) if group.isdigit() else "X" for group in groups)


def _abroad(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match[0])
    if not 8 <= len(digits) <= 15:
        return match[0]
    return f"plus {spell_digits(match[1])}, {_by_groups(match[2])}"


def _phone(match: re.Match[str]) -> str:
    groups = [match[1], match[2] or match[3], match[4], match[5]]
    said = ", ".join(spell_digits(group) for group in groups if group)
    return f"{said}, extension {spell_digits(match[6])}" if match[6] else said


def _word_phone(match: re.Match[str]) -> str:
    said = f"{cardinal(match[2])}" if match[2].endswith("00") else spell_digits(match[2])
    rest = [spell_digits(part) if part.isdigit() else part.lower() for part in match[3].split("-")]
    return ", ".join([*(["one"] if match[1] else []), said, *rest])
