"""A bundle: everything that is needed to speak, in one folder, every file named by its digest.

manifest.json       written last: digests of the files, of the data and of the parent, the speakers, the figures
config.json         sizes of the model
model.safetensors   weights: fp32, fp16 (read back as fp32), bf16, int8 or int4 (`csm_model.quantize`)
tokenizer.json      text to ids
codec/              codec.json, codec.safetensors; may be left out, and is then given on loading
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from csm_model.codec import AudioCodec, load_codec
from csm_model.config import ModelConfig
from csm_model.errors import ArtifactError, CsmError, DigestError, InputError, quoted, shown
from csm_model.files import atomic_folder, digest_of, digest_of_file, private_copy, read_json, write_json
from csm_model.inference.sampling import Sampling
from csm_model.kernels import use_kernels
from csm_model.manifest import MANIFEST, Precision, precision_of, speakers_in
from csm_model.manifest import read_manifest as read_manifest
from csm_model.model import CsmModel, meta_model, with_tables
from csm_model.quantize import SCALE, rounded_form, rounded_state, with_rounded_weights
from csm_model.tensor_files import is_finite, load_tensors
from csm_model.text import Tokenizer, load_tokenizer

Weights = Literal["fp32", "bf16", "int8", "int4"]
"""What a model speaks with."""
ROUNDED: tuple[Precision, ...] = ("int8", "int4")
"""Precisions that are for speaking only."""
_STORED_AS = {"fp16": torch.float16, "bf16": torch.bfloat16}
WEIGHTS = "model.safetensors"
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
        return speakers_in(self.manifest)


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
        state = rounded_state(model, precision) if precision in ("int8", "int4") else model.state_dict()
        if dtype := _STORED_AS.get(precision):
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        _check_stored(state, model, folder, precision)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS)
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


def _check_stored(state: dict[str, Tensor], model: CsmModel, folder: Path, precision: Precision) -> None:
    """Raises `ArtifactError` for weights that are not finite, or are not any more as they are to be stored."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or is_finite(tensor):
            continue
        own = model.state_dict().get(name.removesuffix(SCALE))
        if own is not None and is_finite(own):
            raise ArtifactError(
                f"{folder}: {name} reaches {float(own.abs().max()):.3g}, which {precision} cannot hold; store it as "
                "fp32, or train again with a lower learning_rate"
            )
        raise ArtifactError(f"{folder}: {name} is not finite everywhere; train again with a lower learning_rate")


def load_bundle(
    folder: Path, *, codec_folder: Path | None = None, weights: Weights | None = None, kernels: bool = True
) -> Bundle:
    """Loads a bundle for speaking, after checking every digest. What becomes of its files then is of no matter.

    Args:
        folder: the bundle.
        codec_folder: for one that carries no codec.
        weights: what to speak with; None is what is stored. Float weights may be rounded here.
        kernels: have the kernels of a CPU do the products. Else they stay as they are: for another device, and for
            those who want the weights themselves.

    Raises:
        InputError: there is no bundle.
        ArtifactError: it carries no codec; or its weights are rounded, and others were asked for.
        DigestError: a file was changed or damaged, or the codec is another one.
    """
    manifest = read_manifest(folder)
    precision = precision_of(manifest, folder)
    if unnamed := {"config.json", "tokenizer.json", WEIGHTS} - manifest["files"].keys():
        raise ArtifactError(f"{folder / MANIFEST}: names no {min(unnamed)}; copy the bundle again")
    with private_copy(folder / WEIGHTS) as (copy, digest):
        if digest != manifest["files"][WEIGHTS]:
            raise DigestError(f"{folder / WEIGHTS}: was changed while it was read; copy the bundle again")
        model = _speaking(folder, copy, precision, weights)
    if kernels:
        use_kernels(model)
    _check_speaks(model, folder)
    own = folder / "codec"
    source = own if own.is_dir() else codec_folder
    if source is None:
        raise ArtifactError(
            f"{folder}: the bundle carries no codec; name the folder of codec {_codec_digest(manifest, folder)[:12]}"
        )
    codec = load_codec(source)
    if codec.digest != _codec_digest(manifest, folder):
        raise DigestError(
            f"{source}: codec {codec.digest[:12]}, "
            f"but the model was trained on the codes of {_codec_digest(manifest, folder)[:12]}"
        )
    bundle = Bundle(
        model=model.eval().requires_grad_(False),
        tokenizer=load_tokenizer(folder / "tokenizer.json"),
        codec=codec,
        manifest=manifest,
    )
    check_fit(model.config, bundle.tokenizer, codec, where=str(folder))
    try:
        _ = bundle.sampling, bundle.speakers
        for name, value in manifest.get("sampling", {}).items():
            if isinstance(value, bool) or (name in ("top_k", "depth_mean", "seed") and not isinstance(value, int)):
                raise InputError(f"{name} is {quoted(value)}")
    except (CsmError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST}: its sampling or its speakers are none ({shown(error)}); copy the bundle again"
        ) from None
    return bundle


def _codec_digest(manifest: dict[str, Any], folder: Path) -> str:
    digest = manifest.get("codec_digest")
    if not isinstance(digest, str):
        raise ArtifactError(f"{folder / MANIFEST}: codec_digest is {quoted(digest)}, no digest; copy the bundle again")
    return digest


def check_fit(sizes: ModelConfig, tokenizer: Tokenizer, codec: AudioCodec, *, where: str) -> None:
    """Raises `ArtifactError` where a model of these sizes has no place for the ids of its tokenizer or its codec."""
    for name, has, needs in (
        ("codebooks", codec.num_codebooks, sizes.num_codebooks),
        ("codes a codebook", codec.codebook_size, sizes.codebook_size),
    ):
        if has != needs:
            raise ArtifactError(
                f"{where}: the codec has {has} {name}, the model needs {needs}; give the codec of its codes"
            )
    if tokenizer.vocab_size > sizes.text_vocab_size:
        raise ArtifactError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} ids, the model knows {sizes.text_vocab_size}; "
            "give the model's own"
        )


def read_config(folder: Path) -> ModelConfig:
    """The sizes of a bundle's model."""
    return ModelConfig.from_json(read_json(folder / "config.json"), where=str(folder / "config.json"))


def load_weights(model: CsmModel, folder: Path, precision: Precision) -> CsmModel:
    """Puts a bundle's float weights into a model of its sizes, in float32.

    Raises:
        ArtifactError: they are rounded, which is for speaking only; or not a whole model's.
    """
    if precision in ROUNDED:
        raise ArtifactError(
            f"{folder}: its weights are {precision}, made for speaking only; give the bundle of its parent"
        )
    state = _state(folder, folder / WEIGHTS, model.config, precision)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def _state(folder: Path, stored: Path, sizes: ModelConfig, precision: Precision) -> dict[str, Tensor]:
    """The weights that are `stored`: all that a model of these sizes has, each of its shape and of numbers.

    Raises:
        ArtifactError: they are not.
    """
    path = folder / WEIGHTS
    state = load_tensors(stored, called=path, zeros=False)
    form = rounded_form(sizes, precision) if precision in ("int8", "int4") else {}
    floating = (torch.float32, torch.float16, torch.bfloat16)
    wanted: dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]]
    wanted = {name: (floating, tuple(tensor.shape)) for name, tensor in meta_model(sizes).state_dict().items()}
    wanted |= {name: ((dtype,), shape) for name, (dtype, shape) in form.items()}
    for name in [*wanted, *state]:
        if name not in state:
            raise ArtifactError(f"{path}: {name} is missing; copy the bundle again")
        if name not in wanted:
            raise ArtifactError(f"{path}: {shown(name)} belongs to no model of these sizes; copy the bundle again")
        (dtypes, shape), tensor = wanted[name], state[name]
        if tensor.dtype not in dtypes or tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, not "
                f"{str(dtypes[0]).removeprefix('torch.')} {list(shape)}; copy the bundle again"
            )
    return state


@torch.inference_mode()
def _check_speaks(model: CsmModel, folder: Path) -> None:
    """Raises `ArtifactError` where what the model says of a first frame are no numbers, though its weights are."""
    books = model.config.num_codebooks
    rows = torch.zeros(1, 2, books + 1, dtype=torch.long)
    mask = torch.zeros(1, 2, books + 1, dtype=torch.bool)
    mask[0, 0, -1] = mask[0, 1, :-1] = True
    state = model.hidden(rows, mask)[:, -1:]
    first = model.codebook0_head(state)
    heard = model.embed_code(torch.zeros(1, 1, dtype=torch.long), 0).to(state.dtype)
    out = model.decoder(model.projection(torch.cat([state, heard], dim=1)))
    if not all(is_finite(logits) for logits in (first, model.code_logits(out[:, 1:], 1))):
        raise ArtifactError(f"{folder}: its weights give no numbers for a first frame; the model cannot speak")


def _speaking(folder: Path, stored: Path, precision: Precision, weights: Weights | None) -> CsmModel:
    """The model of a bundle, with the weights that are asked for, out of those that are `stored`."""
    weights = weights or ("fp32" if precision == "fp16" else precision)
    if precision in ROUNDED and weights != precision:
        raise ArtifactError(f"{folder}: its weights are {precision}, not {weights}; give the bundle of its parent")
    model = meta_model(read_config(folder))
    state = _state(folder, stored, model.config, precision)
    if precision in ROUNDED:
        return with_tables(with_rounded_weights(model, state))
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    if weights in ("int8", "int4"):
        model = with_rounded_weights(model, rounded_state(model, weights))
    return with_tables(model)
