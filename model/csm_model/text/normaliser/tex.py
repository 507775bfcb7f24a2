r"""Mathematics as TeX writes it, between `$`, `$$`, `\(`, `\[` or as a command by itself, in signs and words.

What is mathematics and what is money is told as pandoc does (its extension `tex_math_dollars`): a `$` that opens has no
space after it, one that closes none before it and no digit after it; and words of ordinary writing are not between.
Commands become the sign that they stand for where there is one, which is read as any other; of others the name is said.
"""

from __future__ import annotations

import re

from csm_model.text.normaliser.characters import FRACTION_SLASH, MINUS
from csm_model.text.normaliser.spelling import letters, number, ordinal, quantity

_LONGEST = 200
"""Characters of a formula; what is between signs further apart is none."""
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)
_COMMANDS = {
    **{name: f" {name.lower()} " for name in _GREEK},
    **{f"var{name}": f" {name} " for name in ("epsilon", "theta", "pi", "rho", "sigma", "phi")},
    "times": "\u00d7", "cdot": "\u00d7", "ast": "\u00d7", "div": "\u00f7", "pm": "\u00b1", "mp": "\u2213",
    "leq": "\u2264", "le": "\u2264", "geq": "\u2265", "ge": "\u2265", "neq": "\u2260", "ne": "\u2260",
    "ll": "\u226a", "gg": "\u226b", "lt": " less than ", "gt": " greater than ", "approx": "\u2248", "sim": "\u2248",
    "simeq": "\u2248", "equiv": "\u2261", "propto": "\u221d", "infty": "\u221e", "partial": "\u2202",
    "nabla": "\u2207", "in": "\u2208", "notin": "\u2209",
    "subset": "\u2282", "subseteq": "\u2282", "cup": "\u222a",
    "cap": "\u2229", "emptyset": "\u2205", "forall": "\u2200",
    "exists": "\u2203", "neg": "\u00ac", "land": "\u2227", "wedge": "\u2227", "lor": "\u2228", "vee": "\u2228",
    "to": "\u2192", "rightarrow": "\u2192", "leftarrow": "\u2190", "mapsto": "\u21a6", "Rightarrow": "\u21d2",
    "implies": "\u21d2", "iff": "\u21d4", "Leftrightarrow": "\u21d4", "circ": "\u00b0", "degree": "\u00b0",
    "therefore": "\u2234", "because": "\u2235", "perp": "\u22a5", "angle": "\u2220", "prime": "\u2032",
    "ldots": "\u2026", "cdots": "\u2026", "dots": "\u2026", "log": " log ", "ln": " L.N ", "exp": " exp ",
    "sin": " sine ", "cos": " cosine ", "tan": " tangent ", "lim": " limit ", "max": " max ", "min": " min ",
    "gcd": " G.C.D ", "det": " determinant ", "mod": " mod ", "bmod": " mod ", "pmod": " mod ", "hbar": " h bar ",
    "ell": " l ", "mid": " given ",
}  # fmt: skip
"""A command to its sign or words."""
_SILENT = frozenset(
    "left right big Big bigg Bigg bigl bigr quad qquad displaystyle textstyle limits nolimits text mathrm mathbf "
    "mathit mathsf mathcal mathbb boldsymbol operatorname textbf textit textrm emph mbox boxed underbrace overbrace "
    "begin end nonumber label hline hspace vspace phantom".split()
)
"""Commands of how a formula looks; what they hold is read."""
_UNREAD = frozenset("begin end label hspace vspace phantom".split())
"""Commands that hold nothing that is read."""
_OVER = {"hat": "hat", "bar": "bar", "overline": "bar", "vec": "vector", "dot": "dot", "tilde": "tilde"}
_FRACTIONS = frozenset("frac dfrac tfrac cfrac".split())
_ROOTS = {"2": "square", "3": "cube"}
_FROM = {"sum": "sum", "prod": "product", "int": "integral"}
"""Commands with limits below and above."""
_SIGNS = {"-": MINUS, "/": " over ", "'": " prime ", "!": " factorial ", "|": " ", "&": " ", "~": " ", "*": "\u00d7",
          "<": " less than ", ">": " greater than ", "[": "(", "]": ")", "}": " "}  # fmt: skip
_ESCAPED = {"\\": ", ", "%": " percent ", "$": " dollars ", "&": " and ", "#": " number "}
_FUNCTIONS = frozenset("sin cos tan log ln exp max min lim mod gcd det".split())
_POWERS = {"two": "squared", "three": "cubed", "\u00b0": "degrees", "\u2032": "prime", "\u00d7": "star"}

_BODY = rf"(?:(?!\n\n)[^$]){{1,{_LONGEST}}}?"
_FORMULA = re.compile(
    rf"\$\$(?P<block>{_BODY})\$\$"
    rf"|(?<![\w$\\])\$(?=[^\s$])(?!\d+(?:[.,]\d+)*[kKmMbB]?[\s.,;:!?])(?P<line>{_BODY})(?<![\s\\])\$(?![\w$])"
    rf"|\\\((?P<round>{_BODY})\\\)|\\\[(?P<square>{_BODY})\\\]"
    rf"|\\begin\{{(?P<name>equation|align|gather|math|displaymath|eqnarray)(?P<star>\*?)\}}(?P<body>{_BODY})"
    r"\\end\{(?P=name)(?P=star)\}"
)
_ARGUMENT = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,80}\}){0,80}\}){0,80}\}"
_ALONE = re.compile(
    r"(?P<path>(?<!\w)[A-Za-z]:\\\S*|\\\\[\w.-]+\\\S*)"
    rf"|\^\{{?\\circ\b\}}?|\\{{1,2}}(?:(?:frac|dfrac|tfrac|cfrac)(?:{_ARGUMENT}){{2}}|sqrt(?:\[\w{{1,3}}\])?{_ARGUMENT}"
    rf"|(?:{'|'.join([*_OVER, 'text', 'textbf', 'textit', 'emph', 'mathrm', 'mathbf', 'mathbb'])}){_ARGUMENT}"
    rf"|(?:{'|'.join([*_COMMANDS, *_FROM])})(?![A-Za-z\\.]))"
)
"""A command outside of formulas, unless it is a part of a path."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_HELD = re.compile(r"\\(?:text|mathrm|operatorname|mbox|textbf|textit)\{[^{}]*\}|\\[A-Za-z]+\*?|\{[A-Za-z*]+\}")
_WORD = re.compile(
    r"[A-Za-z]{4,}|(?<!\S)(?:an|and|are|at|but|for|from|i'm|in|is|it|my|not|of|on|or|per|the|to|us|vs|was|we|you)(?!\S)",
    re.I,
)
"""A word of ordinary writing."""
_TOKEN = re.compile(
    r"\\(?P<name>[A-Za-z]+)\*?|\\(?P<sign>.)|(?P<digits>\d+(?:,\d{3})*(?:\.\d+)?)|(?P<letters>[A-Za-z]+)|(?P<one>.)",
    re.S,
)
_MIXED = re.compile(r"(?:(\d{1,4})\s*)?\\[dtc]?frac\{(\d{1,4})\}\{(\d{1,4})\}|(?<![\d)])()(\d{1,4})/(\d{1,4})(?!\d)")
"""A fraction of numbers, with a whole one before it or none."""
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|emph|mathrm|operatorname|mbox)\*?\{([^{}]*)\}")
_DEGREE = re.compile(r"\[([A-Za-z]|\d{1,2})\]")
_LOWER = re.compile(r"(?:\\limits)?_")
_UPPER = re.compile(r"\^")
_BEFORE_CLOSE = re.compile(r" (?=[),])")
_GAPS = re.compile(r"\s+")


def say(text: str) -> str:
    """The text with its formulas in signs and words."""
    if "$" in text or "\\" in text:
        text = _FORMULA.sub(_formula, text)
    return _ALONE.sub(_command, text) if "\\" in text else text


def _command(match: re.Match[str]) -> str:
    """A command by itself; programs write its backslash twice."""
    return match[0] if match["path"] else f" {_said(match[0].replace(chr(92) * 2, chr(92)))} "


def _formula(match: re.Match[str]) -> str:
    body = match["block"] or match["line"] or match["round"] or match["square"] or match["body"] or ""
    if match["line"] and _NUMBER.fullmatch(body):
        return body
    return f" {_said(body)} " if _is_mathematics(body) else match[0]


def _is_mathematics(body: str) -> bool:
    """Whether there is a letter or command in it, and no word of ordinary writing."""
    words = (match[0] for match in _WORD.finditer(_HELD.sub(" ", body)))
    return bool(re.search(r"[A-Za-z\\]", body)) and all(word in _FUNCTIONS for word in words)


def _said(body: str) -> str:
    return _Formula(body).said()


class _Formula:
    """A formula that is read token by token."""

    def __init__(self, body: str) -> None:
        self._body = body
        self._tokens = list(_TOKEN.finditer(body))
        self._at = 0

    def said(self) -> str:
        """The signs and words of all of it."""
        parts = []
        while self._at < len(self._tokens):
            parts.append(self._group())  # what a lone `}` ends is read on
        return _BEFORE_CLOSE.sub("", _GAPS.sub(" ", "".join(parts))).strip()

    def _group(self) -> str:
        """What is up to the next `}` or the end."""
        parts = []
        while self._at < len(self._tokens):
            if self._tokens[self._at][0] == "}":
                self._at += 1
                break
            parts.append(self._item())
        return "".join(parts)

    def _argument(self) -> str:
        """The next group in braces, or the next sign."""
        while self._at < len(self._tokens) and self._tokens[self._at][0].isspace():
            self._at += 1
        return self._item().strip() if self._at < len(self._tokens) else ""

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What fits a pattern from here on, which is then read."""
        place = self._tokens[self._at].start() if self._at < len(self._tokens) else len(self._body)
        match = pattern.match(self._body, place)
        while match and self._at < len(self._tokens) and self._tokens[self._at].start() < match.end():
            self._at += 1
        return match

    def _item(self) -> str:
        if mixed := self._take(_MIXED):
            whole, above, below = mixed.groups()[:3] if mixed[2] else mixed.groups()[3:]
            return f" {whole or ''} {above}{FRACTION_SLASH}{below} "
        if words := self._take(_TEXT):
            return f" {words[1]} "
        token = self._tokens[self._at]
        self._at += 1
        if token["name"]:
            return self._command(token["name"])
        if token["sign"]:
            return _ESCAPED.get(token["sign"], " ")
        if token["digits"]:
            return f" {number(token[0]) if ',' in token[0] else quantity(token[0])} "
        if token["letters"]:
            if token[0] in _FUNCTIONS:
                return _COMMANDS[token[0]]
            return "".join(f" {letters(one) if one in 'aA' else one} " for one in token[0])
        if token[0] == "{":
            return self._group()
        if token[0] == "^":
            power = self._argument()
            return f" {_POWERS[power]} " if power in _POWERS else f" to the power of {power} " if power else " "
        return f" {self._argument()} " if token[0] == "_" else _SIGNS.get(token[0], token[0])

    def _command(self, name: str) -> str:
        if name in _FRACTIONS:
            above, below = self._argument(), self._argument()
            return f" {above} over {below} "
        if name == "sqrt":
            degree = match[1] if (match := self._take(_DEGREE)) else "2"
            root = _ROOTS.get(degree) or (ordinal(degree) if degree.isdigit() else f"{degree}-th")
            return f" {root} root of {self._argument()} "
        if name in _FROM:
            return self._limits(_FROM[name])
        if name == "lim" and self._take(_LOWER):
            return f" limit as {self._argument().replace(_COMMANDS['to'], ' goes to ')} of "
        if name == "log" and self._take(_LOWER):
            return f" log base {self._argument()} "
        if name in _OVER:
            return f" {self._argument()} {_OVER[name]} "
        if name in _UNREAD:
            self._argument()
        return _COMMANDS.get(name) or (" " if name in _SILENT else f" {name} ")

    def _limits(self, name: str) -> str:
        said = f" {name}"
        if self._take(_LOWER):
            said += f" from {self._argument()}"
        if self._take(_UPPER):
            said += f" to {self._argument()}"
        return f"{said} of "
