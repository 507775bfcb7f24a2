"""Marks that say that a sound was made by a model, and how they are found again."""

from __future__ import annotations

from pathlib import Path

from csm_model.errors import InputError
from csm_model.watermark.base import Detector, Finding, Report, SlotMarker, Watermark

__all__ = ["Detector", "Finding", "Report", "SlotMarker", "Watermark", "open_detector", "open_watermark"]

_KINDS = "perth, perth:<payload 0 to 65535>, silentcipher:<folder> or off"


def open_watermark(spec: str, *, key: str | None = None) -> Watermark | None:
    """The watermark that a setting names; None for `off`.

    Args:
        spec: `perth` (payload 0), `perth:<payload>`, `silentcipher:<folder of weights>` or `off`.
        key: secret of the payload's comb, hexadecimal; None: the public one.

    Raises:
        InputError: another name, a payload of more than 16 bits, a bad key, a folder without weights.
    """
    kind, _, rest = spec.partition(":")
    if spec in ("off", "none"):
        return None
    if kind == "perth" and (not rest or rest.isdecimal()) and not spec.endswith(":"):
        from csm_model.watermark.fixed import FixedMark

        return FixedMark(int(rest or 0), _key(key))
    if kind == "silentcipher" and rest:
        from csm_model.watermark.silentcipher import SilentCipher

        return SilentCipher(Path(rest))
    raise InputError(f"watermark {spec!r}: must be {_KINDS}")


def open_detector(spec: str = "perth", *, key: str | None = None) -> Detector:
    """What finds the marks of `open_watermark(spec)`; the payload in `spec` does not matter.

    Raises:
        InputError: as `open_watermark`.
        MissingDependencyError: resemble-perth is not installed.
    """
    watermark = open_watermark(spec, key=key)
    if watermark is None:
        raise InputError(f"watermark {spec!r}: there is nothing to find; give {_KINDS.removesuffix(' or off')}")
    if spec.partition(":")[0] == "silentcipher":
        from csm_model.watermark.silentcipher import SilentCipher

        assert isinstance(watermark, SilentCipher)
        return watermark
    from csm_model.watermark.fixed import FixedDetector

    return FixedDetector(_key(key))


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < 16:
        raise InputError("the watermark's key must be 32 hexadecimal digits or more; make one: openssl rand -hex 32")
    return key
