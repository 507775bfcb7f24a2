"""Marks of a text that nobody has said: a recogniser that hears noise, music or nothing writes such.

The marks and their bounds are those by which Granary was cleaned (NeMo Speech Data Processor, Apache-2.0): words said
over and over, a word too long to be one, phrases out of the subtitles that recognisers have learned from.
"""

from __future__ import annotations

import re
from typing import Any

from csm_components.ingest.checks import plain_text

FEW_WORDS = 8
"""A text of fewer words may repeat itself as people do ("no no no no")."""
STOCK_PHRASES = (
    "thank you for watching",
    "thanks for watching",
    "thank you so much for watching",
    "please subscribe",
    "subscribe to my channel",
    "subscribe to the channel",
    "like and subscribe",
    "dont forget to subscribe",
    "see you in the next video",
    "see you next video",
    "subtitles by",
    "subtitled by",
    "captions by",
    "captioning by",
    "transcribed by",
    "transcription by",
    "translated by",
    "amara org",
    "untertitel von",
    "untertitel der",
    "untertitelung des zdf",
    "vielen dank fürs zuschauen",
    "sous titres réalisés par",
    "sous titrage",
    "merci d avoir regardé",
    "gracias por ver",
    "suscríbete al canal",
    "subtítulos por",
    "titulky vytvořil",
)
"""Plain text (see `plain_text`) of what stands under films, in the languages that this is told to happen in."""
_STOCK = re.compile(rf"\b(?:{'|'.join(map(re.escape, STOCK_PHRASES))})\b")


def marks_of_invention(text: str) -> dict[str, Any]:
    """`unique_words` (share; of texts of eight words or more), `longest_word` (letters), `stock_phrase` (which)."""
    plain = plain_text(text.replace("'", "").replace("\u2019", ""))
    words = plain.split()
    if not words:
        return {}
    marks: dict[str, Any] = {"longest_word": max(map(len, words))}
    if len(words) >= FEW_WORDS:
        marks["unique_words"] = round(len(set(words)) / len(words), 3)
    if found := _STOCK.search(plain):
        marks["stock_phrase"] = found[0]
    return marks
