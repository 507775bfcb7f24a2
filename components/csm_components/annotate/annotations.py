"""The artefact of the step annotate, for whoever reads it. Its folder:

| file | what it is |
| --- | --- |
| `manifest.json` | written last but for `made.json`: counts, hours, versions, digest |
| `recordings.jsonl.gz` | a row a recording: length, rate, channels, codec, speech, share of music; or why it has none |
| `turns.jsonl.gz` | a row a turn: times, speaker, text given and heard, words, figures |
| `parts/NAME.json` | what is committed of one recording; a killed step goes on from these |

Times are seconds in the recording; what was not measured is absent.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from csm_components.artefacts import have
from csm_model.errors import ArtifactError, DigestError
from csm_model.files import atomic_path, digest_of_file, read_json

FORMAT = 1
MANIFEST, RECORDINGS, TURNS = "manifest.json", "recordings.jsonl.gz", "turns.jsonl.gz"
TABLES = frozenset({MANIFEST, RECORDINGS, TURNS})
"""Files that readers need; parts are for the step itself."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows in one step, packed without a time stamp: the same rows are the same bytes. Returns how many."""
    count = 0
    with (
        atomic_path(path) as partial,
        partial.open("wb") as packed,
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file,
    ):
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += 1
    return count


def read_annotations_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that annotate wrote; raises `ArtifactError` where it is of another kind or format."""
    manifest: dict[str, Any] = read_json(have(folder, MANIFEST))
    if manifest.get("kind") != "annotations" or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{folder}: is not a folder of annotations of format {FORMAT}; run annotate again")
    return manifest


def read_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table, one after another.

    Raises:
        DigestError: it is not the one that the manifest names.
    """
    manifest, path = read_annotations_manifest(folder), have(folder, name)
    if not path.exists() or digest_of_file(path) != manifest["sha256"][name]:
        raise DigestError(f"{path}: is not the table that the manifest names; run annotate again")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
