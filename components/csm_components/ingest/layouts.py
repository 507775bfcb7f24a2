"""Finds the sound of a corpus's folder, and reads its description with the reader that recognises it.

The readers are in `readers`, one module a layout; `readers.table` lists them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from csm_components.ingest.archives import is_archive
from csm_components.ingest.audio import AUDIO_SUFFIXES
from csm_components.ingest.readers.table import READERS, check_layout, find_reader
from csm_components.ingest.records import Corpus
from csm_model.errors import InputError


def is_sound(name: str) -> bool:
    """Whether a file name is taken for sound."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def find_sounds(folder: Path, leave_out: Path | None = None, *, archives: bool = False) -> list[str]:
    """Paths of all sound files under `folder`, relative to it, sorted; but hidden ones and those under `leave_out`.

    Args:
        folder: where to look.
        leave_out: a folder to pass by.
        archives: whether to find tar files too, which may hold sound.
    """
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).absolute() != leave_out]
        found += [
            (here / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and (is_sound(name) or (archives and is_archive(name)))
        ]
    return sorted(found)


def is_described(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a description that `read_corpus` reads."""
    return find_reader(folder, sounds) is not None


def read_corpus(folder: Path, sounds: Sequence[str], layout: str | None = None) -> Corpus:
    """Reads the description of a corpus; raises `InputError` where there is none, or no sound, or it breaks a rule.

    Args:
        folder: the corpus.
        sounds: what `find_sounds` found in it.
        layout: name of the reader to use; without it, the one that recognises the folder.
    """
    if layout is not None:
        check_layout(layout)
        reader = READERS[layout]
        if not reader.detect(folder, sounds):
            raise InputError(f"{folder}: is not of the layout {layout}: {reader.layout}; csm data readers lists all")
        return reader.read(folder, sounds)
    found = find_reader(folder, sounds)
    if found is not None:
        return found.read(folder, sounds)
    if not sounds:
        raise InputError(f"{folder}: holds no audio ({', '.join(sorted(AUDIO_SUFFIXES)[:6])}, ...); check the path")
    raise InputError(
        f"{folder}: {len(sounds)} audio files, but no texts for them in a layout that is known: {', '.join(READERS)}; "
        "csm data readers says what lies where in each; for sound alone: csm run --data FOLDER"
    )
