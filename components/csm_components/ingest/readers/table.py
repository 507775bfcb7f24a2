"""The readers, and which of them a corpus is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from csm_components.ingest.readers import (
    ami,
    common_voice,
    delimited,
    emilia,
    fisher,
    gigaspeech,
    jsonl,
    lhotse_manifests,
    lhotse_shar,
    libri_light,
    librispeech,
    podcast,
    sound_and_text,
    switchboard,
    voxpopuli,
    yodas,
)
from csm_components.ingest.readers.record import CorpusReader
from csm_model.errors import InputError, quoted
from csm_model.rules import nearest

READERS: dict[str, CorpusReader] = {
    module.READER.name: module.READER
    for module in (
        lhotse_manifests,
        librispeech,
        jsonl,
        common_voice,
        voxpopuli,
        ami,
        gigaspeech,
        switchboard,
        fisher,
        yodas,
        emilia,
        podcast,
        lhotse_shar,
        libri_light,
        delimited,
        sound_and_text,
    )
}
"""By name, in the order in which they are asked and listed."""


def check_layout(name: str) -> None:
    """Raises `InputError` for the name of no reader."""
    if name not in READERS:
        raise InputError(f"layout {quoted(name)} is not one of {', '.join(READERS)}{nearest(name, tuple(READERS))}")


def find_reader(folder: Path, sounds: Sequence[str]) -> CorpusReader | None:
    """The reader that recognises a corpus; none where none does.

    Args:
        folder: the corpus.
        sounds: names of its sound files and archives.

    Raises:
        InputError: several do, and none of them goes first.
    """
    for rank in ("first", "named", "shape"):
        found = []
        for reader in READERS.values():
            if reader.rank == rank and reader.detect(folder, sounds):
                if rank == "first":
                    return reader
                found.append(reader)
        if len(found) > 1:
            names = " or ".join(reader.name for reader in found)
            raise InputError(f"{folder}: may be of the layout {names}; say which by --set data.layout={found[0].name}")
        if found:
            return found[0]
    return None
