"""Codecs: sound to frames of codes and back."""

from __future__ import annotations

from pathlib import Path

from csm_model.codec.base import AudioCodec, SlotDecoder, StreamingDecoder
from csm_model.codec.rvq import RvqCodec
from csm_model.codec.rvq_network import RvqConfig
from csm_model.errors import ArtifactError, quoted
from csm_model.files import read_json

__all__ = ["AudioCodec", "RvqCodec", "RvqConfig", "SlotDecoder", "StreamingDecoder", "load_codec"]


def load_codec(folder: Path) -> AudioCodec:
    """Loads the codec in `folder`, whose `codec.json` says of which kind it is (`rvq` or `mimi`)."""
    stored = read_json(folder / "codec.json")
    kind = stored.get("kind") if isinstance(stored, dict) else None
    if kind == "rvq":
        return RvqCodec.load(folder)
    if kind == "mimi":
        from csm_model.codec.mimi import MimiCodec

        return MimiCodec.load(folder)
    raise ArtifactError(f"{folder / 'codec.json'}: kind {quoted(kind)} is not a codec; it must be 'rvq' or 'mimi'")
