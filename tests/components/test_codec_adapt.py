"""A base for another codec that keeps the codes of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from csm_components.codec.adapt import adapt_base
from csm_model.bundle import load_weights, read_config, read_manifest, write_bundle
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.config import debug_config
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.manifest import Precision
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer


def saved_codec(folder: Path, codec: RvqCodec) -> Path:
    codec.eval().save(folder)
    return folder


@pytest.fixture
def codec() -> RvqCodec:
    torch.manual_seed(5)
    return RvqCodec(RvqConfig.debug())


def made_base(folder: Path, codec: Path, *, precision: Precision = "fp16", carries: bool = False) -> Path:
    torch.manual_seed(6)
    tokenizer = PhonemeTokenizer()
    books = RvqCodec.load(codec).num_codebooks
    sizes = debug_config(text_vocab_size=tokenizer.vocab_size, num_codebooks=books, codebook_size=32)
    write_bundle(
        folder,
        model=CsmModel(sizes),
        tokenizer=tokenizer,
        codec_folder=codec if carries else None,
        precision=precision,
        info={"speakers": {"0": "heart"}, "codec_digest": RvqCodec.load(codec).digest},
    )
    return folder


def model_of(bundle: Path) -> CsmModel:
    precision: Precision = read_manifest(bundle)["precision"]
    return load_weights(CsmModel(read_config(bundle)), bundle, precision).eval()


@pytest.mark.parametrize("books", [2, 4, 7])
def test_what_it_knows_of_the_codebooks_that_both_have_stays(tmp_path: Path, codec: RvqCodec, books: int) -> None:
    own = saved_codec(tmp_path / "own", codec)
    other = saved_codec(tmp_path / "other", codec.with_codebooks(books).with_voicing())
    base = made_base(tmp_path / "base", own, carries=books == 4)
    manifest = adapt_base(base, own, other, tmp_path / "adapted")
    assert manifest["codec_digest"] == RvqCodec.load(other).digest
    assert manifest["parent_digest"] == read_manifest(base)["digest"]
    assert manifest["speakers"] == {"0": "heart"}
    assert (tmp_path / "adapted" / "codec").exists() == (books == 4)
    before, after = model_of(base), model_of(tmp_path / "adapted")
    kept = min(4, books)
    codes = torch.randint(0, 32, (1, 9, books))
    rows = torch.cat([codes, torch.zeros(1, 9, 1, dtype=torch.long)], dim=-1)
    mask = torch.ones(rows.shape, dtype=torch.bool)
    fewer = torch.cat([codes[..., :kept], torch.zeros(1, 9, 4 - kept + 1, dtype=torch.long)], dim=-1)
    its_mask = torch.cat([mask[..., :kept], torch.zeros(1, 9, 4 - kept, dtype=torch.bool), mask[..., -1:]], dim=-1)
    with torch.inference_mode():
        states = [before.hidden(fewer, its_mask), after.hidden(rows, mask)]
        assert torch.equal(states[0], states[1])
        logits = [
            model.depth_logits(states[0][0], torch.nn.functional.pad(codes[0, :, :kept], (0, total - kept)))
            for model, total in ((before, 4), (after, books))
        ]
    torch.testing.assert_close(logits[0][:, : kept - 1], logits[1][:, : kept - 1])


def test_codecs_of_other_codes_are_refused(tmp_path: Path, codec: RvqCodec) -> None:
    own = saved_codec(tmp_path / "own", codec)
    base = made_base(tmp_path / "base", own)
    encoder, books = codec.with_voicing(), codec.with_codebooks(5)
    with torch.no_grad():
        next(encoder.encoder.parameters()).add_(0.1)
        books.quantizer.codebooks[3, 7] += 0.1
    others = {
        "encoder": encoder,
        "books": books,
        "sizes": RvqCodec(replace(RvqConfig.debug(), encoder_depth=2)),
    }
    for name, other in others.items():
        with pytest.raises(ArtifactError, match=f"{name}: makes other codes than .*own"):
            adapt_base(base, own, saved_codec(tmp_path / name, other), tmp_path / "adapted")
    with pytest.raises(DigestError, match="but the base was trained on the codes of"):
        adapt_base(base, tmp_path / "books", own, tmp_path / "adapted")
    with pytest.raises(InputError, match="nowhere"):
        adapt_base(base, own, tmp_path / "nowhere", tmp_path / "adapted")
    with pytest.raises(ArtifactError, match="made for speaking only"):
        adapt_base(made_base(tmp_path / "int8", own, precision="int8"), own, own, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
