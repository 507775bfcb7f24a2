"""A base for another codec that keeps the codes of its own: a better decoder, more codebooks, or fewer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from csm_model.bundle import load_weights, read_config, write_bundle
from csm_model.codec import RvqCodec, load_codec
from csm_model.errors import ArtifactError, DigestError, InputError, shown
from csm_model.manifest import Precision, precision_of, read_manifest
from csm_model.model import CsmModel
from csm_model.text import load_tokenizer

_WRITTEN_ANEW = ("digest", "files", "format", "precision", "tokenizer_digest", "codec_digest")


def adapt_base(base: Path, own_codec: Path, codec: Path, out: Path) -> dict[str, Any]:
    """Writes the base to `out` as one that speaks the codes of `codec`; returns its manifest.

    What it knows of the codebooks that both codecs have stays as it is: further ones add nothing to what the backbone
    hears until they are trained, and the depth decoder predicts them last.

    Args:
        base: the bundle, of float weights.
        own_codec: the codec of its codes.
        codec: another, with the same encoder, whose first codebooks are the same.
        out: folder for the bundle.

    Raises:
        InputError: there is no such bundle or codec, or a codec is no `RvqCodec`.
        DigestError: `own_codec` is not the base's.
        ArtifactError: the codecs make other codes of the same sound; or the base's weights are rounded.
    """
    manifest = read_manifest(base)
    before, after = _rvq(own_codec), _rvq(codec)
    if manifest.get("codec_digest") != before.digest:
        raise DigestError(
            f"{own_codec}: codec {before.digest[:12]}, but the base was trained on the codes of "
            f"{shown(manifest.get('codec_digest'))[:12]}; give that one"
        )
    if not after.keeps_codes_of(before):
        raise ArtifactError(
            f"{codec}: makes other codes than {own_codec}, of another encoder or other codebooks; tokenise with it and "
            "train a base from nothing"
        )
    sizes = read_config(base)
    old = load_weights(CsmModel(sizes), base, precision_of(manifest, base)).state_dict()
    model = CsmModel(replace(sizes, num_codebooks=after.num_codebooks))
    state = model.state_dict()
    for name, new in state.items():
        if name == "audio_embeddings.weight":
            new.zero_()
        kept = min(len(new), len(old[name]))
        new[:kept] = old[name][:kept]
    model.load_state_dict(state)
    stored: Precision = "fp16" if manifest["precision"] == "fp16" else "fp32"
    return write_bundle(
        out,
        model=model,
        tokenizer=load_tokenizer(base / "tokenizer.json"),
        codec_folder=codec if (base / "codec").is_dir() else None,
        precision=stored,
        info={
            **{name: value for name, value in manifest.items() if name not in _WRITTEN_ANEW},
            "codec_digest": after.digest,
            "parent_digest": manifest["digest"],
        },
    )


def _rvq(folder: Path) -> RvqCodec:
    codec = load_codec(folder)
    if not isinstance(codec, RvqCodec):
        raise InputError(f"{folder}: is a {type(codec).__name__}; only an RvqCodec can be compared with another")
    return codec
