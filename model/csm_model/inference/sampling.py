"""How codes are drawn: settings; `csm_model.inference.draws` draws by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from csm_model.rules import check_fields


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How codes are drawn; raises `InputError` for a value of another type or beyond its bounds."""

    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    """Of codebook 0; 0 takes the most likely code."""
    depth_temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    """Of the other codebooks."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 50
    """Only so many of the most likely codes are drawn from; 0 for all."""
    guidance: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Classifier-free guidance of codebook 0 towards the text; 1 is none ([Ho and Salimans 2022](https://arxiv.org/abs/2207.12598))."""
    depth_guidance: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Of the other codebooks, where codebook 0 is guided; 1 is none."""
    depth_mean: Annotated[int, Field(ge=0, le=256)] = 0
    """Of so many codebooks after the first no code is drawn, but the one is taken that is nearest to the mean of all
    by their odds at `depth_temperature`. Where the codec does not tell its entries they are drawn."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The same seed gives the same speech."""

    def __post_init__(self) -> None:
        check_fields(self)
