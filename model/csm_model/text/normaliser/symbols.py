"""Signs in words: comparison, arithmetic, currency without a number, Greek letters, marks; emoticons out."""

from __future__ import annotations

import re
import unicodedata

from csm_model.text.normaliser.characters import EN_DASH, HARD_SPACE, MINUS

_OPERATORS = (
    ("\u00a7\u00a7", "sections"),
    ("<=>", "is equivalent to"), ("===", "equals"), ("!==", "is not equal to"), ("!=", "is not equal to"),
    ("<>", "is not equal to"), ("=/=", "is not equal to"), ("==", "equals"), ("<=", "less than or equal to"),
    (">=", "greater than or equal to"), ("=>", "implies"), ("->", "to"), ("<->", "to and from"), ("<-", "from"),
    ("+/-", "plus or minus"), ("&&", "and"), ("||", "or"), (":=", "becomes"), ("+=", "plus equals"),
)  # fmt: skip
_NAMES = {
    "=": "equals", "<": "less than", ">": "greater than", "+": "plus", "&": "and", "@": "at", "%": "percent",
    "\u2030": "per mille", "~": "about", "^": "caret", "|": "or", "\u00d7": "times", "\u00f7": "divided by",
    "\u00b1": "plus or minus", "\u2213": "minus or plus", "\u2264": "less than or equal to",
    "\u2265": "greater than or equal to", "\u2266": "less than or equal to", "\u2267": "greater than or equal to",
    "\u2a7d": "less than or equal to", "\u2a7e": "greater than or equal to", "\u226a": "much less than",
    "\u226b": "much greater than", "\u2260": "is not equal to", "\u2248": "approximately", "\u2245": "approximately",
    "\u2243": "approximately", "\u2261": "is equivalent to", "\u221d": "is proportional to", "\u221e": "infinity",
    "\u221a": "square root of", "\u221b": "cube root of", "\u2211": "sum of", "\u220f": "product of",
    "\u222b": "integral of", "\u2202": "partial", "\u2206": "delta", "\u2207": "nabla", "\u2208": "in",
    "\u2209": "not in", "\u2282": "is a subset of", "\u222a": "union", "\u2229": "intersection", "\u2205": "empty set",
    "\u2200": "for all", "\u2203": "there exists", "\u00ac": "not", "\u2227": "and", "\u2228": "or",
    "\u2234": "therefore", "\u2235": "because", "\u22a5": "perpendicular to", "\u2225": "parallel to",
    "\u2220": "angle", "\u00b0": "degrees", "\u2032": "prime", "\u2033": "double prime", "\u2192": "to",
    "\u2190": "from", "\u2191": "up", "\u2193": "down", "\u2194": "to and from", "\u21d2": "implies",
    "\u21d4": "is equivalent to", "\u27a1": "to", "\u2794": "to", "\u279c": "to", "\u21a6": "maps to",
    "\u00a9": "copyright", "\u00a7": "section",
    "\u00b6": "paragraph", "\u2020": "dagger", "$": "dollars", "\u20ac": "euros", "\u00a3": "pounds",
    "\u00a5": "yen", "\u20b9": "rupees", "\u20a9": "won", "\u20bd": "rubles", "\u20aa": "shekels", "\u20ba": "liras",
    "\u20b4": "hryvnias", "\u20ab": "dong", "\u20b1": "pesos", "\u20a6": "naira", "\u0e3f": "baht", "\u20bf": "bitcoin",
    "\u00a2": "cents", "\u2126": "ohms", "\u211d": "R", "\u2103": "degrees Celsius", "\u2109": "degrees Fahrenheit",
    "\u2605": "star", "\u2606": "star", "\u2713": "check", "\u2714": "check", "\u2611": "check",
    "\u266f": "sharp", "\u266d": "flat", "\\": "backslash", "#": "hash", "*": "star", "_": "underscore", "/": "slash",
}  # fmt: skip
_GREEK = dict(
    zip(
        "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc\u03bd\u03be\u03bf\u03c0\u03c1\u03c3\u03c4\u03c5\u03c6\u03c7\u03c8\u03c9",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
        "chi psi omega".split(),
        strict=True,
    )
)
_OTHER = "\u0370-\u03ff\u0400-\u04ff\u1f00-\u1fff"
_GREEK |= {"\u03c2": "sigma", "\u03d5": "phi", "\u03d1": "theta", "\u03f5": "epsilon"}
_DROPPED = {
    "\u2122": "",
    "\u2120": "",
    "\u00ae": "",
    "\u2117": "",
    "\u00ad": "",
    "\u00bf": "",
    "\u00a1": "",
    "\u25e6": "",
    "\u00a6": ", ",
    "\u2021": "",
    "`": "'",
}
"""Marks that nobody reads aloud; what is no punctuation is told."""
_MARK = r"(?<=\w) \((?:TM|SM)\)(?!\w)|(?<=\w)\((?:TM|SM|[Rr])\)(?!\w)"
"""Trade marks by letters."""
_OPERATOR = re.compile("|".join(re.escape(sign) for sign, _ in sorted(_OPERATORS, key=lambda item: -len(item[0]))))
_OPERATOR_WORDS = dict(_OPERATORS)
_ARROWS = re.compile(r"<?[-=]{2,}>|<[-=]{2,}>?")
_SIGN = re.compile("|".join([_MARK, *(re.escape(sign) for sign in (*_NAMES, *_DROPPED))]))
_GREEK_LETTER = re.compile(f"(?<![{_OTHER}])([{''.join(_GREEK)}{''.join(_GREEK).upper()}])(?![{_OTHER}])")

_EMOTICON = re.compile(
    r"(?<![^\s(])(?:[:;=][-o^']?[)(\[\]DpPOo/\\|*]+|[:;]'[-]?[()]|<\/?3+|[xX]D+|\^_+\^|[oO]_+[oO]|-_+-|>[:;][()]|T_T"
    r"|\u00af\\_\(\u30c4\)_/\u00af|:[a-z][a-z0-9_+-]{1,30}:)(?![^\s.,!?)])"
)
_DRAWN = (
    "\u30c4\u0296\u0361\u035c\u0ca0\u1d25\u25d5\u203f\u0ca5\ufe4f\u2565\u25a0\u25bd\u15dc\u1d17\ua4b3\u309c\u25a1\u256f\u25e1"
    "\u2310\u033f\u25c9\uff9f\uff61\u1d54\u0298\u2299\u0ca2\u0cb0\ufe3f\u2323\u0414\u0434\uff3e\u2267\u2266\u02d8\u2022"
)
"""What the faces of emoticons are drawn with."""
_ARMS = (
    "[\\\\/_\u00af\uffe3\u30fd\u30fe\u2570\u256f\u256e\u256d\u250c\u2510\u2514\u2518\u2517\u251b\u250f\u2513\u30ce\uff89"
    "\u3065\u3063\u3064\u30b7\u30b8\u30bc\u1559\u1557\u1566\u1564\u10da\u4e41\u310f\u51f8\u5f61\u261e\u261c\u2727]"
)
_TABLE = "[\u253b\u252c][\u2501\u2500]{1,4}[\u253b\u252c]"
_EYES = (
    r"(?:\^(?:_{0,3}|[.o-])\^|>(?:_{1,3}|[.o-])<|[oO0][_.]{1,3}[oO0]|T_{1,3}T|Q_{1,3}Q|;_{1,3};|@_{1,3}@|=_{1,3}=|u_{1,3}u"
    r"|U_{1,3}U|x_{1,3}x|\*_{1,3}\*|\._{1,3}\.|-_{1,3}-)"
)
_FACE = re.compile(
    rf"(?:{_ARMS}{{1,4}} ?)?[(\uff08\u0295](?=[^()\n]{{0,16}}[{_DRAWN}])(?![^()\n]{{0,16}}(?:[0-9]|[A-Za-z]{{2}}))"
    rf"[^()\uff08\uff09\n]{{1,16}}[)\uff09\u0294](?: ?{_ARMS}{{1,4}})?(?: ?\ufe35)?(?: ?{_TABLE})?"
    rf"|{_TABLE}(?: ?[\ufe35\u30ce])?"
    rf"|[{_DRAWN}\u00b0]_+[{_DRAWN}\u00b0]"
    r"|\u00af[\\_]*\([^()\n]{1,8}\)[/_]*\u00af|\(\u0e07[^()\n]{1,8}\)\u0e07?"
    rf"|(?<![^\s(])(?:[\\m]?\({_EYES}['\";]?\)[/m]?|{_EYES}|\\o/|m\(_ ?_\)m|:-?\*|>:-?[()])(?![^\s.,!?)])"
)
"""Emoticons of signs that are something else elsewhere, and so have to be seen in the text as it was written."""
_MEANT = frozenset("$\u20ac\u00a3\u00a5%@&")
_FLAG = re.compile(r"(?<!\S)(--?)(?=[A-Za-z]\b|(?<=--)[a-z])")
_DEGREES = re.compile("\u00b0 ?([CF])(?![A-Za-z])")
_WITH = re.compile(r"(?<![\w/])(?:[wW]/(o|out)(?!\w) ?|[wW]/(?: +|(?=[a-z]))|w/(?=\d|[A-Z][a-z]))")
_COMMON = {
    "n/a": "N.A",
    "and/or": "and or",
    "c/o": "care of",
    "b/c": "because",
    "i/o": "I.O",
    "a/c": "A.C",
    "tcp/ip": "T.C.P I.P",
    "tl;dr": "T.L.D.R",
    "y/o": "year old",
    "w/e": "whatever",
    "p/p": "per person",
}
_COMMON_FORM = re.compile(r"(?<![\w/])(?:" + "|".join(map(re.escape, _COMMON)) + r")(?![\w/])", re.I)
_PER = re.compile(r"(?<=[a-z])/(?=(?:day|week|month|year|hour|minute|second|night|person|capita)\b)")
_REPEATED = re.compile(r"([$\u20ac\u00a3\u00a5=~#*_^+|/\\<>%@&-])\1{2,}")
_HYPHENS = re.compile(rf" ?-{{2,}} ?| [-{EN_DASH}] |(?<=[a-z]) ?{EN_DASH} ?(?=[A-Za-z])|{EN_DASH}")
_WORD_DASH = re.compile(r"(?<=[A-Za-z])\u2013(?=[A-Za-z])")
_APPROXIMATELY = re.compile(r"(?<![\w)])~ ?(?=\w)")
_MULTIPLIED = re.compile(r"(?<=[\w)]) ?\* ?(?=[\w(])|(?<=\s)\*(?=\s)")
_LONE_CURRENCY = re.compile(r"(?<=[A-Za-z])\$(?=\w)|\$(?=[A-Za-z])")


def take_out_faces(text: str) -> tuple[str, str]:
    """The text as it was written without the emoticons that are drawn with any characters, and these."""
    found: list[str] = []

    def out(match: re.Match[str]) -> str:
        found.append(match[0])
        return " "

    return _FACE.sub(out, text), "".join(found)


def take_out(text: str) -> tuple[str, str]:
    """The text without emoticons, and these."""
    found: list[str] = []

    def out(match: re.Match[str]) -> str:
        found.append(match[0])
        return " "

    return _EMOTICON.sub(out, text), "".join(found)


def say(text: str) -> tuple[str, str]:
    """The text with the signs that have a name in words, and those that stand by themselves, which are left out."""
    alone: list[str] = []
    text = _FLAG.sub(lambda match: f"{'dash ' * len(match[1])}", text)
    text = _REPEATED.sub(lambda match: _repeated(match, alone), text)
    text = _ARROWS.sub(lambda match: " to " if match[0].endswith(">") else " from ", text)
    text = _COMMON_FORM.sub(lambda match: _COMMON[match[0].lower()], text)
    text = _WITH.sub(lambda match: "without " if match[1] else "with ", text)
    text = _PER.sub(" per ", text)
    text = _APPROXIMATELY.sub("about ", text)
    text = _OPERATOR.sub(lambda match: f" {_OPERATOR_WORDS[match[0]]} ", text)
    text = _MULTIPLIED.sub(" times ", text)
    text = _LONE_CURRENCY.sub(" dollar ", text)
    text = _DEGREES.sub(lambda match: f" degrees {'Celsius' if match[1] == 'C' else 'Fahrenheit'}", text)
    text = _GREEK_LETTER.sub(_greek, text)
    text = text.replace(MINUS, " minus ")
    text = _WORD_DASH.sub("-", text)
    text = _HYPHENS.sub(" \u2014 ", text)
    return _SIGN.sub(lambda match: _named(match, alone), text).replace(HARD_SPACE, " "), "".join(alone)


def _greek(match: re.Match[str]) -> str:
    before, after = match.string[: match.start()][-1:], match.string[match.end() : match.end() + 1]
    name = _GREEK[match[1].lower()]
    return f"{' ' if before.isalpha() else ''}{name}{' ' if after.isalpha() else ''}"


def _repeated(match: re.Match[str], alone: list[str]) -> str:
    """Three or more of a sign: a rule that is drawn, or signs that count nothing."""
    if match[1] == "-":
        return " \u2014 "
    if match[1] in _MEANT:
        alone.append(match[0])
    return " "


def _named(match: re.Match[str], alone: list[str]) -> str:
    sign = match[0]
    if sign in _DROPPED:
        if not _DROPPED[sign] and unicodedata.category(sign)[0] != "P":
            alone.append(sign)
        return _DROPPED[sign]
    if sign not in _NAMES:
        alone.append(sign.strip())
        return ""
    text, start, end = match.string, match.start(), match.end()
    if sign in "#*_^~|\\" and not (text[:start].rstrip()[-1:].isalnum() or text[end:].lstrip()[:1].isalnum()):
        alone.append(sign)  # there is nothing that it could be about
        return " "
    return f" {_NAMES[sign]} "
