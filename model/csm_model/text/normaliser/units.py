"""Units of measurement and what is counted by them: how one and many of each are said, and their powers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from csm_model.text.normaliser.characters import HARD_SPACE

SPACE = f"[ {HARD_SPACE}]?"
"""What may stand between a number and its unit."""


def either(words: Iterable[str]) -> str:
    """An expression for any of some words, longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))


def _plural(one: str, many: str | None = None) -> tuple[str, str]:
    return one, many or f"{one}s"


UNITS: dict[str, tuple[str, str]] = {
    "km": _plural("kilometer"), "m": _plural("meter"), "dm": _plural("decimeter"), "cm": _plural("centimeter"),
    "mm": _plural("millimeter"), "\u03bcm": _plural("micrometer"), "um": _plural("micrometer"),
    "nm": _plural("nanometer"), "mi": _plural("mile"), "yd": _plural("yard"), "yds": _plural("yard"),
    "ft": ("foot", "feet"), "in": ("inch", "inches"), "nmi": _plural("nautical mile"), "ly": _plural("light-year"),
    "kg": _plural("kilogram"), "kgs": _plural("kilogram"), "g": _plural("gram"), "mg": _plural("milligram"),
    "\u03bcg": _plural("microgram"), "mcg": _plural("microgram"), "lb": _plural("pound"), "lbs": _plural("pound"),
    "oz": _plural("ounce"), "t": _plural("ton"), "st": _plural("stone", "stone"),
    "l": _plural("liter"), "L": _plural("liter"), "dl": _plural("deciliter"), "dL": _plural("deciliter"),
    "cl": _plural("centiliter"), "ml": _plural("milliliter"), "mL": _plural("milliliter"), "gal": _plural("gallon"),
    "qt": _plural("quart"), "pt": _plural("pint"), "tbsp": _plural("tablespoon"), "tsp": _plural("teaspoon"),
    "cc": _plural("cubic centimeter"), "fl oz": _plural("fluid ounce"), "ha": _plural("hectare"),
    "sq ft": ("square foot", "square feet"), "sq. ft.": ("square foot", "square feet"),
    "sqft": ("square foot", "square feet"),
    "sq mi": _plural("square mile"), "sq m": _plural("square meter"), "sq km": _plural("square kilometer"),
    "s": _plural("second"), "sec": _plural("second"), "secs": _plural("second"), "ms": _plural("millisecond"),
    "\u03bcs": _plural("microsecond"), "us": _plural("microsecond"), "ns": _plural("nanosecond"),
    "min": _plural("minute"), "mins": _plural("minute"), "h": _plural("hour"), "hr": _plural("hour"),
    "hrs": _plural("hour"), "d": _plural("day"), "wk": _plural("week"), "wks": _plural("week"), "mo": _plural("month"),
    "mos": _plural("month"), "yr": _plural("year"), "yrs": _plural("year"),
    "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"), "THz": ("terahertz", "terahertz"), "rpm": ("R.P.M", "R.P.M"),
    "bpm": ("beats per minute", "beats per minute"), "fps": ("frames per second", "frames per second"),
    "dpi": ("dots per inch", "dots per inch"), "ppi": ("pixels per inch", "pixels per inch"),
    "px": _plural("pixel"), "MP": _plural("megapixel"), "ppm": ("parts per million", "parts per million"),
    "ppb": ("parts per billion", "parts per billion"),
    "mph": ("mile per hour", "miles per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "kmh": ("kilometer per hour", "kilometers per hour"), "mpg": ("mile per gallon", "miles per gallon"),
    "kn": _plural("knot"), "kt": _plural("knot"),
    "KB": _plural("kilobyte"), "kB": _plural("kilobyte"), "MB": _plural("megabyte"),
    "GB": _plural("gigabyte"), "TB": _plural("terabyte"), "PB": _plural("petabyte"), "KiB": _plural("kibibyte"),
    "MiB": _plural("mebibyte"), "GiB": _plural("gibibyte"), "kb": _plural("kilobit"), "Kb": _plural("kilobit"),
    "Mb": _plural("megabit"), "Gb": _plural("gigabit"), "kbit": _plural("kilobit"), "Mbit": _plural("megabit"),
    "Gbit": _plural("gigabit"), "kbps": ("kilobit per second", "kilobits per second"),
    "Kbps": ("kilobit per second", "kilobits per second"), "Mbps": ("megabit per second", "megabits per second"),
    "mbps": ("megabit per second", "megabits per second"), "Gbps": ("gigabit per second", "gigabits per second"),
    "W": _plural("watt"), "mW": _plural("milliwatt"), "kW": _plural("kilowatt"), "MW": _plural("megawatt"),
    "GW": _plural("gigawatt"), "TW": _plural("terawatt"), "Wh": _plural("watt hour"), "kWh": _plural("kilowatt hour"),
    "MWh": _plural("megawatt hour"), "V": _plural("volt"), "mV": _plural("millivolt"), "kV": _plural("kilovolt"),
    "mA": _plural("milliamp"), "mAh": _plural("milliamp hour"), "Ah": _plural("amp hour"), "\u03a9": _plural("ohm"),
    "k\u03a9": _plural("kilohm"), "M\u03a9": _plural("megohm"), "J": _plural("joule"), "kJ": _plural("kilojoule"),
    "MJ": _plural("megajoule"), "cal": _plural("calorie"), "kcal": _plural("kilocalorie"), "N": _plural("newton"),
    "kN": _plural("kilonewton"), "Nm": _plural("newton meter"), "Pa": _plural("pascal"), "kPa": _plural("kilopascal"),
    "hPa": _plural("hectopascal"), "MPa": _plural("megapascal"), "bar": ("bar", "bar"), "mbar": _plural("millibar"),
    "rad": _plural("radian"), "mmHg": ("millimeter of mercury", "millimeters of mercury"),
    "psi": ("P.S.I", "P.S.I"), "atm": _plural("atmosphere"), "dB": _plural("decibel"), "lm": _plural("lumen"),
    "hp": ("horsepower", "horsepower"), "mol": _plural("mole"), "pct": ("percent", "percent"),
    "pH": ("P.H", "P.H"), "ct": _plural("carat"), "bps": _plural("basis point"),
    "\u00b0C": ("degree Celsius", "degrees Celsius"), "\u00b0F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "\u00b0 C": ("degree Celsius", "degrees Celsius"), "\u00b0 F": ("degree Fahrenheit", "degrees Fahrenheit"),
    **{f"\u00b0 {end[0].upper()}": (f"degree {end}", f"degrees {end}") for end in ("north", "south", "east", "west")},
    "\u00b0K": ("degree Kelvin", "degrees Kelvin"), "\u00b0": _plural("degree"),
    "\u00b0N": ("degree north", "degrees north"), "\u00b0S": ("degree south", "degrees south"),
    "\u00b0E": ("degree east", "degrees east"), "\u00b0W": ("degree west", "degrees west"),
    "%": ("percent", "percent"), "\u2030": ("per mille", "per mille"),
    "\u2031": ("per ten thousand", "per ten thousand"),
    "\u2032": _plural("minute"), "\u2033": _plural("second"), "\u00a2": ("cent", "cents"),
    "%p": _plural("percentage point"), "pp": _plural("percentage point"),
}  # fmt: skip
NEVER_SPACED = frozenset("in d st t pp us um wk kt kn mo N J ct pt st MP bps \u2032 \u2033".split())
"""Units that are words or letters of their own where a space is between."""
ALONE = frozenset(
    "hrs hr mins secs yrs yr wks lbs lb oz kg kgs km cm kWh MWh kHz MHz GHz mAh tsp tbsp sqft mmHg".split()
)
"""Units that are no word and no initials, so that they are units without a number too."""
AFTER_FRACTIONS = frozenset("mm ml mL l L m g ft mi qt gal".split())
"""Units that are, after a fraction."""
PERS = {
    "s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "d": "day", "day": "day", "wk": "week",
    "week": "week", "mo": "month", "month": "month", "mth": "month", "yr": "year", "y": "year", "year": "year",
    "night": "night", "hour": "hour", "minute": "minute", "second": "second", "person": "person", "pp": "person",
    "unit": "unit", "user": "user", "item": "item", "piece": "piece", "pc": "piece", "head": "head", "capita": "capita",
    "serving": "serving", "dose": "dose", "seat": "seat", "room": "room", "page": "page", "word": "word",
    "call": "call",
    "request": "request", "share": "share", "barrel": "barrel", "bbl": "barrel", "ton": "ton", "mile": "mile",
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "g": "gram",
    "mg": "milligram", "l": "liter", "L": "liter", "dl": "deciliter", "dL": "deciliter", "ml": "milliliter",
    "mL": "milliliter", "lb": "pound", "oz": "ounce", "gal": "gallon", "ft": "foot", "sqft": "square foot",
    "in": "inch",
    "acre": "acre", "ha": "hectare", "mi": "mile", "kWh": "kilowatt hour", "MWh": "megawatt hour", "GB": "gigabyte",
    "MB": "megabyte", "W": "watt", "mol": "mole", "K": "kelvin",
    "game": "game", "session": "session", "token": "token",
    "1M": "one million", "sq ft": "square foot", "sqm": "square meter", "class": "class", "gallon": "gallon",
    "liter": "liter", "trip": "trip", "way": "way",
    "beat": "beat", "frame": "frame", "stream": "stream", "server": "server", "core": "core",
}  # fmt: skip
_POWERS = {"2": "square", "3": "cubic"}
_TIMES_OVER = {"2": "squared", "3": "cubed"}


def unit(name: str, power: str | None, *, many: bool) -> str:
    """A unit as it is said after a number: `m`, `^2` -> square meters."""
    one, more = UNITS[name]
    return f"{_POWERS[power[-1]]} {more if many else one}" if power else more if many else one


def per(name: str, power: str | None) -> str:
    """A unit as it is said after `per`; time is squared, and what has extent is square."""
    if not power:
        return PERS[name]
    return f"{PERS[name]} {_TIMES_OVER[power[-1]]}" if name in ("s", "sec") else f"{_POWERS[power[-1]]} {PERS[name]}"
