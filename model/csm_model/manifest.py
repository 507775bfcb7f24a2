"""The manifest of a bundle, for those who carry no torch: what is in it, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from csm_model.errors import ArtifactError, DigestError, InputError, quoted, shown
from csm_model.files import digest_of, digest_of_file, read_json

MANIFEST = "manifest.json"
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""How weights are stored."""


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """A bundle's manifest; with `verify`, after every file was found to have the digest that the manifest names.

    Raises:
        InputError: there is no bundle.
        ArtifactError: its manifest is none.
        DigestError: a file was changed or damaged.
    """
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: not a bundle (no manifest.json); give the folder that the export step wrote")
    manifest = read_json(folder / MANIFEST)
    _check(manifest, folder / MANIFEST)
    for name, expected in manifest["files"].items() if verify else ():
        path = folder / name
        if not path.is_file():
            raise DigestError(f"{path}: named by the bundle's manifest but missing; copy the bundle again")
        if digest_of_file(path) != expected:
            raise DigestError(f"{path}: its digest is not the one in the bundle's manifest; copy the bundle again")
    if verify and manifest["digest"] != digest_of(manifest["files"]):
        raise DigestError(f"{folder / MANIFEST}: its digest is not that of its files; copy the bundle again")
    return manifest  # type: ignore[no-any-return]


def precision_of(manifest: dict[str, Any], folder: Path) -> Precision:
    """How a bundle's weights are stored; `ArtifactError` where its manifest does not say."""
    for known in get_args(Precision):
        if manifest.get("precision") == known:
            return known  # type: ignore[no-any-return]
    raise ArtifactError(
        f"{folder / MANIFEST}: precision is {quoted(manifest.get('precision'))}; there are "
        f"{', '.join(get_args(Precision))}; copy the bundle again"
    )


def _check(manifest: Any, path: Path) -> None:
    """Raises `ArtifactError` unless it names files of its folder by their digests, and itself by theirs."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not files or not isinstance(manifest.get("digest"), str):
        raise ArtifactError(f"{path}: no manifest of a bundle (no files and their digest in it); copy the bundle again")
    for name, digest in files.items():
        inside = name.isprintable() and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if not inside or not isinstance(digest, str):
            raise ArtifactError(
                f"{path}: {shown(name)} is no file of the bundle with its digest; copy the bundle again"
            )


def speakers_in(manifest: Mapping[str, Any]) -> dict[int, str]:
    """Names of the speakers that a bundle's model has learnt, by number; `ArtifactError` where they are none."""
    try:
        return {int(number): str(name) for number, name in manifest.get("speakers", {}).items()}
    except (TypeError, ValueError, AttributeError):
        its = quoted(manifest.get("speakers"))
        raise ArtifactError(f"{MANIFEST}: speakers are {its}, not names by number; copy the bundle again") from None
