"""The manifest of a bundle, for those who carry no torch: what is in it, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csm_model.errors import DigestError, InputError
from csm_model.files import digest_of_file, read_json

MANIFEST = "manifest.json"


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


def speakers_in(manifest: Mapping[str, Any]) -> dict[int, str]:
    """Names of the speakers that a bundle's model has learnt, by number."""
    return {int(number): str(name) for number, name in manifest.get("speakers", {}).items()}
