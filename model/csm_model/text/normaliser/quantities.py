"""Money, units and percentages, with signs, scales and ranges, before the number or after it."""

from __future__ import annotations

import re

from csm_model.text.normaliser.characters import EN_DASH, HARD_SPACE, MINUS
from csm_model.text.normaliser.numbers import DASH, NUMBER
from csm_model.text.normaliser.spelling import cardinal, number, quantity

_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₪": ("shekel", "shekels", "agora", "agorot"),
    "₺": ("lira", "liras", "kurush", "kurush"),
    "₴": ("hryvnia", "hryvnias", "kopek", "kopeks"),
    "₫": ("dong", "dong", "", ""),
    "₱": ("peso", "pesos", "centavo", "centavos"),
    "₦": ("naira", "naira", "kobo", "kobo"),
    "฿": ("baht", "baht", "satang", "satang"),
    "₿": ("bitcoin", "bitcoin", "", ""),
    "₡": ("colon", "colons", "", ""),
    "₵": ("cedi", "cedis", "", ""),
    "₸": ("tenge", "tenge", "", ""),
    "₲": ("guarani", "guaranis", "", ""),
    "₼": ("manat", "manat", "", ""),
    "₾": ("lari", "lari", "", ""),
    "¢": ("cent", "cents", "", ""),
    "kr": ("krona", "kronor", "", ""),
    "zł": ("zloty", "zlotys", "grosz", "groszy"),
    "Rs": ("rupee", "rupees", "paisa", "paise"),
    "Fr": ("franc", "francs", "", ""),
}
"""A sign to its unit and its hundredth, of one and of many."""


def _of(country: str, sign: str = "$") -> tuple[str, str, str, str]:
    one, many, cent, cents = _CURRENCIES[sign]
    return f"{country} {one}", f"{country} {many}", cent, cents


_CURRENCIES |= {
    "US$": _of("U.S"), "U.S.$": _of("U.S"), "CA$": _of("Canadian"), "C$": _of("Canadian"), "A$": _of("Australian"),
    "AU$": _of("Australian"), "NZ$": _of("New Zealand"), "HK$": _of("Hong Kong"), "S$": _of("Singapore"),
    "NT$": _of("New Taiwan"), "MX$": _of("Mexican", "₱"), "R$": ("real", "reais", "centavo", "centavos"),
    "CN¥": ("yuan", "yuan", "", ""), "JP¥": ("yen", "yen", "", ""),
}  # fmt: skip
_CODES = {
    "USD": _of("U.S"), "EUR": _CURRENCIES["€"], "GBP": _CURRENCIES["£"], "JPY": _CURRENCIES["¥"],
    "CNY": ("yuan", "yuan", "", ""), "RMB": ("yuan", "yuan", "", ""), "INR": _CURRENCIES["₹"],
    "KRW": _CURRENCIES["₩"], "CAD": _of("Canadian"), "AUD": _of("Australian"), "NZD": _of("New Zealand"),
    "HKD": _of("Hong Kong"), "SGD": _of("Singapore"), "CHF": ("Swiss franc", "Swiss francs", "", ""),
    "SEK": ("Swedish krona", "Swedish kronor", "", ""), "NOK": ("Norwegian krone", "Norwegian kroner", "", ""),
    "DKK": ("Danish krone", "Danish kroner", "", ""), "PLN": _CURRENCIES["zł"], "RUB": _CURRENCIES["₽"],
    "MXN": _of("Mexican", "₱"), "BRL": _CURRENCIES["R$"], "TRY": _CURRENCIES["₺"], "BTC": _CURRENCIES["₿"],
    "ETH": ("ether", "ether", "", ""), "ZAR": ("rand", "rand", "", ""), "THB": _CURRENCIES["฿"],
}  # fmt: skip

_SCALES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "Mn": "million", "mm": "million",
    "MM": "million", "mil": "million", "Mio": "million", "Mio.": "million",
    "mln": "million", "Mrd": "billion", "Mrd.": "billion", "b": "billion", "B": "billion", "bn": "billion",
    "Bn": "billion", "BN": "billion", "bln": "billion", "t": "trillion", "T": "trillion", "tn": "trillion",
    "trn": "trillion", "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
    "hundred": "hundred", "quadrillion": "quadrillion", "lakh": "lakh", "crore": "crore", "dozen": "dozen",
}  # fmt: skip
_SURE_SCALES = frozenset(
    "k K bn Bn BN bln mln Mrd "
    "Mio. Mrd. mn Mn tn trn M B T mil Mio thousand million billion trillion hundred quadrillion lakh crore "
    "dozen".split()
)
"""Scales where no currency says that it is money: `2m` are meters."""
_GLUED_SCALES = frozenset("k K M B T".split())


def _alt(words: object) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))  # type: ignore[call-overload]


def _plural(one: str, many: str | None = None) -> tuple[str, str]:
    return one, many or f"{one}s"


_UNITS: dict[str, tuple[str, str]] = {
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
    "psi": ("P.S.I", "P.S.I"), "atm": _plural("atmosphere"), "dB": _plural("decibel"), "lm": _plural("lumen"),
    "hp": ("horsepower", "horsepower"), "mol": _plural("mole"), "pct": ("percent", "percent"),
    "pH": ("P.H", "P.H"), "ct": _plural("carat"), "bps": _plural("basis point"),
    "\u00b0C": ("degree Celsius", "degrees Celsius"), "\u00b0F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "\u00b0 C": ("degree Celsius", "degrees Celsius"), "\u00b0 F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "\u00b0K": ("degree Kelvin", "degrees Kelvin"), "\u00b0": _plural("degree"),
    "\u00b0N": ("degree north", "degrees north"), "\u00b0S": ("degree south", "degrees south"),
    "\u00b0E": ("degree east", "degrees east"), "\u00b0W": ("degree west", "degrees west"),
    "%": ("percent", "percent"), "\u2030": ("per mille", "per mille"),
    "\u2031": ("per ten thousand", "per ten thousand"),
    "\u2032": _plural("minute"), "\u2033": _plural("second"), "\u00a2": ("cent", "cents"),
    "%p": _plural("percentage point"), "pp": _plural("percentage point"),
}  # fmt: skip
_NEVER_SPACED = frozenset("in d st t pp us um wk kt kn mo N J ct pt st MP bps \u2032 \u2033".split())
"""Units that are words or letters of their own where a space is between."""
_PERS = {
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
    "MB": "megabyte", "W": "watt", "K": "kelvin", "game": "game", "session": "session", "token": "token",
    "1M": "one million", "class": "class", "gallon": "gallon", "liter": "liter", "trip": "trip", "way": "way",
    "beat": "beat", "frame": "frame", "stream": "stream", "server": "server", "core": "core",
}  # fmt: skip

_SPACE = f"[ {HARD_SPACE}]?"
_SIGN = rf"(?P<sign>(?<![\w)%\]])[+\u00b1{MINUS}{EN_DASH}-]{_SPACE})?"
_PER = rf"(?:{_SPACE}/{_SPACE}(?P<per>{_alt(_PERS)})(?P<per_power>\^?[23])?(?!\w))?"
_BEFORE = _alt(_CURRENCIES)
_CODE = _alt(_CODES)
_SCALE = rf"(?:(?:{_SPACE}|-)(?P<scale>{_alt(_SCALES)})(?!\w))?"
_MONEY = re.compile(
    rf"(?<![\w.$€£]){_SIGN}(?P<cur>{_BEFORE}|(?:{_CODE})(?= ?\d))\.?{_SPACE}"
    rf"(?P<sign2>[{MINUS}+-](?=[\d.]))?(?P<a>{NUMBER})"
    rf"(?:{_SPACE}(?P<scale_a>{_alt(_SCALES)})(?![A-Za-z]))?"
    rf"(?:{_SPACE}{DASH}{_SPACE}(?P<cur_b>{_BEFORE}|{_CODE})?{_SPACE}(?P<b>{NUMBER})(?![\d-]))?{_SCALE}"
    rf"(?:{_SPACE}(?P<code>USD|CAD|AUD|NZD|SGD|HKD|EUR|GBP)(?!\w))?{_PER}(?![\d])"
)
_MONEY_AFTER = re.compile(
    rf"(?<![\w.^]){_SIGN}(?P<a>{NUMBER})(?:{_SPACE}(?P<cur_a>[€£$¥₹])?{_SPACE}{DASH}{_SPACE}(?P<b>{NUMBER}))?{_SCALE}"
    rf"{_SPACE}(?P<cur>(?:{_BEFORE})(?![\d])|(?:{_CODE}))(?![\w]){_PER}"
)
_UNIT = _alt(_UNITS)
_QUANTITY = re.compile(
    rf"(?<![\w.,^])(?<!\d/){_SIGN}(?P<a>{NUMBER})"
    rf"(?:(?:{_SPACE}(?P<mid>{_UNIT}))?(?:{_SPACE}{DASH}{_SPACE}|\ to\ )(?P<sign_b>[+{MINUS}-])?(?P<b>{NUMBER}))?"
    rf"(?:(?P<scale_gap>{_SPACE}|-)(?P<scale>{_alt(_SURE_SCALES)})(?!\w))?"
    rf"(?:(?P<gap>{_SPACE}|-)(?P<unit>{_UNIT})(?P<power>\^[23]|(?<=m)[23])?(?![\w^]|\.\w)){_PER}"
)
_SCALED = re.compile(
    rf"(?<![\w.,^])(?<!\d/){_SIGN}(?P<a>{NUMBER})(?:{_SPACE}{DASH}{_SPACE}(?P<b>{NUMBER}))?"
    rf"(?P<gap>{_SPACE}|-)(?P<scale>{_alt(_SURE_SCALES)})(?!\w)"
)
_PLACE_BEFORE = re.compile(
    r"\b(?:room|gate|apt|apartment|flat|seat|suite|unit|building|bus|track|platform|exhibit|grade|class|section|hall|number"
    r"|no|level|floor|block|lot|house|row|route|line|appendix|figure|table|plan|step|model|type)\.? $",
    re.I,
)
_NAME_AFTER = re.compile(r" [A-Z][a-z]+")
_FUEL = re.compile(r"(?<=\d[ \u00a0][lL])/100 ?km\b|(?<=\d[lL])/100 ?km\b")
_SQUARES = {"2": "square ", "3": "cubic "}
_SIGN_WORDS = {"+": "plus ", "\u00b1": "plus or minus ", "-": "minus ", MINUS: "minus ", EN_DASH: "minus "}


def say(text: str) -> str:
    """The text with quantities in words."""
    text = _FUEL.sub(" per 100 km", text)
    text = _MONEY.sub(_money, text)
    text = _MONEY_AFTER.sub(_money_after, text)
    text = _QUANTITY.sub(_quantity, text)
    return _SCALED.sub(_scaled, text)


def _sign(match: re.Match[str]) -> str:
    return _SIGN_WORDS[match["sign"].strip(f" {HARD_SPACE}")] if match["sign"] else ""


def _per(match: re.Match[str]) -> str:
    if not match["per"]:
        return ""
    return f" per {_SQUARES.get((match['per_power'] or '').lstrip('^'), '')}{_PERS[match['per']]}"


def _amount(digits: str, words: tuple[str, str, str, str], *, scale: str | None = None) -> str:
    """An amount of money."""
    one, many, cent, cents = words
    if scale:
        return f"{quantity(digits)} {scale} {many}"
    whole, point, rest = digits.partition(".")
    if len(rest) == 3 and "," not in whole:
        whole, rest, point = f"{whole},{rest}", "", ""  # 1.000 euros
    if point and rest and not rest.strip("0") and len(rest) <= 2:
        rest = ""
    if rest and (not cent or len(rest) > 2):
        return f"{number(digits)} {many}"
    said = number(whole) if len(whole) > 1 and whole[0] == "0" else cardinal(whole.replace(",", "") or "0")
    main = f"{said} {one if said == 'one' else many}"
    if not rest:
        return main
    hundredths = int(rest.ljust(2, "0"))
    small = f"{cardinal(hundredths)} {cent if hundredths == 1 else cents}"
    return small if said == "zero" else f"{main} and {small}"


def _money(match: re.Match[str]) -> str:
    cur, a, b = match["cur"], match["a"], match["b"]
    words = _CURRENCIES.get(cur) or _CODES[cur]
    if match["code"]:
        words = _CODES[match["code"]]
    scale_a = _scale_of(match["scale_a"])
    scale = _scale_of(match["scale"]) or (None if b else scale_a)
    sign = _sign(match) or (_SIGN_WORDS[match["sign2"]] if match["sign2"] else "")
    tail = _glue(match)
    if match["scale_a"] and scale_a is None:
        return match[0]
    if b is None:
        return f"{sign}{_amount(a, words, scale=scale)}{_per(match)}{tail}"
    plain = not ("." in a or "." in b) or scale
    if plain and scale_a in (None, scale):
        first = quantity(a) + (f" {scale_a}" if scale_a else "")
    else:
        first = _amount(a, words, scale=scale_a)
    return f"{sign}{first} to {_amount(b, words, scale=scale)}{_per(match)}{tail}"


def _glue(match: re.Match[str]) -> str:
    after = match.string[match.end() : match.end() + 1]
    return " " if after.isalpha() else ""


def _scale_of(short: str | None) -> str | None:
    return _SCALES[short] if short else None


def _money_after(match: re.Match[str]) -> str:
    words = _CURRENCIES.get(match["cur"]) or _CODES[match["cur"]]
    scale = _scale_of(match["scale"])
    said = _amount(match["a"] if match["b"] is None else match["b"], words, scale=scale)
    if match["b"] is not None:
        said = f"{quantity(match['a'])} to {said}"
    return f"{_sign(match)}{said}{_per(match)}"


def _unit(name: str, power: str | None, *, many: bool) -> str:
    one, more = _UNITS[name]
    return _SQUARES.get((power or "").lstrip("^"), "") + (more if many else one)


def _quantity(match: re.Match[str]) -> str:
    unit, gap, a, b = match["unit"], match["gap"], match["a"], match["b"]
    spaced = gap not in ("", "-") and unit in _NEVER_SPACED and not _ends(match)
    if spaced or (match["scale"] in _GLUED_SCALES and match["scale_gap"]):
        return match[0]
    if gap == "-" and not match["per"] and unit in ("in", "h", "s", "t", "d", "m", "g", "l", "a"):
        return match[0]
    if unit in ("\u2032", "\u2033") and match["b"]:
        return match[0]
    last = b or a
    many = gap != "-" and (last != "1" or bool(match["scale"]))
    said = quantity(a)
    if match["mid"] and match["mid"] != unit:
        said += f" {_unit(match['mid'], None, many=a != '1')}"
    if b is not None:
        minus = _SIGN_WORDS[match["sign_b"]] if match["sign_b"] else ""
        said += f" to {minus}{quantity(b)}"
    if match["scale"]:
        said += f" {_SCALES[match['scale']]}"
    return f"{_sign(match)}{said} {_unit(unit, match['power'], many=many)}{_per(match)}"


def _ends(match: re.Match[str]) -> bool:
    """Whether inches stand before a full stop or the end: `5 in.`, but not `5 in a row`."""
    return match["unit"] == "in" and match.string[match.end() : match.end() + 1] in ("", ".", ",", ")", ";")


def _scaled(match: re.Match[str]) -> str:
    scale, a, b = match["scale"], match["a"], match["b"]
    if scale in _GLUED_SCALES and match["gap"]:
        return match[0]
    if scale == "K" and a in ("2", "4", "5", "8") and b is None:  # of screens
        return f"{_sign(match)}{quantity(a)} K"
    if scale in ("B", "M", "T") and _names_a_place(match):
        return match[0]
    said = quantity(a) + (f" to {quantity(b)}" if b is not None else "")
    return f"{_sign(match)}{said} {_SCALES[scale]}"


def _names_a_place(match: re.Match[str]) -> bool:
    """`221B Baker Street`, `gate 4B`: the letter belongs to a number that counts nothing."""
    text = match.string
    return bool(_PLACE_BEFORE.search(text[: match.start()][-20:]) or _NAME_AFTER.match(text, match.end()))
