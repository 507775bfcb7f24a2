"""English words for digits and letters: cardinals, ordinals, years, digit by digit, letter by letter.

American style, without "and": `one hundred two`. Digits come as text, so that no zero is lost and no number too long.
"""

from __future__ import annotations

import re

ONES = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split()
)
TENS = ("", "", *"twenty thirty forty fifty sixty seventy eighty ninety".split())
_SCALES = (
    "",
    *"thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion "
    "decillion".split(),
)
MOST_DIGITS = 3 * len(_SCALES)
"""Digits of the longest number that has a name; longer ones are read digit by digit."""
_LONGEST_PLAIN = 12
"""Digits of the longest number without separators that anybody reads as one number."""
_ROUND = "000000"
"""What a number without separators ends with that is read as one all the same, however long it is."""
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_AMERICAN_PHONE = re.compile(r"(1)?([2-9]\d{2})(\d{3})(\d{4})")
_LETTER_A = "eh"
"""The letter's name: alone, `A` is read as the article."""


def _below_100(number: int) -> str:
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def _below_1000(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = [ONES[hundreds], "hundred"] if hundreds else []
    if rest or not hundreds:
        words.append(_below_100(rest))
    return " ".join(words)


def cardinal(digits: str | int) -> str:
    """`1234567` -> one million two hundred thirty-four thousand five hundred sixty-seven."""
    digits = str(digits).lstrip("0") or "0"
    if len(digits) > MOST_DIGITS:
        return spell_digits(digits)
    groups = []
    for scale, end in enumerate(range(len(digits), 0, -3)):
        group = int(digits[max(0, end - 3) : end])
        if group or len(digits) == 1:
            groups.append(f"{_below_1000(group)} {_SCALES[scale]}".rstrip())
    return " ".join(reversed(groups))


def ordinal(digits: str | int) -> str:
    """`23` -> twenty-third."""
    head, space, last = cardinal(digits).rpartition(" ")
    tens, hyphen, last = last.rpartition("-")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last += "th"
    return head + space + tens + hyphen + last


def year(digits: str | int) -> str:
    """`1905` -> nineteen oh five; `2005` -> two thousand five; `1900` -> nineteen hundred."""
    number = int(digits)
    high, low = divmod(number, 100)
    if not 10 < high < 100 or (high % 10 == 0 and low < 10):
        return cardinal(number)
    if not low:
        return f"{_below_100(high)} hundred"
    return f"{_below_100(high)} {'oh ' if low < 10 else ''}{_below_100(low)}"


def spell_digits(digits: str) -> str:
    """`007` -> zero zero seven."""
    return " ".join(ONES[int(digit)] for digit in digits)


def plain_number(digits: str) -> str:
    """A run of digits as it is read where nothing says what it counts.

    A zero in front is said; what is too long for one number is read digit by digit, in threes. What has the digits of
    an American telephone number is one, unless it is round.
    """
    if len(digits) == 4 and digits[0] == "0" and digits[1] != "0" and digits.endswith("00"):
        return f"zero {ONES[int(digits[1])]} hundred"
    if len(digits) > 1 and digits[0] == "0":
        return spell_digits(digits)
    if (phone := _AMERICAN_PHONE.fullmatch(digits)) and not digits.endswith("000"):
        return ", ".join(map(spell_digits, filter(None, phone.groups())))
    if len(digits) > (MOST_DIGITS if digits.endswith(_ROUND) else _LONGEST_PLAIN):
        return ", ".join(spell_digits(digits[at : at + 3]) for at in range(0, len(digits), 3))
    if len(digits) == 4 and 1100 <= int(digits) < 2100:
        return year(digits)
    return cardinal(digits)


def number(text: str) -> str:
    """A number with `,` between its thousands and `.` before its decimals; all decimals are said."""
    whole, point, decimals = text.partition(".")
    if "," in whole:
        words = cardinal(whole.replace(",", ""))
    elif point:
        words = spell_digits(whole) if len(whole) > 1 and whole[0] == "0" else cardinal(whole or "0")
    else:
        words = plain_number(whole)
    return f"{words} point {spell_digits(decimals)}" if decimals else words


def quantity(text: str) -> str:
    """A number that counts something: no year, so `1990` is one thousand nine hundred ninety."""
    whole = text.partition(".")[0]
    return cardinal(whole) if whole == text and whole.isdigit() and whole[0] != "0" else number(text)


def short_number(digits: str) -> str:
    """A number that is a name's part: `380` -> three eighty, `101` -> one oh one, `52` -> fifty-two."""
    if len(digits) < 3 or digits[0] == "0" or digits.endswith("00"):
        return spell_digits(digits) if digits[0] == "0" or len(digits) > 4 else cardinal(digits)
    if len(digits) == 3:
        low = int(digits[1:])
        return f"{ONES[int(digits[0])]} {'oh ' if low < 10 else ''}{_below_100(low)}"
    if len(digits) == 4:
        low = int(digits[2:])
        if digits[1:3] == "00":
            return cardinal(digits)
        return f"{_below_100(int(digits[:2]))} {'oh ' if low < 10 else ''}{_below_100(low)}"
    return spell_digits(digits)


def letters(text: str) -> str:
    """Letters by their names: `fbi` -> F.B.I."""
    if len(text) == 1:
        return _LETTER_A if text in "aA" else text.upper()
    return ".".join(text.upper())
