"""Dates in the common orders, times of day, durations, zones, years and decades."""

from __future__ import annotations

import re

from csm_model.text.normaliser.characters import EN_DASH, MINUS
from csm_model.text.normaliser.spelling import ONES, cardinal, ordinal, plain_number, spell_digits, year

MONTHS = tuple("January February March April May June July August September October November December".split())
_BY_SHORT = {name[:3].lower(): name for name in MONTHS}
_DAYS = {"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday", "fri": "Friday", "sat": "Saturday",
         "sun": "Sunday"}  # fmt: skip
_ZONES = "UTC|GMT|EST|EDT|CST|CDT|MST|MDT|PST|PDT|CET|CEST|BST|IST|JST|AEST|ET|PT|CT|MT"

_MONTH = (
    r"(?:[Jj]anuary|[Ff]ebruary|March|[Aa]pril|May|[Jj]une|[Jj]uly|[Aa]ugust|[Ss]eptember|[Oo]ctober|[Nn]ovember"
    r"|[Dd]ecember|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
    r"|JANUARY|FEBRUARY|MARCH|APRIL|MAY|JUNE|JULY|AUGUST|SEPTEMBER|OCTOBER|NOVEMBER|DECEMBER"
    r"|(?:JAN|FEB|MAR|APR|JUN|JUL|AUG|SEPT?|OCT|NOV|DEC)\b\.?)"
)
_TO = rf" ?[-{EN_DASH}{MINUS}] ?"
_TH = r"(?:st|nd|rd|th|ST|ND|RD|TH)?"
_AFTER_DAY = rf"(?![\w:%/$€£]|[.,]\d|{_TO}\d)"
_MONTH_DAY = re.compile(
    rf"\b({_MONTH})(?: (?:the )?)(\d{{1,2}}){_TH}(?:{_TO}(\d{{1,2}}){_TH})?"
    rf"(?:(?:, ?| )(?:of )?(\d{{4}})\b(?!,\d|\.\d))?{_AFTER_DAY}"
)
_DAY_MONTH = re.compile(
    rf"(?<![\w.:/,$-])(?:([Tt]he) )?(\d{{1,2}}){_TH}(?:{_TO}(\d{{1,2}}){_TH})? (?:of )?({_MONTH})"
    r"(?:(?:, ?| )(\d{4})\b(?!,\d|\.\d))?(?!\w)"
)
_DASHED_MONTH = re.compile(rf"(?<![\w-])(\d{{1,2}})[-/ ]({_MONTH})[-/ ](\d{{4}}|\d{{2}})(?![\w-])")
_MONTH_YEAR = re.compile(rf"\b({_MONTH})(?:, ?| |-)'?(\d{{4}}|(?<=')\d{{2}})\b(?![,.]\d)")
_ANY_MONTH = (
    r"(?i:(?:january|february|march|april|may|june|july|august|september|october|november|december"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
)
_MONTH_RANGE = re.compile(
    rf"\b({_ANY_MONTH})( \d{{1,2}}{_TH})?(,? (?:\d{{4}}|'\d{{2}})\b)?{_TO}({_ANY_MONTH})(?=( ?\d| ')?)"
)
_NAMED_TIME = re.compile(rf"\b([Nn]oon|[Mm]idnight){_TO}(?=\d)")
_TO_NAMED_TIME = re.compile(rf"(?<=[\dmM.]){_TO}(?=(?i:noon|midnight|present|now|today)\b)")
_PART_OF_YEAR = re.compile(r"\b([QH]\d|FY)'(\d\d)\b")
_SHORT_DAY = re.compile(
    r"\b(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b\.?"
    r"(?=(?:, | | ?[-\u2013] ?)(?:\d|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
    r"| ?(?:&|and|or) (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b)"
)
_ANY_DAY = rf"(?i:mon|tues?|wed|thu(?:rs?)?|fri|sat|sun|{'|'.join(_DAYS.values())})\b"
_DAY_RANGE = re.compile(rf"\b({_ANY_DAY})\.?{_TO}({_ANY_DAY})")
_DAY_OF_MONTH = re.compile(r"(\d(?:st|nd|rd|th)) (Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b\.?")
"""As in `1st Tue`."""
_NAMES = re.compile(rf"\b(?:{_ANY_DAY}(?:/{_ANY_DAY})+|{_ANY_MONTH}(?:/{_ANY_MONTH})+)(?!/)")
_OTHER_DAY = re.compile(rf"\b({'|'.join(_DAYS.values())}) ?(&|and|or) (Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b\.?")
_ISO = re.compile(
    r"(?<![\w/.-])(\d{4})([-/.\u2013\u2212])(\d{1,2})\2(\d{1,2})(?![\d/]|-\d|\.\d)"
    rf"(?:[T ](?=\d{{1,2}}:\d{{2}})(\d{{1,2}}):(\d{{2}})(?::(\d{{2}})(?:\.\d+)?)?(Z\b|[+{MINUS}-]\d{{2}}:?\d{{2}}\b)?)?"
)
_NUMERIC = re.compile(r"(?<![\w/.-])(\d{1,2})([-/.\u2013\u2212])(\d{1,2})\2(\d{4}|\d{2})(?![\w/]|-\d|\.\d)")
_DATE_RANGE = re.compile(
    rf"(?<![\w/.-])(\d{{1,2}}([/.])\d{{1,2}}\2\d{{2,4}}|\d{{4}}-\d\d-\d\d(?![{MINUS}-])){_TO}"
    r"(?=\d{1,2}[/.]\d{1,2}[/.]\d\d|\d{4}-\d\d-\d\d)"
)
_YEAR_MONTH = re.compile(r"(?<![\w/.-])((?:19|20)\d\d)-(0[1-9]|1[0-2])(?![\w/-]|\.\d)")
_MONTH_OF_YEAR = re.compile(r"(?<![\w/.-])(0?[1-9]|1[0-2])/((?:19|20)\d{2})(?![\w/])")

_HALF = r"(?: ?([AaPp])(?:\.[Mm]\.|\.? ?[Mm]\b\.?(?![A-Za-z])))"
_CLOCK = r"(\d{1,2})(?:[:.](\d{2}))?"
_TIME_RANGE = re.compile(rf"(?<![\w:.,$]){_CLOCK}{_HALF}?{_TO}{_CLOCK}{_HALF}(?!\w)")
_HALF_TIME = re.compile(rf"(?<![\w:.,$]){_CLOCK}(?::(\d{{2}}))?{_HALF}(?!\w)")
_TIME = re.compile(
    r"(?<![\w:.,$])(\d{1,2}):([0-5]\d)(?::([0-5]\d)(?:[.,](\d{1,6}))?)?(?!\d|:\d)(?: ?h\b)?(?=( ?(?:Z\b)?))"
)
_FRENCH = re.compile(r"(?<![\w:.,])([01]?\d|2[0-4])h([0-5]\d)(?!\w)")
_ZONE = re.compile(rf"\b(UTC|GMT) ?([+{MINUS}-]) ?(\d{{1,2}})(?::?(\d{{2}}))?(?!\d)")
_SHORT_HALVES = re.compile(rf"(?<![\w:.,$-])({_CLOCK})([ap]){_TO}({_CLOCK})([ap])(?!\w)")
_HOURS = re.compile(r"(?<![\w:.,$])(\d{1,2}):([0-5]\d) ?(?:hrs?|hours)\b")
_TIME_APART = re.compile(
    rf"(?<![\w:.,$-])(\d{{1,2}}:[0-5]\d{_HALF}?|\d{{1,2}}{_HALF}){_TO}(?=\d{{1,2}}(?::[0-5]\d)?(?![\w%/:-]|[.,]\d))"
    rf"|(?<![\w:.,$/-])(\d{{1,2}}){_TO}(?=\d{{1,2}}:[0-5]\d(?![\d:]))"
)
"""The first end of a range of times whose ends are written in different ways."""
_DURATION = re.compile(
    r"(?<![\w.])(?:(\d+) ?h(?:rs?|ours?)?,? ?)(\d+) ?m(?:ins?|inutes?)?\b(?:,? ?(\d+) ?s(?:ecs?|econds?)?\b)?"
    r"|(?<![\w.])(\d+) ?m(?:ins?)?,? ?(\d+) ?s(?:ecs?)?\b"
)
_OF_TENS = "|".join(
    f"(?<={word}[ -])" for word in "the his her my our its mid low mid-late early late their your".split()
)
_DECADES = re.compile(rf"(?<![\w.,/])('?)(\d{{3}}0|(?:(?<=')|{_OF_TENS})\d0)('?)s{_TO}'?(\d{{3}}0|\d0)'?s\b")
_DECADE = re.compile(rf"(?<![\w.,/])('?)(\d{{3}}0|(?:(?<=')|{_OF_TENS})\d0)('?)s\b")
_SHORT_YEAR = re.compile(r"(?<![\w'])'(\d{2})(?![\w'\"])")
_YEAR_RANGE = re.compile(rf"(?<![\w.,/$€£-])(1[1-9]\d\d|20\d\d){_TO}(1[1-9]\d\d|20\d\d|'?\d{{2}})(?![\w.]\d|\w|%|-\d)")
_ERA = re.compile(r"\b(\d{1,4}) ?(AD|BC|BCE|CE|A\.D\.|B\.C\.)(?!\w)|\b(AD|A\.D\.) (\d{1,4})\b")


def say_first(text: str) -> str:
    """The text with names of days and months in full, and dates of digits alone in words.

    That is before these look like versions or telephone numbers.
    """
    text = _MONTH_RANGE.sub(_month_range, text)
    text = _SHORT_DAY.sub(lambda match: _DAYS[match[1][:3].lower()], text)
    text = _OTHER_DAY.sub(lambda match: f"{match[1]} {match[2]} {_DAYS[match[3][:3].lower()]}", text)
    text = _DAY_OF_MONTH.sub(lambda match: f"{match[1]} {_day(match[2])}", text)
    text = _DAY_RANGE.sub(lambda match: f"{_day(match[1])} to {_day(match[2])}", text)
    text = _NAMES.sub(lambda match: ", ".join(map(_name, match[0].split("/"))), text)
    text = _DATE_RANGE.sub(r"\1 to ", text)
    text = _ISO.sub(_iso, text)
    text = _NUMERIC.sub(_numeric, text)
    text = _YEAR_MONTH.sub(_year_month, text)
    return _MONTH_OF_YEAR.sub(lambda match: f"{MONTHS[int(match[1]) - 1]} {year(match[2])}", text)


def say(text: str) -> str:
    """The text with other dates and times in words."""
    text = _NAMED_TIME.sub(r"\1 to ", text)
    text = _TO_NAMED_TIME.sub(" to ", text)
    text = _PART_OF_YEAR.sub(r"\1 \2", text)
    text = _DASHED_MONTH.sub(_dashed, text)
    text = _MONTH_DAY.sub(_month_day, text)
    text = _DAY_MONTH.sub(_day_month, text)
    text = _MONTH_YEAR.sub(lambda match: f"{_month(match[1])} {_years(match[2])}", text)
    text = _DURATION.sub(_duration, text)
    text = _SHORT_HALVES.sub(_short_halves, text)
    text = _HOURS.sub(_hours, text)
    text = _TIME_RANGE.sub(_time_range, text)
    text = _TIME_APART.sub(lambda match: f"{match[1] or match[4]} to ", text)
    text = _HALF_TIME.sub(_half_time, text)
    text = re.sub(rf"(?<=\d:\d\d){_TO}(?=\d{{1,2}}:\d\d)", " to ", text)
    text = _TIME.sub(_time, text)
    text = _FRENCH.sub(_french, text)
    text = _ZONE.sub(_zone, text)
    text = _ERA.sub(_era, text)
    text = _YEAR_RANGE.sub(_year_range, text)
    text = _DECADES.sub(lambda match: f"{_tens(match[2])} to {_tens(match[4])}", text)
    text = _DECADE.sub(lambda match: _tens(match[2]), text)
    return _SHORT_YEAR.sub(lambda match: _years(match[1]), text)


def _month(name: str) -> str:
    return _BY_SHORT[name[:3].lower()]


def _day(name: str) -> str:
    return _DAYS[name[:3].lower()]


def _name(name: str) -> str:
    """A day's or month's name in full."""
    short = name[:3].lower()
    return _DAYS.get(short) or _BY_SHORT[short]


def has_range(text: str) -> bool:
    """Whether days or months are the ends of a range, which may be written as one word: `Jan-Mar`."""
    return "-" in text and bool(_DAY_RANGE.search(text) or _MONTH_RANGE.search(text))


def _month_range(match: re.Match[str]) -> str:
    dot = "." if match[4].endswith(".") and not match[5] and match.end() == len(match.string) else ""
    return f"{_month(match[1])}{match[2] or ''}{match[3] or ''} to {_month(match[4])}{dot}"


def _years(digits: str) -> str:
    """A year of four digits, or of the last two: `24` -> twenty-four, `05` -> oh five."""
    if len(digits) == 4:
        return year(digits)
    if digits == "00":
        return "two thousand"
    return f"oh {ONES[int(digits)]}" if digits[0] == "0" else cardinal(digits)


def _full(digits: str) -> str:
    return year(digits if len(digits) == 4 else ("19" if int(digits) > 40 else "20") + digits)


def _iso(match: re.Match[str]) -> str:
    month, day = int(match[3]), int(match[4])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    said = f"{MONTHS[month - 1]} {ordinal(day)}, {year(match[1])}"
    if match[5]:
        if int(match[5]) > 24 or int(match[6]) > 59:
            return match[0]
        said += f" at {_clock(match[5], match[6], match[7])}"
        if match[8]:
            zone = match[8]
            said += " U.T.C" if zone == "Z" else f" U.T.C {_offset(zone[0], zone[1:3], zone[-2:])}"
    return said


def _year_month(match: re.Match[str]) -> str:
    """`2024-10`; but `2010-12` are years."""
    if match[2][0] == "1" and int(match[2]) > int(match[1][2:]):
        return match[0]
    return f"{MONTHS[int(match[2]) - 1]} {year(match[1])}"


def _numeric(match: re.Match[str]) -> str:
    first, second, digits = int(match[1]), int(match[3]), match[4]
    month, day = (second, first) if match[2] == "." or first > 12 else (first, second)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{MONTHS[month - 1]} {ordinal(day)}, {_full(digits)}"


def _dashed(match: re.Match[str]) -> str:
    if not 1 <= int(match[1]) <= 31:
        return match[0]
    return f"{_month(match[2])} {ordinal(match[1])}, {_full(match[3])}"


def _days(first: str, last: str | None) -> str | None:
    if not all(1 <= int(day) <= 31 for day in (first, last or first)):
        return None
    return ordinal(first) + (f" to {ordinal(last)}" if last else "")


def _month_day(match: re.Match[str]) -> str:
    days = _days(match[2], match[3])
    if days is None:
        return match[0]
    return f"{_month(match[1])} {days}" + (f", {year(match[4])}" if match[4] else "")


def _day_month(match: re.Match[str]) -> str:
    days = _days(match[2], match[3])
    if days is None:
        return match[0]
    dot = "." if match[4].endswith(".") and match.end() == len(match.string) else ""
    return f"{match[1] or 'the'} {days} of {_month(match[4])}" + (f", {year(match[5])}" if match[5] else "") + dot


def _clock(hour: str, minute: str | None, second: str | None = None, *, half: str | None = None) -> str:
    """A time of day; `half` is a or p."""
    said = cardinal(hour)
    if not half and int(hour) in (0, 24) and not int(minute or 0):
        said, second = "midnight", second if int(second or 0) else None
    elif minute and int(minute):
        said += f" oh {cardinal(minute)}" if minute[0] == "0" else f" {cardinal(minute)}"
    elif not half:
        said += " o'clock"
    if second:
        said += f" and {cardinal(second)} second{'' if int(second) == 1 else 's'}"
    return f"{said} {half.upper()}.M." if half else said


def _is_time(hour: str, minute: str | None) -> bool:
    return int(hour) <= 24 and int(minute or 0) <= 59


def _time_range(match: re.Match[str]) -> str:
    h1, m1, half1, h2, m2, half2 = match.groups()
    if not (_is_time(h1, m1) and _is_time(h2, m2)):
        return match[0]
    first = _clock(h1, m1, half=half1) if half1 or m1 else cardinal(h1)
    return f"{first} to {_ended(match, _clock(h2, m2, half=half2))}"


def _half_time(match: re.Match[str]) -> str:
    hour, minute, second, half = match.groups()
    if not _is_time(hour, minute):
        return match[0]
    return _ended(match, _clock(hour, minute, second, half=half))


def _short_halves(match: re.Match[str]) -> str:
    """`9a-5p` as `9am to 5pm`."""
    return f"{match[1]}{match[4]}m to {match[5]}{match[8]}m"


def _hours(match: re.Match[str]) -> str:
    """How long, as `1:30 hrs`."""
    return f"{_counted(match[1], 'hour')} {_counted(match[2], 'minute')}"


def _french(match: re.Match[str]) -> str:
    """`14h30` is a time; below ten, hours and minutes are how long something takes: `1h30`."""
    hour, minute = match[1], match[2]
    if len(hour) > 1:
        return _clock(hour, minute)
    return f"{_counted(hour, 'hour')} {cardinal(minute)}" if int(minute) else _counted(hour, "hour")


def _ended(match: re.Match[str], said: str) -> str:
    """A time with its last dot, unless one follows."""
    return said.removesuffix(".") if match.string[match.end() : match.end() + 1] == "." else said


def _time(match: re.Match[str]) -> str:
    hour, minute, second, parts = match[1], match[2], match[3], match[4]
    if int(hour) > 24:
        said = f"{cardinal(hour)} {cardinal(minute)}"
        return f"{said} {cardinal(second)}" if second else said
    said = _clock(hour, minute, second)
    if parts:
        said = f"{_clock(hour, minute, '1')}".removesuffix(" and one second")
        said += f" and {cardinal(second)} point {spell_digits(parts)} seconds"
    return said


def _offset(sign: str, hours: str, minutes: str | None) -> str:
    said = f"{'plus' if sign == '+' else 'minus'} {cardinal(hours)}"
    return f"{said} {cardinal(minutes)}" if minutes and int(minutes) else said


def _zone(match: re.Match[str]) -> str:
    return f"{'.'.join(match[1])} {_offset(match[2], match[3], match[4])}"


def _counted(digits: str, unit: str) -> str:
    return f"{cardinal(digits)} {unit}{'' if int(digits) == 1 else 's'}"


def _duration(match: re.Match[str]) -> str:
    hours, minutes, seconds = match[1], match[2] or match[4], match[3] or match[5]
    parts = [(hours, "hour"), (minutes, "minute"), (seconds, "second")]
    return " ".join(_counted(digits, unit) for digits, unit in parts if digits)


def _era(match: re.Match[str]) -> str:
    digits, era = match[1] or match[4], match[2] or match[3]
    said, letters = plain_number(digits), ".".join(era.replace(".", ""))
    return f"{said} {letters}" if match[1] else f"{letters} {said}"


def _year_range(match: re.Match[str]) -> str:
    return f"{year(match[1])} to {_years(match[2].lstrip(chr(39)))}"


def _tens(digits: str) -> str:
    """A decade."""
    if len(digits) == 4:
        said = year(digits)
    elif digits == "00":
        return "two thousands"
    else:
        said = cardinal(digits)
    return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"
