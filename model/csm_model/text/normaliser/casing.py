"""Initials against shouting: a text gets the same words in whatever case it is written.

What ordinary writing spells is spelled in every case (`fbi`, `FBI`); a word of the dictionary in capitals is that word
(`STOP`), but for the few that are initials too where they stand alone among ordinary words (`the US`, `IT`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from csm_model.text.normaliser.spelling import letters

Known = Callable[[str], bool]
"""Whether the dictionary has a word, in lower case."""

SPELLED = frozenset(
    "abc ac ada api apis aws bbc bbq bff bmw bpm bsd btw cbs cc cd cds ceo ceos cfo cia cio cli cmo cnn cto cpu cpus "
    "css csv cv db dc diy dj dna dns dvd dvds ecg ecb ekg eta etf eu faq faqs fbi fda fm fyi fbi gdp gdpr gmt gps "
    "gpu gpus hbo hd hdmi hiv hq hr html http https hvac ibm id imdb imf ios ip ipo iq irs isp itv iv jfk kfc kgb "
    "lcd led llc llm llms lgbt lgbtq md mba mbps mit mlb mms mp mri msnbc mtv mvp nba nbc nfl ngo ngos nhl nhs npr "
    "nsa nyc nypd nyu ocd os ott pbs pc pcs pdf pdfs phd php pin plc pm pos pr ps ptsd pvc qa qr rfc rgb rip rna rpm "
    "rsvp sdk seo sms sos sql ssd ssh ssl ssn sui suv suvs tba tbd tcp tls tnt tsa tts tv tvs uae ucla udp uefa ufo "
    "ufos uk uae ui un unhcr uri url urls usa usb usd utc utf uv ux vc vcr vhs vip vips vpn vr wc wto wwf www "
    "xml yaml yml".split()
) - frozenset("ada ac cc dj eta id os pin pos pr ps rip sui uefa unhcr yaml led hr iv md db dc un mp fm mit".split())
"""Initials that no ordinary writing means as a word."""
_ALSO_INITIALS = frozenset(
    "US IT WHO AIDS ID HR IV MD DC UN MP FM MIT LED AC PR PS OS PIN POS RIP AD BC AM PM OR IN ME HI OK MA PA AI ER ED "
    "EST EDT PST PDT CST CDT MST MDT CET BST ART DOT EPA ACE SAT CAD COP ROM RAM".split()
)
"""Words of the dictionary that are initials where they stand in capitals among ordinary words."""
_SHORTENED = frozenset("blvd dr ft hwy jr ln lt mr mrs ms mt pkwy rd sgt sr st vs".split())
"""Words that are shortened, with a full stop or without."""
_PRONOUNCED = frozenset(
    "NASA NATO UNESCO UNICEF OPEC ASAP COVID LASER RADAR SCUBA FIFA UEFA GIF JPEG YOLO SWAT NAFTA FEMA IKEA POTUS "
    "SCOTUS NASDAQ SIM RAM ROM PIN JSON BIOS SATA YAML ASCII README".split()
)
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_VOWELS = re.compile("[aeiouyAEIOUY]")
_LONG = 6
"""Letters from which on unknown capitals with vowels are a name in capitals, and no initials."""


def in_ordinary_case(text: str, known: Known) -> str:
    """The text with words in capitals as they are said: in lower case, or left as initials."""
    words = list(_WORD.finditer(text))
    if not any(_is_odd(match[0]) or match[0].lower() in SPELLED or not _VOWELS.search(match[0]) for match in words):
        return text
    before_dot = {match.end() for match in words if text[match.end() : match.end() + 1] == "."}
    shouted = [_is_shouted(match[0], known) for match in words]
    out, end = [], 0
    for place, match in enumerate(words):
        beside = [shouted[at] for at in (place - 1, place + 1) if 0 <= at < len(words)]
        out += [text[end : match.start()], _said(match[0], known, loud=any(beside), short=match.end() in before_dot)]
        end = match.end()
    return "".join([*out, text[end:]])


def _is_odd(word: str) -> bool:
    """Whether a word is neither lower case nor has one capital, its first."""
    return len(word) > 1 and word[1:] != word[1:].lower()


def _is_shouted(word: str, known: Known) -> bool:
    return (
        len(word) > 1
        and word.isupper()
        and word.lower() not in SPELLED
        and word not in _ALSO_INITIALS
        and word not in _PRONOUNCED
        and known(word.lower())
    )


def _said(word: str, known: Known, *, loud: bool, short: bool) -> str:
    """A word as it is said; `loud` beside words that are shouted, `short` before a full stop, which may shorten it."""
    lower = word.lower()
    stem, quote, ending = lower.partition("'")
    if stem in SPELLED:
        one = stem[:-1] if stem.endswith("s") and stem[:-1] in SPELLED else stem
        if word.isupper() and one == stem:
            return word
        return f"{one.upper()}{'s' if one != stem else ''}{quote}{ending}"
    if len(stem) > 1 and not _VOWELS.search(stem):  # initials, or a noise: tsk, hmm
        if quote or known(lower) or short or lower in _SHORTENED or len(stem) >= _LONG or len(set(stem)) < len(stem):
            return word
        return word if word.isupper() else letters(stem)
    if not _is_odd(word):
        return word
    if not word.isupper():
        if word[0].islower() and word[1:].isupper() and len(word) >= _LONG:
            return lower
        if quote or not known(lower) or word[:-1].isupper():
            return word
        return lower
    if word in _PRONOUNCED:
        return lower
    if loud or (known(lower) and word not in _ALSO_INITIALS):
        return lower if known(lower) or (len(stem) >= _LONG - 1 and _VOWELS.search(stem)) else word
    if len(stem) >= _LONG and _VOWELS.search(stem):
        return lower
    return word
