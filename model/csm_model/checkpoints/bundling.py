"""A checkpoint as a bundle: weights with the tokenizer and the codec that it speaks with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from csm_model.bundle import ROUNDED, check_fit, write_bundle
from csm_model.checkpoints.loading import load_model
from csm_model.checkpoints.sizes import Rope
from csm_model.codec import load_codec
from csm_model.manifest import Precision
from csm_model.text import load_tokenizer

RELEASED = {"temperature": 0.9, "depth_temperature": 0.9, "top_k": 50}
"""The sampling of Sesame's own generator (csm/generator.py)."""


def bundle_checkpoint(
    source: Path,
    out: Path,
    *,
    tokenizer: Path,
    codec: Path,
    prompt: str | None = None,
    precision: Precision = "bf16",
    rope: Rope | None = None,
) -> dict[str, Any]:
    """Writes a bundle of a checkpoint in any layout and returns its manifest.

    Args:
        source: the checkpoint.
        out: folder of the bundle.
        tokenizer: `tokenizer.json` of the program that the checkpoint comes from, or of this one.
        codec: codec folder (`codec.json`).
        prompt: how the text is put, where the tokenizer's file does not say: sesame or miso.
        precision: of the weights.
        rope: what a config.json without `rope_scaling` means.

    Raises:
        InputError, ArtifactError: of any part; or the parts do not fit one another.
    """
    model = load_model(source, rope=rope)
    reader, sound = load_tokenizer(tokenizer, prompt=prompt), load_codec(codec)
    sizes = model.config
    check_fit(sizes, reader, sound, where=str(source))
    model.config = replace(sizes, text_prefix=reader.text_prefix)
    if precision in ROUNDED:
        model.float()
    return write_bundle(
        out,
        model=model,
        tokenizer=reader,
        codec_folder=codec,
        precision=precision,
        info={"speakers": {}, "sampling": RELEASED},
    )
