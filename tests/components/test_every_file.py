"""Every file that ingest, tokenise and export leave, damaged in every way: the same step makes it again as it was.

All files of a whole run, one after another, are damaged by `tools/survival.py`, which takes hours.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from survival import DAMAGES, damage

from csm_components.export.step import export
from csm_components.ingest.step import ingest
from csm_components.tokenise.knobs import CheckSettings
from csm_components.tokenise.step import tokenise
from csm_components.tree_list import MADE
from csm_model.bundle import write_bundle
from csm_model.codec import RvqCodec
from csm_model.config import debug_config
from csm_model.files import read_json
from csm_model.model import CsmModel
from csm_model.text import PhonemeTokenizer

Step = Callable[[Path], object]
STEPS = ("ingest", "tokenise", "export")


@pytest.fixture(scope="module")
def steps(
    tmp_path_factory: pytest.TempPathFactory, write_corpus: dict[str, Callable[..., Path]], debug_codec: Path
) -> dict[str, Step]:
    """Each step with all that it reads, as a function of where it writes."""
    home, quiet = tmp_path_factory.mktemp("every-file"), Console(quiet=True)
    splits = {"talk-1": "train", "talk-2": "train", "talk-3": "validation", "talk-4": "test"}
    corpus = write_corpus["lhotse"](home / "corpus", splits=splits)
    ingest(corpus, home / "conversations", workers=1, console=quiet)
    tokenizer, codec = PhonemeTokenizer(), RvqCodec.load(debug_codec)
    sizes = {"num_codebooks": codec.num_codebooks, "codebook_size": codec.codebook_size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CsmModel(debug_config(text_vocab_size=tokenizer.vocab_size, **sizes)).eval()
    write_bundle(
        home / "float",
        model=model,
        tokenizer=tokenizer,
        codec_folder=debug_codec,
        precision="fp32",
        info={"dataset_digest": "d" * 64, "speakers": {"0": "heart"}, "recipe": {}},
    )
    check = CheckSettings(min_energy_correlation=-1)
    encode = functools.partial(tokenise, home / "conversations", debug_codec, None, workers=1, check=check)
    return {
        "ingest": lambda out: ingest(corpus, out, workers=1, console=quiet),
        "tokenise": lambda out: encode(out=out, shard_conversations=1, console=quiet),
        "export": lambda out: export(home / "float", out),
    }


@pytest.fixture(scope="module")
def made(steps: dict[str, Step], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each step has made once."""
    home = tmp_path_factory.mktemp("made")
    for name, step in steps.items():
        step(home / name)
    return {name: home / name for name in steps}


def held(folder: Path) -> dict[str, object]:
    """The files of a folder; of a manifest, which may say how long something took, the digest; the record has dates."""
    return {
        path.relative_to(folder).as_posix(): read_json(path)["digest"]
        if path.name == "manifest.json"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MADE
    }


def whole(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file, and each way in which it may be damaged."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for way in DAMAGES if path.stat().st_size else ["gone"]:
            yield path.relative_to(folder).as_posix(), way


@pytest.mark.parametrize("name", STEPS)
def test_each_file_is_made_again_as_it_was(
    name: str, steps: dict[str, Step], made: dict[str, Path], tmp_path: Path
) -> None:
    before, cases, out = held(made[name]), list(whole(made[name])), tmp_path / "out"
    assert len({file for file, _ in cases}) == len(before) + 1
    for file, way in cases:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made[name], out)
        damage(out / file, way)
        steps[name](out)
        assert held(out) == before, (file, way)
        assert read_json(out / MADE)["result"]["digest"] == read_json(made[name] / MADE)["result"]["digest"]


@pytest.mark.parametrize("way", DAMAGES)
@pytest.mark.parametrize("name", STEPS)
def test_all_files_at_once_are_made_again(
    name: str, way: str, steps: dict[str, Step], made: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made[name], tmp_path / "out")
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            damage(path, way)
    steps[name](tmp_path / "out")
    assert held(tmp_path / "out") == held(made[name])
