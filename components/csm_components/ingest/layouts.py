"""Finds out how a corpus's folder is laid out, and reads the description.

Three layouts are known:

- lhotse: `recordings.jsonl[.gz]` and `supervisions.jsonl[.gz]`; one recording is one conversation;
- LibriSpeech: `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` beside the sound; one chapter is one conversation;
- JSONL: `*.jsonl` at the top, one line a turn.
"""

from __future__ import annotations

import os
from pathlib import Path

from csm_components.ingest.audio import AUDIO_SUFFIXES
from csm_components.ingest.jsonl_layout import find_jsonl, read_jsonl
from csm_components.ingest.lhotse_layout import find_lhotse, read_lhotse
from csm_components.ingest.librispeech_layout import find_librispeech, read_librispeech
from csm_components.ingest.records import Corpus
from csm_model.errors import InputError


def is_sound(name: str) -> bool:
    """Whether a file name is taken for sound."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def find_sounds(folder: Path, leave_out: Path | None = None) -> list[str]:
    """Paths of all sound files under `folder`, relative to it, sorted; but hidden ones and those under `leave_out`."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).absolute() != leave_out]
        found += [
            (here / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and is_sound(name)
        ]
    return sorted(found)


def is_described(folder: Path) -> bool:
    """Whether there is a description that `read_corpus` reads."""
    return bool(find_lhotse(folder) or find_librispeech(folder) or find_jsonl(folder))


def read_corpus(folder: Path, sounds: list[str]) -> Corpus:
    """Reads the description of a corpus; raises `InputError` where there is none, or no sound, or it breaks a rule.

    Args:
        folder: the corpus.
        sounds: what `find_sounds` found in it.
    """
    if find_lhotse(folder):
        return read_lhotse(folder)
    transcripts = find_librispeech(folder)
    if transcripts:
        return read_librispeech(folder, transcripts, sounds)
    tables = find_jsonl(folder)
    if tables:
        return read_jsonl(folder, tables)
    if not sounds:
        raise InputError(f"{folder}: holds no audio ({', '.join(sorted(AUDIO_SUFFIXES)[:6])}, ...); check the path")
    raise InputError(
        f"{folder}: {len(sounds)} audio files, but no texts for them; expected recordings.jsonl and supervisions.jsonl "
        "(lhotse), SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt (LibriSpeech), or a .jsonl with audio, text and speaker"
    )
