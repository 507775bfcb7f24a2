"""Numbers that stand alone or among themselves: fractions, powers, ranges, ordinals, roman numerals.

`one_way` comes first and writes thousands and decimals in one way; `say` reads what `quantities` and `dates` have left.
"""

from __future__ import annotations

import re

from csm_model.text.normaliser.characters import EM_DASH, EN_DASH, FRACTION_SLASH, HARD_SPACE, MINUS
from csm_model.text.normaliser.dates import MONTHS
from csm_model.text.normaliser.spelling import (
    MOST_DIGITS,
    cardinal,
    letters,
    number,
    ordinal,
    plain_number,
    quantity,
    short_number,
    spell_digits,
    year,
)
from csm_model.text.normaliser.units import PERS

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
"""A number as `one_way` writes it."""
DASH = rf"[-{EN_DASH}{EM_DASH}~]"
"""What stands between the ends of a range."""

# one way of writing
_DOTTED_GROUPS = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?![\w.]\d|\w)")
_DOT_COMMA = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3})+,\d{1,2}(?![\d,.]\d|\d)")
_SPACED_GROUPS = re.compile(rf"(?<![\w.,{HARD_SPACE}])\d{{1,3}}(?:[{HARD_SPACE}'_]\d{{3}})+(?![\w'_]|,\d)")
_PLAIN_SPACED = re.compile(r"(?<![\d.,)+-])(?<![\d.,)+-] )\d{1,3}(?: \d{3}){2,}(?! ?[\d-]|\w)")
_SPACED_ONCE = re.compile(
    r"(?<![\d.,)+-])(?<![\d.,)+-] )[1-9]\d{0,2} (?:000(?! ?\d|\w)"
    r"|\d{3}(?= ?(?:[$\u20ac\u00a3\u00a5%]|(?:km|kg|m|EUR|USD|GBP)\b)))"
)
_INDIAN = re.compile(r"(?<![\w.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\w,])")
_MYRIADS = re.compile(r"(?<![\w.,])(\d+)(?:\.(\d{1,4}))? ?([\u4e07\u842c\ub9cc\u4ebf\u5104\uc5b5])")
_MYRIAD_ZEROS = dict(zip("\u4e07\u842c\ub9cc\u4ebf\u5104\uc5b5", (4, 4, 4, 8, 8, 8), strict=True))
"""Scales of East Asia: ten thousand, and a hundred million."""
_COMMA_DECIMAL = re.compile(r"(?<![\w.,])(\d+),(\d{1,2})(?![\d,]|\.\d)(?! \d)")
_GLUED = re.compile("(?<=[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])(?=\\d)")
_NO_CENTS = re.compile(rf"(?<=\d),[-{EN_DASH}{EM_DASH}](?!\d)")
_COMMA_UNIT = re.compile(r"(?<![\w.,])(\d+),(\d+)(?= ?(?:%|€|[A-Za-z]{1,3}\b))")

# fractions and powers
_SAYINGS = re.compile(
    r"(?<![\w./])(24/7/365|24[/-]7|50[/-]50|9/11|20/20|4/20|80/20|60/40|70/30|90/10|1/6)(?![\w/]|\.\d)"
)
_SUBSECTION = re.compile(
    r"(?<![\w.,])(\d{1,4})(\([A-Za-z]\)(?:\((?:[A-Za-z]|\d{1,2}|[ivx]{2,4})\)|\d(?!\d))*)('?s)?(?!\w)"
    r"|(?<![\w.,$\u20ac\u00a3])(401)([kK])('?s)?(?!\w)"
)
"""A part of a law by its number and letters, as the plan of 401(k)."""
_METRE = re.compile(r"(?<![\w./])(\d{1,2})/([248]|16)(?= time\b)")
_SEASON = re.compile(r"(?<![\w./])((?:19|20)\d\d)/(\d\d)(?![\w/]|\.\d)")
_FRACTION_RANGE = re.compile(
    rf"(?<![\w./,-])(\d{{1,2}})/(\d{{1,2}}) ?{DASH} ?(\d{{1,2}})/(\d{{1,2}})(?![\w/{FRACTION_SLASH}-]|[.,]\d)"
)
_ENDS_APART = re.compile(
    rf"(?:(?<=\dst)|(?<=\dnd)|(?<=\drd)|(?<=\dth)|(?<=\d[\"'])|(?<=\d[\u2032\u2033])) ?{DASH} ?(?=\d)"
    rf"|(?<={FRACTION_SLASH}\d) ?{DASH} ?(?=\d)|(?<=\d) ?{DASH} ?(?=(?:\d+[ {HARD_SPACE}])?\d+{FRACTION_SLASH}\d)"
    rf"|(?<=[\d/]\d) ?{DASH} ?(?=\d+ \d/\d)|(?<=\d/\d) ?{DASH} ?(?=\d+(?! ?[\d/-]))"
)
"""The dash of a range whose ends are no two plain numbers: ordinals, fractions, inches."""
_CODES_APART = re.compile(rf"(?<![\w-])(#|[A-Z])(\d{{1,3}}) ?{DASH} ?(?=\1\d{{1,3}}(?![\w-]))")
_ARC = re.compile(
    r"(?<![\w.,])(\d{1,3}) ?\u00b0 ?(\d{1,2}(?:\.\d+)?) ?['\u2032](?: ?(\d{1,2}(?:\.\d+)?) ?(?:\"|\u2033|''))?"
    r"(?: ?([NSEW])(?!\w))?"
)
_ARC_ENDS = {"N": " north", "S": " south", "E": " east", "W": " west"}
_FRACTION = re.compile(
    rf"(?<![\w./,])(?:(\d+)(?: |-|{HARD_SPACE}))?(\d{{1,4}})[/{FRACTION_SLASH}](\d{{1,4}})"
    rf"(\"|\u2033)?(?![\w/{FRACTION_SLASH}]|[.,]\d)"
)
_FEET = re.compile(r"(?<![\w.,])(\d+) ?(?:'|\u2032|ft\.?) ?(\d{1,2}(?:\.\d+)?) ?(?:''|\"|\u2033|in\b\.?)")
_HEIGHT = re.compile(r"(?<![\w.,'])([1-9])(?:'|\u2032| ?ft) ?(\d|1[01])(?![\w'\"\u2033.,:]\d|[\w'\"\u2033]| ?in)")
_HEIGHTS = re.compile(rf"(\d ?(?:\"|\u2033)) ?{DASH} ?(?=\d{{1,2}} ?(?:'|\u2032))")
_INCHES = re.compile(r"(?<![\w.,/])(\d+(?:\.\d+)?)(?:\"|\u2033|'')(?![\w\"])")
_EXTRA_TIME = re.compile(r"(?<![\w.,])(\d{1,3})['\u2032] ?(?=\+ ?\d)")
_FEET_ALONE = re.compile(r"(?<![\w.,/'\"])(\d+)(?:'|\u2032)(?![\w'\"])")
_POWER_OF_TEN = re.compile(rf"(?<![\w.,])({NUMBER})[eE]([+{MINUS}-]?)(\d{{1,4}})(?!\w)")
_POWER = re.compile(rf"\^ ?[({{]?([+{MINUS}-]?)\(?(\d+(?:\.\d+)?|[a-z])[)}}]?(?!\w)|\*\*([+{MINUS}-]?)(\d+)(?![\w*])")
_CHARGE = re.compile(rf"(?<=[A-Za-z\d])\^(\d)([+{MINUS}-])(?![\w(.])")
"""Of an ion."""
_BY = re.compile(rf"(?<![\w.,])({NUMBER}) ?(?:x|X|\u00d7|\*) ?(?=\d)")
_DOT_TIMES = re.compile(r"(?<=\d) ?\u00b7 ?(?=\d)")
_UNIT_BY = re.compile(
    r"(?:(?<=\d[mg\"])|(?<=\d[cmfik][mtng])|(?<=\d (?:cm|mm|ft|in|km))|(?<=\d m)|(?<=inches)(?= [x\u00d7] [a-z])"
    r"|(?<=inch|feet|ters|hand)(?= [xX\u00d7] \d)) ?[xX\u00d7] ?(?=[\da-z])"
)
_SPANS = "day|week|month|year|hour|d|wk|mo|yr|hr|h"
_TIMES_AFTER = re.compile(
    rf"(?<![\w.,])(?:({NUMBER})[xX\u00d7]? ?{DASH} ?)?({NUMBER})(?: ?[x\u00d7]|(?<!\d{{4}}) ?X)"
    rf"(?!\w)(?! ?(?:[-+=*^{MINUS}]|/(?!(?:{_SPANS})\b)))(?:/({_SPANS})\b)?"
)
_TIMES_BEFORE = re.compile(rf"(?<![\w.])(?:\u00d7|(?<=\))[xX]|(?<=\) )[xX]) ?({NUMBER})(?!\w)")
_LINES = re.compile(r"(?<![\w.])(240|360|480|576|720|1080|1440|2160|4320)([pi])(?!\w)")

# the rest
_EMERGENCY = re.compile(
    r"(?<![\w.,$€£#/-])(?:(911)|(?<=[Cc]all )(411|311|999|112)|(?<=[Dd]ial )(411|311|999|112)|(101|404|7[0-8]7))"
    r"(?![\w%/-]|[.,]\d| ?(?:dollars|people))"
)
_PLANE = re.compile(r"(?<![\w.,-])(7[0-8]7)-([1-9]00|8|9|10)(?![\w-]|[.,]\d)")
_ORDINAL = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+) ?(?:\^)?(st|nd|rd|th|ST|ND|RD|TH)(?!\w)")
_NUMBER_SIGN = re.compile(r"(?<![\w&])# ?(?=\d)|\bN(?:o|r|\u00b0)\. *(?=\d)|\bno\. ?(?=\d)|\bNo (?=\d)")
_NUMBER_SIGNS = re.compile(r"\b[Nn]os\. ?(?=\d)")
_PAGES = re.compile(r"(?<![\w.])(pp?|vol|ch|fig|eq|sec|art|ed|vs|v|ll?|ca|max|min|avg)\. ?(?=\d)", re.I)
_PAGE_WORDS = {"p": "page", "pp": "pages", "vol": "volume", "ch": "chapter", "fig": "figure", "eq": "equation",
               "sec": "section", "art": "article", "ed": "edition", "vs": "versus", "v": "versus", "l": "line",
               "ll": "lines", "ca": "circa", "max": "maximum", "min": "minimum", "avg": "average"}  # fmt: skip
_RANGE = re.compile(rf"(?<![\w.,{MINUS}-])({NUMBER}) ?{DASH} *(?={NUMBER}|minus \d)(?!{DASH}(?:\d[\d.,]*)?{DASH})")
_LETTER_DOT = re.compile(r"(?<=\b[A-Z])\.(?=\d)")
_DOTS = re.compile(rf"(?<=\d) ?(?:\.{{2,3}}|\u2026) ?(?=[{MINUS}-]?\d)")
_SUM = re.compile(rf"(?<=[\d)])( ?)[-{EN_DASH}]( ?)(?=[\d(])(?=[\d.,()+*/\u00d7\u00f7 {MINUS}{EN_DASH}-]*=)")
_BINARY_MINUS = re.compile(rf"(?<=[\w)%]) ?{MINUS} ?(?=[\w(.])")
_SIGNED = re.compile(
    rf"(?<![\w.)\]]) ?(?:([+\u00b1{MINUS}]) ?|(?<![\w){EN_DASH}-])[-{EN_DASH}](?:(?=\.?\d)|(?<!\d[ -].) ))(?=\.?\d)"
)
"""A sign before a number; a hyphen with a space after it only where no number stands before."""
_RATIO = re.compile(r"(?<![\w:.])(\d+(?:\.\d+)?)((?: ?: ?\d+(?:\.\d+)?)+)(?![\w:])")
_TO_WORD = re.compile(r"\b([BCDEFGMOPT])2([BCDEFGMPTS])(?!\w)")
_MIXED = re.compile(r"(?<![\w.,])(?=[A-Za-z]*\d+[A-Za-z]|[A-Za-z]+\d)[A-Za-z0-9]+(?![\w]|[.,]\d)", re.A)
_MIXED_PART = re.compile(r"[A-Za-z]+|\d+", re.A)
_PLURAL = re.compile(r"(?<![\w.])(\d+)'?s(?!\w)")
_ANY = re.compile(rf"(?<![\d])(?:{NUMBER})")

_ROMAN = r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?<=[IVXLCDM])"
_ROMAN_LOW = r"(?=[ivx])x{0,3}(?:ix|iv|v?i{0,3})(?<=[ivx])"
_PART_OF = (
    "chapter|part|act|scene|section|volume|vol|book|phase|article|type|level|stage|class|grade|title|appendix|figure|table"
    "|episode|round|tier|annex|mark|world war|war|super bowl|apollo|final fantasy|rocky|star wars|saturn|group|unit"
    "|lesson|verse|canto|psalm|ps|factor|schedule|category|step|rule|amendment|olympiad|xbox|version|number"
)
_PART_ROMAN = re.compile(rf"\b((?i:{_PART_OF})) ({_ROMAN}|{_ROMAN_LOW})(?![\w'])(?!\.\w)")
_SHORT_PART = re.compile(rf"\b((?i:ch|vol))\. (?=[IVXLCDM])(?!I\b(?![,.;:!?)]|$))({_ROMAN})(?![\w'])(?!\.\w)")
_CENTURY = re.compile(rf"\b({_ROMAN})(?:th|st|nd|rd)? (?=[Cc]entur|[Oo]lympiad|[Cc]ongress|[Dd]ynasty)")
_REGNAL = (
    "Pope|King|Queen|Emperor|Tsar|Czar|Henry|Louis|Edward|George|William|Charles|James|Richard|Elizabeth|Napoleon|Pius"
    "|Benedict|Leo|John Paul|Paul|Ramses|Ramesses|Frederick|Philip|Alexander|Nicholas|Peter|Catherine|Ivan|Umberto"
    "|Victor Emmanuel|Gustav|Christian|Ferdinand|Otto|Alfonso|Carlos|Felipe|Juan|Wilhelm|Friedrich|Thutmose|Amenhotep"
    "|Cleopatra|Ptolemy|Darius|Xerxes|Constantine|Theodosius|Innocent|Gregory|Clement|Urban|Boniface|Sixtus|Julius"
    "|Francis|Franz Joseph|Joseph|Leopold|Baldwin|Albert|Harald|Haakon|Olav|Margrethe|Mary|Edgar|Robert|David|Malcolm"
    "|Rama|Mehmed|Murad|Selim|Suleiman|Abdul Hamid|Maximilian|Rudolf|Sigismund|Ludwig|Hassan|Mohammed|Hussein|Abdullah"
)
_REGNAL_ROMAN = re.compile(rf"\b({_REGNAL}) ({_ROMAN})(?![\w'])(?!\.\w)")
_LONE_ROMAN = re.compile(r"(?<=[A-Za-z] )(?=[IVX]{2,}\b)(X{0,3}(?:IX|IV|V?I{0,3}))(?![\w'])(?!\.\w)")
_THE_ROMAN = re.compile(rf"(?<=[A-Z][a-z]{{2}} )the (?=[IVX]{{2,}}\b)({_ROMAN})\b(?!['.]\w)")
_ROMAN_YEAR = re.compile(
    r"\bM(?=[CDXLVI]{3,}\b)(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})\b"
    r"|\bMM(?=[XLVI]{2,}\b)(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})\b"
)
_SURE_ROMAN = re.compile(r"\b(?=[IVX]{3,}\b)(?!XXX\b)X{0,3}(?:IX|IV|V?I{0,3})(?<=[IVX])\b(?!['.]\w)")
_MAY_BE_ONE = re.compile(rf"\b(?:(?i:{_PART_OF})|{_REGNAL}) I\b")
_CAPITAL_BEFORE = re.compile(r"(?:^|[^\w'])[A-Z][\w'-]* $")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def one_way(text: str) -> str:
    """`1.000.000`, `1 000 000` and `1'000'000` as `1,000,000`; `12,5 %` as `12.5 %`."""
    text = _NO_CENTS.sub("", _GLUED.sub(" ", text))
    text = _DOTTED_GROUPS.sub(_swap, text)
    text = _DOT_COMMA.sub(_swap, text)
    text = _SPACED_GROUPS.sub(lambda match: re.sub(r"\D", ",", match[0]), text)
    text = _PLAIN_SPACED.sub(lambda match: match[0].replace(" ", ","), text)
    text = _SPACED_ONCE.sub(lambda match: match[0].replace(" ", ","), text)
    text = _MYRIADS.sub(_myriads, text)
    text = _INDIAN.sub(lambda match: f"{int(match[0].replace(',', '')):,}", text)
    text = _COMMA_UNIT.sub(lambda match: match[0] if len(match[2]) == 3 else f"{match[1]}.{match[2]}", text)
    return _COMMA_DECIMAL.sub(
        lambda match: match[0] if len(match[2]) == 1 and match[1] != "0" else f"{match[1]}.{match[2]}", text
    )


def _myriads(match: re.Match[str]) -> str:
    zeros = _MYRIAD_ZEROS[match[3]]
    return f"{int(match[1] + (match[2] or '').ljust(zeros, '0')):,}" if len(match[1]) < MOST_DIGITS else match[0]


def _short_year(digits: str) -> str:
    return f"oh {cardinal(digits)}" if digits[0] == "0" else cardinal(digits)


def _swap(match: re.Match[str]) -> str:
    return match[0].translate({ord("."): ",", ord(","): "."})


def say_fractions(text: str) -> str:
    """The text with fractions, lengths in feet and inches, powers and products in words."""
    text = _ARC.sub(_arc, text)
    text = _HEIGHTS.sub(r"\1 to ", text)
    text = _FRACTION_RANGE.sub(_fraction_range, text)
    text = _ENDS_APART.sub(" to ", text)
    text = _CODES_APART.sub(r"\1\2 to ", text)
    text = _SUBSECTION.sub(_subsection, text)
    text = _HEIGHT.sub(lambda match: f"{quantity(match[1])} foot {quantity(match[2])}", text)
    text = _FEET.sub(lambda match: f"{quantity(match[1])} foot {quantity(match[2])}", text)
    text = _SEASON.sub(lambda match: f"{year(match[1])} {_short_year(match[2])}", text)
    text = _METRE.sub(lambda match: f"{cardinal(match[1])} {cardinal(match[2])}", text)
    text = _SAYINGS.sub(lambda match: " ".join(map(short_number, re.split("[/-]", match[1]))), text)
    text = _FRACTION.sub(_fraction, text)
    text = _INCHES.sub(_inches, text)
    text = _EXTRA_TIME.sub(r"\1 ", text)
    text = _FEET_ALONE.sub(_feet, text)
    text = _BY.sub(lambda match: f"{match[1]} {'times' if chr(215) in match[0] or '*' in match[0] else 'by'} ", text)
    text = _UNIT_BY.sub(" by ", text)
    text = _DOT_TIMES.sub(" times ", text)
    text = _POWER_OF_TEN.sub(
        lambda match: f"{quantity(match[1])} times ten to the power of {_exponent(match[2], match[3])}", text
    )
    text = _ORDINAL.sub(lambda match: ordinal(match[1].replace(",", "")), text)
    return _LINES.sub(lambda match: f"{short_number(match[1])} {letters(match[2])}", text)


def say_products(text: str) -> str:
    """The text with `10^6`, `3x4`, `10x` and `x10` in words."""
    text = _TIMES_AFTER.sub(_times, text)
    text = _TIMES_BEFORE.sub(lambda match: f" times {quantity(match[1])}", text)
    text = _CHARGE.sub(lambda match: f" {cardinal(match[1])} {'plus' if match[2] == '+' else 'minus'}", text)
    if "^" in text or "**" in text:
        text = _POWER.sub(_power, text)
    return text


def _opens_no_quotation(match: re.Match[str]) -> bool:
    return len(re.findall(r'(?<!\d)"', match.string[: match.start()])) % 2 == 0


def _feet(match: re.Match[str]) -> str:
    """Feet, unless the sign closes a quotation."""
    if len(re.findall(r"(?<!\w)'", match.string[: match.start()])) % 2:
        return match[0]
    return f"{quantity(match[1])} {'foot' if match[1] == '1' else 'feet'}"


def _inches(match: re.Match[str]) -> str:
    """Inches, unless the sign closes a quotation."""
    if not _opens_no_quotation(match):
        return match[0]
    return f"{quantity(match[1])} {'inch' if match[1] == '1' else 'inches'}"


def _arc(match: re.Match[str]) -> str:
    """Degrees, minutes and seconds."""
    degrees, minutes, seconds, end = match.groups()
    parts = [(degrees, "degree"), (minutes, "minute"), (seconds, "second")]
    said = " ".join(f"{quantity(digits)} {name}{'' if digits == '1' else 's'}" for digits, name in parts if digits)
    return said + _ARC_ENDS.get(end or "", "")


def _fraction_range(match: re.Match[str]) -> str:
    """Two fractions, or two days of the year where one of them is no fraction: `10/1-10/5`."""
    ends = [(match[1], match[2]), (match[3], match[4])]
    if any(_day(*end) for end in ends) and all(1 <= int(month) <= 12 and 1 <= int(day) <= 31 for month, day in ends):
        return " to ".join(f"{MONTHS[int(month) - 1]} {ordinal(day)}" for month, day in ends)
    return f"{match[1]}/{match[2]} to {match[3]}/{match[4]}"


def _subsection(match: re.Match[str]) -> str:
    number_of, parts, many = match[1] or match[4], match[2] or match[5], match[3] or match[6]
    said = [
        cardinal(part if part.isdigit() else _value(part)) if part.isdigit() or len(part) > 1 else letters(part)
        for part in re.findall(r"\d+|[A-Za-z]+", parts)
    ]
    return " ".join([short_number(number_of), *said]) + ("'s" if many else "")


def _times(match: re.Match[str]) -> str:
    """So many times; in parentheses of its own, as in `f(2x)`, it is a product."""
    text, start, end = match.string, match.start(), match.end()
    if not match[1] and text[end : end + 1] == ")" and text[start - 1 : start] in ("(", "+", "-", MINUS):
        return match[0]
    said = f"{quantity(match[1])} to {quantity(match[2])}" if match[1] else quantity(match[2])
    return f"{said} times per {PERS[match[3]]}" if match[3] else f"{said} times"


def _exponent(sign: str, digits: str) -> str:
    said = quantity(digits) if digits[0].isdigit() else letters(digits)
    return f"minus {said}" if sign and sign != "+" else said


def _power(match: re.Match[str]) -> str:
    sign, digits = match[1] or match[3] or "", match[2] or match[4]
    if not sign and digits in ("2", "3"):
        return " squared" if digits == "2" else " cubed"
    return f" to the power of {_exponent(sign, digits)}"


def _day(month: str, day: str) -> str | None:
    """A day of the year, as `12/25`; what may be a fraction is one."""
    if int(month) < int(day) <= 10 or month == day or not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{MONTHS[int(month) - 1]} {ordinal(day)}"


def _fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2], match[3]
    sure = FRACTION_SLASH in match[0] or whole is not None
    if int(below) == 0:
        return f"{match[1] + ' ' if whole else ''}{quantity(above)} over {quantity(below)}"
    inches = (" inches" if whole else " of an inch") if match[4] and _opens_no_quotation(match) else match[4] or ""
    if not sure and not match[4] and "=" not in match.string and (day := _day(above, below)):
        return day
    if not sure and above == below:
        return f"{quantity(above)} out of {quantity(below)}"
    if not sure and not (
        0 < int(above) < int(below) and (int(below) <= 10 or int(below) in (12, 16, 20, 32, 64, 100, 1000))
    ):
        return f"{quantity(above)} over {quantity(below)}"
    one, many = _DENOMINATORS.get(int(below)) or (ordinal(below), f"{ordinal(below)}s")
    if whole is not None and above == "1":
        said = f"{'an' if one.startswith('eigh') else 'a'} {one}"
    else:
        said = f"{quantity(above)} {one if above == '1' else many}"
    said = said.removeprefix("one ") if said.startswith("one one ") else said.replace(" one hundredths", " hundredths")
    if said == "one half" and inches == " of an inch":
        return "half an inch"
    return (f"{quantity(whole)} and {said}" if whole is not None else said) + inches


def say_romans(text: str) -> str:
    """The text with roman numerals in words, where something says that they are numbers."""
    text = _CENTURY.sub(lambda match: f"{ordinal(_value(match[1]))} ", text)
    text = _SHORT_PART.sub(lambda match: f"{_PAGE_WORDS[match[1].lower()]} {cardinal(_value(match[2]))}", text)
    text = _REGNAL_ROMAN.sub(_regnal, text)
    text = _PART_ROMAN.sub(_part, text)
    text = _THE_ROMAN.sub(lambda match: f"the {ordinal(_value(match[1]))}", text)
    text = _ROMAN_YEAR.sub(lambda match: year(_value(match[0])), text)
    text = _SURE_ROMAN.sub(lambda match: cardinal(_value(match[0])), text)
    return _LONE_ROMAN.sub(_lone, text)


def counts_one(text: str) -> bool:
    """Whether an `I` in a text may be a number: after a name that is counted, as in `World War I`."""
    return " I" in text and bool(_MAY_BE_ONE.search(text))


def _value(roman: str) -> int:
    values = [_VALUES[sign] for sign in roman.upper()]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))


def _regnal(match: re.Match[str]) -> str:
    after = match.string[match.end() :]
    if match[2] == "I" and not re.match(r"(?: (?:of|was|is|had|died|became|ruled|reigned)\b)|[,.;:!?)'\"]|$", after):
        return match[0]
    return f"{match[1]} the {ordinal(_value(match[2]))}"


def _part(match: re.Match[str]) -> str:
    name, roman = match[1], match[2]
    if not roman or (
        roman in ("I", "i") and not re.match(r"[,.;:!?)]|$| (?:of|was|is)\b", match.string[match.end() :])
    ):
        return match[0]
    if roman in ("C", "D", "L", "M") or (roman.islower() and len(roman) == 1 and roman != "i"):
        return match[0]
    return f"{name} {cardinal(_value(roman))}"


def _lone(match: re.Match[str]) -> str:
    """Roman numerals after a name."""
    if not match[1] or not _CAPITAL_BEFORE.search(match.string[: match.start()][-40:]):
        return match[0]
    return cardinal(_value(match[1]))


def say(text: str) -> str:
    """The text without digits."""
    text = _DOTS.sub(" to ", text)
    text = _LETTER_DOT.sub(" dot ", text)
    text = _NUMBER_SIGN.sub(lambda match: " Number " if match[0][0] == "N" else " number ", text)
    text = _NUMBER_SIGNS.sub("numbers ", text)
    text = _PAGES.sub(lambda match: f"{_PAGE_WORDS[match[1].lower()]} ", text)
    text = _PLANE.sub(lambda match: f"{short_number(match[1])} {short_number(match[2])}", text)
    text = _EMERGENCY.sub(_service, text)
    text = _SUM.sub(" minus ", text)
    text = _BINARY_MINUS.sub(" minus ", text)
    text = _RATIO.sub(lambda match: match[0].replace(":", " to "), text)
    text = _SIGNED.sub(_signed, text)
    text = _RANGE.sub(lambda match: f"{match[1]} to ", text)
    text = _TO_WORD.sub(r"\1 to \2", text)
    text = _MIXED.sub(_mixed, text)
    text = _PLURAL.sub(lambda match: re.sub("ys$", "ies", f"{short_number(match[1])}s"), text)
    return _ANY.sub(_any, text)


def _service(match: re.Match[str]) -> str:
    return short_number(match[4]) if match[4] else spell_digits(match[0])


def _signed(match: re.Match[str]) -> str:
    word = {"+": "plus", "\u00b1": "plus or minus"}.get(match[1] or "", "minus")
    return f" {word} "


def _mixed(match: re.Match[str]) -> str:
    """Letters and digits in one: `A4`, `MP3`, `x86`, `3D`."""
    parts = _MIXED_PART.findall(match[0])
    said = []
    for place, part in enumerate(parts):
        if part.isdigit():
            said.append(short_number(part) if place or len(parts) > 1 else plain_number(part))
        elif len(part) == 1 or (part.isupper() and len(part) < 4 and len(parts) > 1):
            said.append(letters(part))
        else:
            said.append(part)
    return " ".join(said)


def _any(match: re.Match[str]) -> str:
    text, start, end = match.string, match.start(), match.end()
    before = " " if start and (text[start - 1].isalpha() or text[start - 1] == ".") else ""
    if start and text[start - 1] == "-" and start > 1 and text[start - 2].isalpha():
        said = short_number(match[0]) if match[0].isdigit() else number(match[0])  # COVID-19, F-16
    else:
        said = number(match[0])
    after = " " if text[end : end + 1].isalpha() else ""
    return before + said + after
