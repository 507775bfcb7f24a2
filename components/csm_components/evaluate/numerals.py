"""How numbers printed in digits are read aloud: every reading that people use, in words.

Whisper prints `9:30`, `930`, `$12`, `100`, `8th`; a text made for speaking says "nine thirty", "twelve dollars",
"a hundred", "eighth". No rule can tell whether `930` was "nine thirty" or "nine hundred and thirty", so `readings`
gives all of them and the comparison (`csm_components.evaluate.wer`) takes the nearest.
"""

from __future__ import annotations

import re

Reading = tuple[str, ...]

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((1_000_000_000_000, "trillion"), (1_000_000_000, "billion"), (1_000_000, "million"), (1_000, "thousand"))
_LARGEST = 1_000_000_000_000_000
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}

# One printed number, with what belongs to it. The order of the alternatives matters: the longest form first.
NUMBER = re.compile(
    r"""
    (?P<currency>[$£€])\s?(?P<amount>\d+(?:\.\d\d)?)(?:\s(?P<scale>thousand|million|billion|trillion)\b)?
  | (?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?!\d)
  | (?P<top>\d+)/(?P<bottom>\d+)
  | (?P<ordinal>\d+)(?:st|nd|rd|th)\b
  | (?P<whole>\d+)\.(?P<decimals>\d+)
  | (?P<plain>\d+)
    """,
    re.VERBOSE,
)


def cardinal(number: int, *, and_: bool = False) -> Reading:
    """The number in words, "two hundred five"; with `and_`, "two hundred and five"."""
    if number >= _LARGEST:
        return digits(str(number))
    if number < 20:
        return (_SMALL[number],)
    if number < 100:
        return (_TENS[number // 10], *((_SMALL[number % 10],) if number % 10 else ()))
    if number < 1000:
        rest = number % 100
        joint = ("and",) if and_ and rest else ()
        return (_SMALL[number // 100], "hundred", *joint, *(cardinal(rest) if rest else ()))
    scale, name = next(row for row in _SCALES if number >= row[0])
    rest = number % scale
    joint = ("and",) if and_ and 0 < rest < 100 else ()
    return (*cardinal(number // scale, and_=and_), name, *joint, *(cardinal(rest, and_=and_) if rest else ()))


def digits(printed: str) -> Reading:
    """Digit by digit, "two zero nine"."""
    return tuple(_SMALL[int(digit)] for digit in printed)


def _ordinal(number: int, *, and_: bool = False) -> Reading:
    *head, last = cardinal(number, and_=and_)
    if last in _ORDINALS:
        return (*head, _ORDINALS[last])
    return (*head, last[:-1] + "ieth" if last.endswith("y") else last + "th")


def _minutes(minute: int) -> list[Reading]:
    """The words after the hour, as in "nine oh five"; on the hour, "o'clock" or nothing."""
    if minute == 0:
        return [("o'clock",), (), ("hundred",)]
    return [("oh", _SMALL[minute]), ("o", _SMALL[minute])] if minute < 10 else [cardinal(minute)]


def clock(hour: int, minute: int) -> list[Reading]:
    """`9:30` as "nine thirty", `9:05` as "nine oh five", `9:00` as "nine o'clock" or "nine"."""
    return [(*cardinal(hour), *rest) for rest in _minutes(minute)]


def _plain(printed: str) -> list[Reading]:
    number = int(printed)
    if printed.startswith("0") and len(printed) > 1:
        return [digits(printed), tuple("oh" if digit == "0" else _SMALL[int(digit)] for digit in printed)]
    found = [cardinal(number), cardinal(number, and_=True)]
    found += [("a", *reading[1:]) for reading in found if reading[0] == "one" and number >= 100]
    head, tail = divmod(number, 100)
    if 100 <= number <= 9999 and tail:  # "nine thirty", "twenty fifteen", "nineteen oh five"
        found += (
            [(*cardinal(head), *rest) for rest in _minutes(tail) if rest]
            if tail < 60
            else [(*cardinal(head), *cardinal(tail))]
        )
    if 1100 <= number <= 9900 and not tail and head % 10:  # "nineteen hundred"
        found.append((*cardinal(head), "hundred"))
    if number >= 100:
        found.append(digits(printed))
    return found


def _money(currency: str, amount: str, scale: str | None) -> list[Reading]:
    one, many, one_part, many_parts = _CURRENCIES[currency]
    whole, _, part = amount.partition(".")
    unit = one if whole == "1" and not scale else many
    if scale:
        joint = ("point", *digits(part)) if part else ()
        return [(*reading, *joint, scale, unit) for reading in _plain(whole)]
    found = [(*reading, unit) for reading in _plain(whole)]
    if int(part or 0):
        parts = (*cardinal(int(part)), one_part if int(part) == 1 else many_parts)
        found = [(*reading, *joint, *parts) for reading in found for joint in ((), ("and",))]
        found.append((*cardinal(int(whole)), *cardinal(int(part))))
    return found


def _fraction(top: int, bottom: int) -> list[Reading]:
    apart = (*cardinal(top), *cardinal(bottom))  # a date or two numbers
    if top != 1 or bottom < 2:
        return [apart]
    name = {2: ("half",), 4: ("quarter",)}.get(bottom, _ordinal(bottom))
    return [("a", *name), ("one", *name), name, apart]


def readings(match: re.Match[str]) -> list[Reading]:
    """All ways to read a match of `NUMBER` aloud, the commonest first, each once."""
    part = match.groupdict()
    if part["currency"]:
        found = _money(part["currency"], part["amount"], part["scale"])
    elif part["hour"]:
        found = clock(int(part["hour"]), int(part["minute"]))
    elif part["top"]:
        found = _fraction(int(part["top"]), int(part["bottom"]))
    elif part["ordinal"]:
        found = [_ordinal(int(part["ordinal"])), _ordinal(int(part["ordinal"]), and_=True)]
    elif part["whole"]:
        hour, decimals = int(part["whole"]), part["decimals"]
        found = [(*cardinal(hour), "point", *digits(decimals))]
        if hour <= 24 and len(decimals) == 2 and int(decimals) < 60:  # 9.30, as the British write the time
            found = clock(hour, int(decimals)) + found
    else:
        found = _plain(part["plain"])
    return list(dict.fromkeys(found))
