"""Export: int8 weights, every digest handed on, nothing done twice, nothing made of a damaged parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from csm_components.export.step import export
from csm_model.bundle import load_bundle, read_manifest, write_bundle
from csm_model.codec import RvqCodec
from csm_model.config import debug_config
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer


@pytest.fixture
def parent(tmp_path: Path, debug_codec: Path) -> Path:
    tokenizer, codec = PhonemeTokenizer(), RvqCodec.load(debug_codec)
    torch.manual_seed(0)
    config = debug_config(
        text_vocab_size=tokenizer.vocab_size, num_codebooks=codec.num_codebooks, codebook_size=codec.codebook_size
    )
    write_bundle(
        tmp_path / "final",
        model=CsmModel(config).eval(),
        tokenizer=tokenizer,
        codec_folder=debug_codec,
        precision="fp32",
        info={
            "dataset_digest": "d" * 64,
            "parent_digest": "b" * 64,
            "speakers": {"0": "heart"},
            "recipe": {"steps": 4},
        },
    )
    return tmp_path / "final"


def test_the_bundle_is_smaller_names_its_parent_and_speaks(parent: Path, tmp_path: Path) -> None:
    result = export(parent, tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    theirs = read_manifest(parent)
    assert result.megabytes < result.parent_megabytes
    assert (result.digest, result.parent_digest) == (manifest["digest"], theirs["digest"])
    assert (manifest["precision"], manifest["parent_digest"], manifest["base_digest"]) == (
        "int8",
        theirs["digest"],
        "b" * 64,
    )
    assert {
        key: manifest[key] for key in ("dataset_digest", "codec_digest", "tokenizer_digest", "speakers", "recipe")
    } == {key: theirs[key] for key in ("dataset_digest", "codec_digest", "tokenizer_digest", "speakers", "recipe")}
    assert load_bundle(tmp_path / "bundle").speakers == {0: "heart"}

    assert export(parent, tmp_path / "bundle").reused
    (tmp_path / "bundle" / "tokenizer.json").write_text("{}")
    assert not export(parent, tmp_path / "bundle").reused, "a damaged bundle is made again"
    assert not export(parent, tmp_path / "bundle", precision="fp16").reused


@pytest.mark.parametrize(("value", "precisions"), [(1e30, ("fp16", "int8", "int4")), (7e4, ("fp16",))])
def test_weights_that_a_precision_cannot_hold_are_refused(
    value: float, precisions: tuple[str, ...], parent: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(parent, kernels=False)
    with torch.no_grad():
        bundle.model.text_embeddings.weight[-1] = value
        bundle.model.projection.weight[0] = 7e4
    told: dict[str, Any] = {"tokenizer": bundle.tokenizer, "codec_folder": parent / "codec", "info": {}}
    for precision in precisions:
        with pytest.raises(ArtifactError, match=rf"reaches .*, which {precision} cannot hold; store it as fp32"):
            write_bundle(tmp_path / precision, model=bundle.model, precision=precision, **told)  # type: ignore[arg-type]
        assert not (tmp_path / precision).exists()
    with torch.no_grad():
        bundle.model.projection.weight[0, 0] = float("nan")
    for precision in ("fp32", "bf16"):
        with pytest.raises(ArtifactError, match="is not finite everywhere"):
            write_bundle(tmp_path / precision, model=bundle.model, precision=precision, **told)  # type: ignore[arg-type]


def test_what_cannot_be_exported_is_refused(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision 'int3' is not one of fp32, fp16, bf16, int8, int4"):
        export(parent, tmp_path / "bundle", precision="int3")
    with pytest.raises(InputError, match="not a bundle"):
        export(tmp_path, tmp_path / "bundle")
    export(parent, tmp_path / "int8")
    with pytest.raises(ArtifactError, match="int8 already"):
        export(tmp_path / "int8", tmp_path / "bundle")
    (parent / "config.json").write_text("{}")
    with pytest.raises(DigestError, match="config"):
        export(parent, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
