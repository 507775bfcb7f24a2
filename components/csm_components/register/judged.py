"""A bundle together with the gate's verdict on it, where register could not leave the one beside the other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json
from csm_model.verdict import VERDICT


@contextmanager
def judged_bundle(bundle: Path, verdict: Path | None) -> Iterator[Path]:
    """A folder with the bundle and its verdict: the bundle's own where it holds it, else one of links to both.

    Args:
        bundle: folder of the bundle; it is not written to.
        verdict: folder that register wrote; None takes the bundle as it is.

    Raises:
        InputError: register left no verdict there.
        ArtifactError: its verdict is on another bundle.
    """
    if verdict is None:
        yield bundle
        return
    if not (verdict / VERDICT).is_file():
        raise InputError(f"{verdict}: holds no {VERDICT}; give the folder that the step register wrote")
    judged = read_json(verdict / VERDICT)
    digest = read_json(bundle / "manifest.json")["digest"]
    if judged["bundle"] != digest:
        raise ArtifactError(f"{verdict}: judges bundle {judged['bundle'][:12]}, not {bundle} ({digest[:12]})")
    if (bundle / VERDICT).is_file() and read_json(bundle / VERDICT) == judged:
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix="csm-bundle-") as scratch:
        folder = Path(scratch) / bundle.name
        folder.mkdir()
        for path in bundle.rglob("*"):
            link = folder / path.relative_to(bundle)
            if path.is_file() and path.name != VERDICT:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.absolute())
        (folder / VERDICT).symlink_to((verdict / VERDICT).absolute())
        yield folder
