"""Text to the integers of text rows: the tokenizers, and how a file says which one it holds.

| kind | what it is | its file |
| --- | --- | --- |
| phonemes | American English phonemes (`phonemes.py`) | symbols and number of speakers |
| bpe | byte-level BPE with a prompt format (`bpe.py`): Llama 3's, or one trained on a corpus (`bpe_training.py`) | \
Hugging Face's tokenizer.json and the format |
"""

from __future__ import annotations

from pathlib import Path

from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json
from csm_model.text.base import MAX_CHARACTERS, Tokenizer
from csm_model.text.bpe import PROMPTS, BpeTokenizer, check_prompt
from csm_model.text.bpe_training import train_bpe
from csm_model.text.phonemes import BEGIN, END, PhonemeTokenizer

__all__ = [
    "BEGIN",
    "END",
    "MAX_CHARACTERS",
    "PROMPTS",
    "BpeTokenizer",
    "PhonemeTokenizer",
    "Tokenizer",
    "check_prompt",
    "load_tokenizer",
    "train_bpe",
]


def load_tokenizer(path: Path, *, prompt: str | None = None) -> Tokenizer:
    """Reads a tokenizer of any kind.

    Args:
        path: what a tokenizer's `save` wrote, or a tokenizer.json as Hugging Face ships it.
        prompt: the prompt format, one of `PROMPTS`; only a file of Hugging Face, which does not say it, needs it.

    Raises:
        InputError: no such file, an unknown format, none where one is needed, or another one than the file's.
        ArtifactError: the file is damaged, or of a kind that this program does not know.
    """
    if prompt is not None:
        check_prompt(prompt)
    state = read_json(path)
    if not isinstance(state, dict):
        raise ArtifactError(f"{path}: holds a {type(state).__name__}, not a tokenizer; it must be a JSON object")
    kind = state.get("kind")
    if kind is None and "model" in state:
        if prompt is None:
            raise InputError(
                f"{path}: a tokenizer of Hugging Face does not say how a turn is written; "
                f"name its prompt format: {' or '.join(PROMPTS)}"
            )
        return BpeTokenizer(state, prompt=prompt, where=str(path))
    if kind == "phonemes":
        if prompt is not None:
            raise InputError(f"{path}: a tokenizer of phonemes has no prompt format; leave {prompt!r} out")
        return PhonemeTokenizer.from_state(state, where=str(path))
    if kind == "bpe":
        return BpeTokenizer.from_state(state, prompt=prompt, where=str(path))
    raise ArtifactError(
        f"{path}: kind {kind!r} is not a tokenizer of this program; it must be 'phonemes', 'bpe', or a tokenizer.json "
        "of Hugging Face"
    )
