"""Money, units and percentages, with signs, scales and ranges, before the number or after it."""

from __future__ import annotations

import re

from csm_model.text.normaliser.characters import EN_DASH, HARD_SPACE, MINUS
from csm_model.text.normaliser.numbers import DASH, NUMBER
from csm_model.text.normaliser.spelling import cardinal, number, quantity
from csm_model.text.normaliser.units import AFTER_FRACTIONS, ALONE, NEVER_SPACED, PERS, SPACE, UNITS, either, per, unit

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
    "៛": ("riel", "riels", "", ""),
    "₭": ("kip", "kip", "", ""),
    "₮": ("tugrik", "tugriks", "", ""),
    "৳": ("taka", "taka", "", ""),
    "﷼": ("rial", "rials", "", ""),
    "֏": ("dram", "drams", "", ""),
    "؋": ("afghani", "afghanis", "", ""),
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
    "HUF": ("forint", "forints", "", ""), "CZK": ("koruna", "korunas", "", ""), "ILS": _CURRENCIES["₪"],
    "TWD": _of("New Taiwan"), "VND": _CURRENCIES["₫"], "IDR": ("rupiah", "rupiah", "", ""),
    "AED": ("dirham", "dirhams", "", ""), "SAR": ("riyal", "riyals", "", ""), "NGN": _CURRENCIES["₦"],
    "UAH": _CURRENCIES["₴"], "ETH": ("ether", "ether", "", ""), "ZAR": ("rand", "rand", "", ""),
    "THB": _CURRENCIES["฿"],
}  # fmt: skip

_SIGNS_AFTER = {
    "\u5186": _CURRENCIES["¥"], "\u5143": _CODES["CNY"], "\u5713": _CODES["CNY"], "\u5706": _CODES["CNY"],
    "\u5757": _CODES["CNY"], "\u584a": _CODES["CNY"], "\uc6d0": _CURRENCIES["₩"],
}  # fmt: skip
"""Currencies in characters that stand after the number, whatever follows."""
_WORDS_AFTER = {
    **dict.fromkeys(("\u0440\u0443\u0431.", "\u0440\u0443\u0431", "\u0440.", "\u0440"), _CURRENCIES["₽"]),
    **dict.fromkeys(("\u0433\u0440\u043d.", "\u0433\u0440\u043d"), _CURRENCIES["₴"]),
    "\u043b\u0432": ("lev", "leva", "", ""), "Kč": ("koruna", "korunas", "", ""),
    "\u0e1a\u0e32\u0e17": _CURRENCIES["฿"], "\u062f.\u0625": ("dirham", "dirhams", "", ""),
}  # fmt: skip
"""Currencies that other languages shorten, after the number."""
_AFTER = {**_SIGNS_AFTER, **_WORDS_AFTER, **_CODES, **_CURRENCIES}

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


_NO_POWER = rf"(?<!\^[{MINUS}+-])"
_SIGN = rf"(?P<sign>(?<![\w)%\]])[+\u00b1{MINUS}{EN_DASH}-]{SPACE})?"
_PER = rf"(?:{SPACE}/{SPACE}(?P<per>{either(PERS)})(?P<per_power>\^?[23])?(?!\w))?"
_BEFORE = either(_CURRENCIES)
_CODE = either(_CODES)
_SCALE = rf"(?:(?:{SPACE}|-)(?P<scale>{either(_SCALES)})(?!\w))?"
_MONEY = re.compile(
    rf"(?<![\w.$€£]){_SIGN}(?P<cur>{_BEFORE}|(?<!/)(?:{_CODE})(?= ?\d))\.?{SPACE}"
    rf"(?P<sign2>[{MINUS}+-](?=[\d.]))?(?P<a>{NUMBER})"
    rf"(?:{SPACE}(?P<scale_a>{either(_SCALES)})(?![A-Za-z]))?"
    rf"(?:{SPACE}{DASH}{SPACE}(?P<cur_b>{_BEFORE}|{_CODE})?{SPACE}(?P<b>{NUMBER})(?![\d-]))?{_SCALE}"
    rf"(?:{SPACE}(?P<code>USD|CAD|AUD|NZD|SGD|HKD|EUR|GBP)(?!\w))?{_PER}(?![\d])"
)
_MONEY_AFTER = re.compile(
    rf"(?<![\w.^]){_NO_POWER}{_SIGN}(?P<a>{NUMBER})(?:{SPACE}(?P<cur_a>[€£$¥₹])?{SPACE}{DASH}{SPACE}(?P<b>{NUMBER}))?{_SCALE}"
    rf"{SPACE}(?P<cur>(?:(?:{_BEFORE})(?![\d])|(?:{_CODE}))(?![\w])|(?:{either(_WORDS_AFTER)})(?!\w)|[{''.join(_SIGNS_AFTER)}])"
    rf"{_PER}"
)
_UNIT = either(UNITS)
_QUANTITY = re.compile(
    rf"(?<![\w.,^])(?<!\d/){_NO_POWER}{_SIGN}(?P<a>{NUMBER})"
    rf"(?:(?:{SPACE}(?P<mid>{_UNIT}))?(?:{SPACE}{DASH}{SPACE}|\ to\ )(?P<sign_b>[+{MINUS}-])?(?P<b>{NUMBER}))?"
    rf"(?:(?P<scale_gap>{SPACE}|-)(?P<scale>{either(_SURE_SCALES)})(?!\w))?"
    rf"(?:(?P<gap>{SPACE}|-)(?P<unit>{_UNIT})(?P<power>\^[23]|(?<=m)[23])?(?![\w^]|\.\w)){_PER}"
)
_SCALED = re.compile(
    rf"(?<![\w.,^])(?<!\d/){_NO_POWER}(?<!\w-){_SIGN}(?P<a>{NUMBER})"
    rf"(?:(?P<scale_a>{either(_GLUED_SCALES)}|bn|mn)?{SPACE}{DASH}{SPACE}(?P<b>{NUMBER}))?"
    rf"(?P<gap>{SPACE}|-)(?P<scale>{either(_SURE_SCALES)})(?!\w)"
)
_PLACE_BEFORE = re.compile(
    r"\b(?:room|gate|apt|apartment|flat|seat|suite|unit|building|bus|track|platform|exhibit|grade|class|section|hall|number"
    r"|no|level|floor|block|lot|house|row|route|line|appendix|figure|table|plan|step|model|type)\.? $",
    re.I,
)
_NAME_AFTER = re.compile(r" [A-Z][a-z]+")
_RACE = re.compile(r"(?<![\w.,$])([1-9]\d{0,2})[kK](?= (?:run|race|walk|jog|trail|marathon)\b)")
_EACH = re.compile(r"(?<=\d) ?ea\b\.?(?!\w)")
_FUEL = re.compile(r"(?<=\d[ \u00a0][lL])/100 ?km\b|(?<=\d[lL])/100 ?km\b")
_RATE = re.compile(
    rf"(?<![\w/.,^\u00b7])(?<!\d[ {HARD_SPACE}-])(?:(?P<unit>{either(UNITS)})(?P<power>\^[23]|(?<=m)[23])?"
    rf"|(?P<cur>{_BEFORE}|{_CODE}))/(?P<per>{either(PERS)})(?P<per_power>\^?[23])?(?![\w/^]|\.\w)"
)
_SURE_RATES = frozenset("m/s g/l g/L J/s J/K W/m N/m V/m l/h L/h l/s L/s t/h".split())
"""Of one letter each; others may be anything."""
_NEVER_RATED = frozenset("in us st pt pp um bar \u2032 \u2033".split())
_POWERED = re.compile(r"(?<![\w/.,^])(?<!\d )(m|km|cm|mm|dm|ft|mi|yd)\^([23])(?![\w^]|\.\w| ?[=+*/-])")
_PER_POWER = re.compile(rf"(?<=[a-z])/({either(PERS)})\^([23])(?![\w^/])")
_PER_UNIT = re.compile(
    r"(?<=[a-z]{2}s)/(s|sec|min|hr|h|wk|mo|yr|kg|km|mi|kWh|GB|MB|gal|lb|oz|acre|ha|[a-z]*day)(?![\w/.-])"
)
_FRACTION_OF = re.compile(
    rf"(?:(?P<mixed>\band \w+ (?:half|quarters?|thirds?|[a-z]+ths?))"
    rf"|\b(?:half|quarters?|thirds?|[a-z]{{2,}}ths?)) (?P<unit>{either(ALONE | AFTER_FRACTIONS)})(?![\w'/-]|\.\w)"
)
_ALONE = re.compile(
    rf"(?<![\w.,'/@#&-])(?P<one>(?i:per|an?|one|each|every) )?(?P<unit>{either(ALONE)}"
    r"|(?i:hrs|mins|secs|yrs|lbs|wks|tbsp|tsp))(?![\w'/@-]|\.\w)"
)
_SIGN_WORDS = {"+": "plus ", "\u00b1": "plus or minus ", "-": "minus ", MINUS: "minus ", EN_DASH: "minus "}


def say(text: str) -> str:
    """The text with quantities in words."""
    text = _RACE.sub(r"\1 K", text)
    text = _EACH.sub(" each", text)
    text = _FUEL.sub(" per 100 km", text)
    text = _MONEY.sub(_money, text)
    text = _MONEY_AFTER.sub(_money_after, text)
    text = _QUANTITY.sub(_quantity, text)
    text = _FRACTION_OF.sub(_fraction_of, text)
    return _SCALED.sub(_scaled, text)


def say_rates(text: str) -> str:
    """The text with units in words that stand without a number and say what is counted by what: `km/h`, `$/kg`."""
    if "/" in text:
        text = _RATE.sub(_rate, text)
        text = _PER_POWER.sub(lambda match: f" per {per(match[1], match[2])}", text)
        text = _PER_UNIT.sub(lambda match: f" per {PERS[match[1]]}", text)
    if "^" in text and "=" not in text:
        text = _POWERED.sub(lambda match: unit(match[1], match[2], many=True), text)
    return text


def say_alone(text: str) -> str:
    """The text with units in words that stand without a number: `hrs`."""
    return _ALONE.sub(_alone, text)


def has_unit(text: str) -> bool:
    """Whether there is a unit without a number in a text, though it may look like a word."""
    return bool(_ALONE.search(text))


def _rate(match: re.Match[str]) -> str:
    name = match["unit"]
    if name is None:
        many = (_CURRENCIES.get(match["cur"]) or _CODES[match["cur"]])[1]
        return f"{many} per {per(match['per'], match['per_power'])}"
    powers = match["power"] or match["per_power"]
    short = len(name) == len(match["per"]) == 1
    if name in _NEVER_RATED or (short and not powers and f"{name}/{match['per']}" not in _SURE_RATES):
        return match[0]
    return f"{unit(name, match['power'], many=True)} per {per(match['per'], match['per_power'])}"


def _fraction_of(match: re.Match[str]) -> str:
    end = match.start("unit") - match.start()
    return match[0][:end] + unit(match["unit"], None, many=bool(match["mixed"]))


def _alone(match: re.Match[str]) -> str:
    name = match["unit"] if match["unit"] in UNITS else match["unit"].lower()
    plural = name.endswith("s")
    return (match["one"] or "") + unit(name, None, many=plural or not match["one"])


def _sign(match: re.Match[str]) -> str:
    return _SIGN_WORDS[match["sign"].strip(f" {HARD_SPACE}")] if match["sign"] else ""


def _per(match: re.Match[str]) -> str:
    if not match["per"]:
        return ""
    return f" per {per(match['per'], match['per_power'])}"


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
    words = _AFTER[match["cur"]]
    scale = _scale_of(match["scale"])
    said = _amount(match["a"] if match["b"] is None else match["b"], words, scale=scale)
    if match["b"] is not None:
        said = f"{quantity(match['a'])} to {said}"
    return f"{_sign(match)}{said}{_per(match)}"


def _quantity(match: re.Match[str]) -> str:
    name, gap, a, b = match["unit"], match["gap"], match["a"], match["b"]
    spaced = gap not in ("", "-") and name in NEVER_SPACED and not _ends(match)
    if spaced or (match["scale"] in _GLUED_SCALES and match["scale_gap"]):
        return match[0]
    if gap == "-" and not match["per"] and name in ("in", "h", "s", "t", "d", "m", "g", "l", "a"):
        return match[0]
    if name in ("\u2032", "\u2033") and match["b"]:
        return match[0]
    last = b or a
    many = gap != "-" and (last != "1" or bool(match["scale"]))
    said = quantity(a)
    if match["mid"] and match["mid"] != name:
        said += f" {unit(match['mid'], None, many=a != '1')}"
    if b is not None:
        minus = _SIGN_WORDS[match["sign_b"]] if match["sign_b"] else ""
        said += f" to {minus}{quantity(b)}"
    if match["scale"]:
        said += f" {_SCALES[match['scale']]}"
    return f"{_sign(match)}{said} {unit(name, match['power'], many=many)}{_per(match)}"


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
    first = f" {_SCALES[match['scale_a']]}" if match["scale_a"] and _SCALES[match["scale_a"]] != _SCALES[scale] else ""
    said = f"{quantity(a)}{first} to {quantity(b)}" if b is not None else quantity(a)
    return f"{_sign(match)}{said} {_SCALES[scale]}"


def _names_a_place(match: re.Match[str]) -> bool:
    """`221B Baker Street`, `gate 4B`: the letter belongs to a number that counts nothing."""
    text = match.string
    return bool(_PLACE_BEFORE.search(text[: match.start()][-20:]) or _NAME_AFTER.match(text, match.end()))
