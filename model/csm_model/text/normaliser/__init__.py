"""A text as it was written to the words that are said: numbers, signs, markup and all.

`read_text` is the way through, one module a subject:

    symbols     emoticons out, first; at the end signs by their names
    characters  composed, look-alikes as one, invisible signs gone
    tex         formulas
    markup      tags, entities, Markdown; pauses
    streets     streets, buildings, directions
    addresses   URLs, e-mail, files, handles, versions
    codes       telephone numbers, ZIP codes and the like, digit by digit
    numbers     one way of writing; fractions, powers; what stands alone
    dates       dates, times, years
    quantities  money, units, percent
    units       their names
    casing      initials against shouting

What comes out are letters and punctuation alone: no digit, no sign with a meaning, no bracket. It is read as itself:
the same words come of it again. What has no words (another script, emoji, a sign by itself) is left out and told.
"""

from __future__ import annotations

from csm_model.text.normaliser.casing import Known
from csm_model.text.normaliser.reading import RULES, Passage, Reading, read_markup, read_text

__all__ = ["RULES", "Known", "Passage", "Reading", "read_markup", "read_text"]
