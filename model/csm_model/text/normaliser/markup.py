"""Markup down to the words: HTML and SSML tags, entities, Markdown.

A tag is never read aloud. `<break>` becomes a pause, block tags end a sentence, links and pictures are their words, and
nothing that a caller writes in brackets or parentheses says how a word is pronounced. Every expression here takes time
that grows with the text's length, or with its square for marks that are opened and never closed; texts are short.
"""

from __future__ import annotations

import html
import re

from csm_model.frames import FRAME_RATE
from csm_model.text.normaliser.characters import clean

FIRST_PAUSE = 0xE000
"""A pause of n frames is the character of this number plus n; nothing else leaves `characters.clean` that looks so."""
LONGEST_PAUSE_S = 10.0
"""Seconds of the longest pause that a tag may ask for."""
PAUSES = re.compile("[\ue000-\ue0fe]")
_ESCAPED = 0xE100
"""An escaped sign is the character of this number plus its own until all marks are gone."""
_UNESCAPED = {_ESCAPED + code: chr(code) for code in range(128)}
_STRENGTHS = {"none": 0.0, "x-weak": 0.08, "weak": 0.16, "medium": 0.4, "strong": 0.8, "x-strong": 1.2}

_KNOWN = frozenset(
    "a abbr acronym address amp area article aside audio b base bdi bdo big blink blockquote body br break button "
    "canvas caption center circle cite code col colgroup data datalist dd del desc details dfn dialog dir div dl dt "
    "em embed emotion emphasis express-as fieldset figcaption figure font footer form frame g h1 h2 h3 h4 h5 h6 head "
    "header hr html i iframe img input ins kbd label lang legend lexicon li link main map mark mark marquee media "
    "meta meter mstts nav nobr noscript object ol optgroup option output p param path phoneme picture pre progress "
    "prosody q rect rp rt ruby s samp say-as script section select seq small source span speak speed strike strong "
    "style sub summary sup svg table tbody td template text textarea tfoot th thead time title token tr track tt u "
    "ul var video voice volume w wbr par metadata lookup".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body br center dd details div dl dt fieldset figcaption figure footer form h1 "
    "h2 h3 h4 h5 h6 header hr legend li main nav ol option p pre s section summary table tbody tfoot thead title tr "
    "ul".split()
)
_CELLS = frozenset("td th".split())

_COMMENT = re.compile(r"<!--(?:(?!-->).)*-->|<!\[CDATA\[|\]\]>|<!DOCTYPE[^<>]*>|<\?[^<>]*\?>", re.S | re.I)
_UNSAID = re.compile(r"<(script|style)\b[^<>]*>(?:(?!</\1).)*</\1\s*>", re.S | re.I)
_AUTOLINK = re.compile(r"<((?:https?|ftp)://[^<>\s]+|(?:mailto:)?[\w.+-]+@[\w.-]+)>", re.I)
_TAG = re.compile(r"<(?P<close>/?)(?P<name>[A-Za-z][\w:.-]*)(?P<rest>(?:\s(?:\"[^\"]*\"|'[^']*'|[^<>\"'])*|/)?)>")
_TORN_TAG = re.compile(
    r"</?(?:speak|break|prosody|voice|audio|say-as|emphasis|phoneme|sub|mark|img|div|span|script|style|lexicon|par|media"
    r"|iframe|input|button|table)(?:\s[^<>]*)?/?$",
    re.I,
)
"""A tag that the text ends in."""
_ATTRIBUTES = re.compile(r"(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'=<>`]+))*\s*/?\s*")
_TIME = re.compile(r"\btime\s*=\s*[\"']?\s*\+?(\d{1,6}(?:\.\d{1,6})?|\.\d{1,6})\s*(ms|s)\b", re.I)
_STRENGTH = re.compile(r"\bstrength\s*=\s*[\"']?\s*([a-z-]+)", re.I)

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_IMAGE = re.compile(r"!\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])")
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()]*(?:\([^()]*\)[^()]*)*\)")
_OPEN_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*(?=\s|$)")
_REFERENCE = re.compile(r"\[([^\[\]]+)\]\[[^\[\]]*\]")
_FOOTNOTE = re.compile(r"\[\^[^\[\]\s]*\]:?")
_DEFINITION = re.compile(r"^ {0,3}\[[^\[\]]+\]:[ \t]+\S+[^\n]*$", re.M)
_TASK = re.compile(r"^(\s*(?:[-*+]|\d+[.)])\s+)\[[ xX]\]\s", re.M)
_FENCE = re.compile(r"(?:^|(?<=\s))(?:```|~~~)(?:[A-Za-z][\w+#-]*(?=\s|$))?")
_TABLE_RULE = re.compile(r"\|?(?:\s*:?-{2,}:?\s*\|)+(?:\s*:?-{2,}:?)?")
_RULE = re.compile(r"^[ \t]*(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|={3,})[ \t]*$", re.M)
_HEADING = re.compile(r"^\s{0,3}#{1,6}[ \t]+([^\n]*?)[ \t]*#*[ \t]*$", re.M)
_QUOTE = re.compile(r"^[ \t]*(?:>[ \t]?)+(?![ \t]*[\d=])", re.M)
_BULLET = re.compile(
    "^[ \t]*(?!\\+[ \t]+\\d)[-*+\u2022\u2023\u25aa\u25ab\u25cf\u25e6\u25cb\u2043\u2013\u00b7][ \t]+(?=\\S)", re.M
)
_INLINE_BULLET = re.compile("\\s[\u2022\u2023\u25aa\u25ab\u25cf\u25e6\u25cb\u00b7]\\s")
_ESCAPE = re.compile(r"\\([!\"#$%&'()*+,./:;<=>?@\[\]^_`{|}~-])")
_TICK = re.compile(r"(?<=[A-Za-z])`(?=[A-Za-z])")
_CODE = re.compile(r"`+")
_STRUCK = re.compile(r"~~+")
_STARS = re.compile(r"(?<![\w*)\]])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w*(\[$])")
_BETWEEN_LETTERS = re.compile(r"(?<=[A-Za-z]{2})\*{1,3}(?=[A-Za-z])|(?<=[A-Za-z])\*{1,3}(?=[A-Za-z]{2})")
_UNDERSCORES = re.compile(r"(?<![^\W_])_{1,3}(?=[^\s_])|(?<=[^\s_])_{1,3}(?![^\W_])")


def pause(seconds: float) -> str:
    """The character that stands for a pause; nothing for none."""
    frames = round(min(seconds, LONGEST_PAUSE_S) * FRAME_RATE)
    return f" {chr(FIRST_PAUSE + frames)} " if frames else " "


def strip(text: str) -> tuple[str, str]:
    """The words and signs of a text with markup, and the unknown tags that were taken out."""
    unknown: list[str] = []
    if "<" in text:
        text = _COMMENT.sub(" ", text)
        text = _UNSAID.sub(" ", text)
        text = _AUTOLINK.sub(r"\1", text)
        text = _TAG.sub(lambda match: _tag(match, unknown), text)
        text = _TORN_TAG.sub(lambda match: _unknown(match, unknown), text)
    if "&" in text and ";" in text:
        text = _ENTITY.sub(_character, _ENTITY.sub(_character, text))  # some programs escape twice
    return _markdown(text), "".join(unknown)


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for, as any other character: no entity is a pause."""
    return clean(html.unescape(entity[0]))


def _unknown(tag: re.Match[str], unknown: list[str]) -> str:
    unknown.append(tag[0])
    return " "


def _tag(match: re.Match[str], unknown: list[str]) -> str:
    name, rest, text = match["name"].lower().rsplit(":", 1)[-1], match["rest"], match.string
    if name not in _KNOWN:
        before = text[match.start() - 1] if match.start() else " "
        if (before.isalnum() and not match["close"]) or not _ATTRIBUTES.fullmatch(rest):
            return match[0]
        return _unknown(match, unknown)
    if name == "break":
        if match["close"]:
            return ""
        time, strength = _TIME.search(rest), _STRENGTH.search(rest)
        if time:
            return pause(float(time[1]) / (1000 if time[2].lower() == "ms" else 1))
        return pause(_STRENGTHS.get(strength[1].lower() if strength else "medium", _STRENGTHS["medium"]))
    if name in _CELLS:
        return ", " if match["close"] else " "
    if name in _BLOCKS:
        before = text[: match.start()].rstrip()[-1:]
        return ". \n" if before and (before.isalnum() or before in ")\"'") else " \n"
    return ""


def _markdown(text: str) -> str:
    if "\\" in text:
        text = _ESCAPE.sub(lambda match: chr(_ESCAPED + ord(match[1])), text)
    if "[" in text:
        text = _DEFINITION.sub("", text)
        text = _TASK.sub(r"\1", text)
        text = _FOOTNOTE.sub("", text)
        text = _IMAGE.sub(r"\1", text)
        text = _LINK.sub(r"\1", text)
        text = _OPEN_LINK.sub(r"\1", text)
        text = _REFERENCE.sub(r"\1", text)
    if "```" in text or "~~~" in text:
        text = _FENCE.sub(" ", text)
    if "|" in text:
        text = _TABLE_RULE.sub(" ", text)
        text = re.sub(r"(?<!\|)\|(?!\|)", ", ", text)
    text = _RULE.sub("", text)
    if "#" in text:
        text = _HEADING.sub(lambda match: match[1] + ("" if not match[1][-1:].isalnum() else "."), text)
    if ">" in text:
        text = _QUOTE.sub("", text)
    text = _BULLET.sub("", text)
    text = _INLINE_BULLET.sub(", ", text)
    if "`" in text:
        text = _CODE.sub("", _TICK.sub("'", text))
    if "~~" in text:
        text = _STRUCK.sub("", text)
    if "*" in text:
        text = _BETWEEN_LETTERS.sub("", _STARS.sub("", text))
    if "_" in text:
        text = _UNDERSCORES.sub("", text)
    return text.translate(_UNESCAPED)
