"""The language of a text, by lingua's n-gram models (Apache-2.0), which come inside its package."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from csm_components.ingest.checks import plain_text
from csm_model.errors import MissingDependencyError

LANGUAGES = tuple("ar cs da de el en es fi fr hi hu it ja ko nl pl pt ro ru sv th tr uk vi zh".split())
"""Those told apart, by their codes of ISO 639-1; a text of another is taken for one of them, with little certainty."""
SHORTEST = 16
"""Letters, or so many bytes of them in other scripts, below which a text has no language of its own: "no" has many."""


class TextLanguage(NamedTuple):
    """The language of a text."""

    code: str
    certainty: float
    """0 to 1."""


@cache
def _detector() -> Any:
    """About 0.5 GB where texts of all languages come; 0.3 ms a text."""
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder
    except ImportError:
        raise MissingDependencyError("package lingua is not installed; install csm-foundry[eval]") from None
    codes = [getattr(IsoCode639_1, code.upper()) for code in LANGUAGES]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()


def language_of_text(text: str) -> TextLanguage | None:
    """The language of a text; None for one that is too short to tell."""
    if len(plain_text(text).replace(" ", "").encode()) < SHORTEST:
        return None
    best = _detector().compute_language_confidence_values(text)[0]
    code = best.language.iso_code_639_1.name.lower()
    return TextLanguage(code, round(float(best.value), 3)) if best.value > 0 else None
