"""A bundle: everything that is needed to speak, in one folder, every file named by its digest.

manifest.json       written last: digests of the files, of the data and of the parent, the speakers, the figures
config.json         sizes of the model
model.safetensors   weights: fp32, fp16 (read back as fp32), bf16 (spoken with as they are) or int8
tokenizer.json      text to ids
codec/              codec.json, codec.safetensors; may be left out, and is then given on loading
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from csm_model.codec import AudioCodec, load_codec
from csm_model.config import ModelConfig
from csm_model.errors import ArtifactError, DigestError, InputError
from csm_model.files import atomic_folder, digest_of, digest_of_file, read_json, write_json
from csm_model.inference.kernels import with_row_kernels
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel
from csm_model.quantize import int8_state, with_int8_weights
from csm_model.text import Tokenizer, load_tokenizer

Precision = Literal["fp32", "fp16", "bf16", "int8"]
_STORED_AS = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CODEC_FILES = ("codec.json", "codec.safetensors")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model ready to speak."""

    model: CsmModel
    tokenizer: Tokenizer
    codec: AudioCodec
    manifest: dict[str, Any]

    @property
    def sampling(self) -> Sampling:
        """The sampling that the bundle recommends."""
        return Sampling(**self.manifest.get("sampling", {}))

    @property
    def speakers(self) -> dict[int, str]:
        """Names of the speakers that the model has learnt, by number."""
        return {int(number): name for number, name in self.manifest.get("speakers", {}).items()}


def write_bundle(
    folder: Path,
    *,
    model: CsmModel,
    tokenizer: Tokenizer,
    codec_folder: Path | None,
    precision: Precision,
    info: dict[str, Any],
) -> dict[str, Any]:
    """Writes a bundle and returns its manifest; the folder appears whole, by rename, and replaces an older one.

    `codec_folder` None leaves the codec out: `info` must then name its `codec_digest`.
    """
    with atomic_folder(folder) as partial:
        write_json(partial / "config.json", asdict(model.config))
        tokenizer.save(partial / "tokenizer.json")
        state = int8_state(model) if precision == "int8" else model.state_dict()
        if dtype := _STORED_AS.get(precision):
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / "model.safetensors")
        facts = {"precision": precision, "tokenizer_digest": tokenizer.digest, **info}
        if codec_folder is not None:
            (partial / "codec").mkdir()
            for name in _CODEC_FILES:
                shutil.copyfile(codec_folder / name, partial / "codec" / name)
            facts["codec_digest"] = read_json(codec_folder / "codec.json")["digest"]
        files = {
            str(path.relative_to(partial)): digest_of_file(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = {"format": 1, **facts, "files": files, "digest": digest_of(files)}
        write_json(partial / "manifest.json", manifest)
    return manifest


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """A bundle's manifest; with `verify`, after every file was found to have the digest that the manifest names.

    Raises:
        InputError: there is no bundle.
        DigestError: a file was changed or damaged.
    """
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: not a bundle (no manifest.json); give the folder that the export step wrote")
    manifest: dict[str, Any] = read_json(folder / "manifest.json")
    for name, expected in manifest["files"].items() if verify else ():
        path = folder / name
        if not path.is_file():
            raise DigestError(f"{path}: named by the bundle's manifest but missing; copy the bundle again")
        if digest_of_file(path) != expected:
            raise DigestError(f"{path}: its digest is not the one in the bundle's manifest; copy the bundle again")
    return manifest


def load_bundle(folder: Path, *, codec_folder: Path | None = None) -> Bundle:
    """Loads a bundle for speaking, after checking every digest; `codec_folder` is for one that carries no codec."""
    manifest = read_manifest(folder)
    config = read_config(folder)
    model = load_weights(CsmModel(config), folder, manifest["precision"], narrow=True)
    own = folder / "codec"
    source = own if own.is_dir() else codec_folder
    if source is None:
        raise ArtifactError(
            f"{folder}: the bundle carries no codec; name the folder of codec {manifest['codec_digest'][:12]}"
        )
    codec = load_codec(source)
    if codec.digest != manifest["codec_digest"]:
        raise DigestError(
            f"{source}: codec {codec.digest[:12]}, "
            f"but the model was trained on the codes of {manifest['codec_digest'][:12]}"
        )
    return Bundle(
        model=model.eval().requires_grad_(False),
        tokenizer=load_tokenizer(folder / "tokenizer.json"),
        codec=codec,
        manifest=manifest,
    )


def read_config(folder: Path) -> ModelConfig:
    """The sizes of a bundle's model."""
    return ModelConfig.from_json(read_json(folder / "config.json"))


def load_weights(model: CsmModel, folder: Path, precision: Precision, *, narrow: bool = False) -> CsmModel:
    """Puts a bundle's weights into a model of its sizes, in float32; int8 stays int8.

    With `narrow`, bfloat16 stays bfloat16 too, with the kernels that read it fastest: for speaking, not for training.
    """
    state = load_file(folder / "model.safetensors")
    if precision == "int8":
        return with_int8_weights(model, state)
    if narrow and precision == "bf16":
        model.load_state_dict(state, assign=True)
        return with_row_kernels(model)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model
