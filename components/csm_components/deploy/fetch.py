"""Fetches a published bundle to where a server reads it: whole and the one that was asked for, or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from csm_components.settings import Settings
from csm_components.storage import open_tree
from csm_model.errors import DigestError, InputError
from csm_model.files import digest_of, read_json
from csm_model.manifest import MANIFEST


def fetch_bundle(url: str, digest: str, out: Path, *, settings: Settings | None = None) -> bool:
    """Fetches the bundle at `url` into the folder `out`, which appears by rename; goes on where a killed one stopped.

    The manifest is fetched first, so that a wrong address costs no transfer of weights.

    Args:
        url: address of the bundle's tree, such as s3://bucket/prefix/bundles/DIGEST.
        digest: what the bundle's manifest must have.
        out: folder for it; another bundle that lies there is replaced.
        settings: endpoint and keys of S3; the environment's without them.

    Returns:
        False where it was there already.

    Raises:
        InputError: no digest, no such tree, or no bundle in it.
        DigestError: it is another bundle, or a file is not the one that the manifest names.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InputError(f"digest {digest!r}: must be the 64 hexadecimal digits of the bundle's manifest")
    if _is_there(out, digest):
        return False
    storage, key = open_tree(url, settings)
    rows = storage.read_tree(key)["files"]
    if MANIFEST not in rows:
        raise InputError(f"{url}: not a bundle (no {MANIFEST}); give the address that the step deploy published")
    partial = out.with_name(f".{out.name}.{digest[:16]}.partial")
    storage.get_files(key, {MANIFEST: rows[MANIFEST]}, partial)
    _check(read_json(partial / MANIFEST), rows, digest, url)
    storage.get_files(key, rows, partial)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return True


def _is_there(out: Path, digest: str) -> bool:
    """Whether the folder, which was only ever renamed into place, holds the bundle; the server checks every byte."""
    if not (out / MANIFEST).is_file():
        return False
    manifest = read_json(out / MANIFEST)
    return manifest.get("digest") == digest and all((out / name).is_file() for name in manifest["files"])


def _check(manifest: dict[str, Any], rows: dict[str, Any], digest: str, url: str) -> None:
    """Raises `DigestError` unless the manifest is that of the bundle `digest`, and the tree has all that it names."""
    try:
        own, files = manifest["digest"], manifest["files"]
    except (KeyError, TypeError):
        raise InputError(f"{url}: its {MANIFEST} is not that of a bundle") from None
    if own != digest:
        raise DigestError(f"{url}: holds bundle {own}, not {digest}; correct the address or the digest")
    if digest_of(files) != digest:
        raise DigestError(f"{url}: its {MANIFEST} does not have the digest that it names; deploy the bundle again")
    for name, sha256 in files.items():
        if rows.get(name, {}).get("sha256") != sha256:
            raise DigestError(f"{url}/{name}: is not the file that the bundle's manifest names; deploy it again")
