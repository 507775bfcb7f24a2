"""Kubernetes' quantities, to the thousandth."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from csm_model.errors import ArtifactError

_FORM: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(m|k|M|G|Ki|Mi|Gi)?")
_SCALE: Final = {
    None: 1000, "m": 1, "k": 10**6, "M": 10**9, "G": 10**12, "Ki": 1024_000, "Mi": 1024**2 * 1000, "Gi": 1024**3 * 1000,
}  # fmt: skip


def thousandths(text: str | float) -> int:
    """A quantity such as `700m`, `0.7` or `2`, in thousandths, rounded up as Kubernetes does.

    Raises:
        ArtifactError: not a quantity.
    """
    found = _FORM.fullmatch(str(text).strip())
    if found is None:
        raise ArtifactError(f"quantity {text!r}: must be a number such as 0.7, 700m or 2")
    exact = Decimal(found[1]) * _SCALE[found[2]]
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def milli(value: float) -> int:
    """A measured number in thousandths, cut off as KEDA's `GenerateMetricInMili` does."""
    return int(value * 1000)
