"""Which tokenizer a corpus is tokenised with: the base's, phonemes, a file's, or a BPE trained on the corpus.

The setting is `phonemes`, `bpe:SIZE` (a BPE of so many ids), or the path of a `tokenizer.json` or of a folder with one;
none takes the base's tokenizer, or phonemes without a base. A base is never given another tokenizer than its own: its
text embeddings belong to that one's ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from csm_components.ingest.speakers import PLACES
from csm_model.errors import InputError
from csm_model.text import PROMPTS, PhonemeTokenizer, Tokenizer, check_prompt, load_tokenizer, train_bpe

if TYPE_CHECKING:
    from csm_components.ingest.conversations import Conversation

FILE = "tokenizer.json"
PHONEMES, BPE = "phonemes", "bpe:"


def check_setting(setting: str | None, prompt: str | None) -> None:
    """Raises `InputError` for a malformed setting, or a prompt format that is unknown, missing or without use."""
    if prompt is not None:
        check_prompt(prompt)
    if setting in (None, PHONEMES) and prompt is not None:
        raise InputError(
            f"prompt format {prompt!r}: phonemes and a base's tokenizer have their own; "
            f"leave it out, or name a tokenizer: {BPE}SIZE or a file"
        )
    if bpe_size(setting) is not None and prompt is None:
        raise InputError(f"tokenizer {setting!r} needs a prompt format: {' or '.join(PROMPTS)}")


def bpe_size(setting: str | None) -> int | None:
    """The size in `bpe:SIZE`; None for another setting."""
    if setting is None or not setting.startswith(BPE):
        return None
    size = setting.removeprefix(BPE)
    if not (size.isascii() and size.isdecimal() and int(size)):
        raise InputError(f"tokenizer {setting!r}: write a BPE as {BPE}SIZE, such as {BPE}4096")
    return int(size)


def file_of(path: Path) -> Path:
    """The tokenizer's file that a setting names."""
    return path / FILE if path.is_dir() else path


def made_by_path(setting: str | None) -> bool:
    """Whether the setting names a file or folder."""
    return setting not in (None, PHONEMES) and bpe_size(setting) is None


def given_tokenizer(setting: str | None, prompt: str | None, base: Path | None) -> Tokenizer | None:
    """The tokenizer of the base or of the file that the setting names; None where a new one is to be made.

    Raises:
        InputError: a wrong setting, no such file, or another tokenizer than the base's.
        ArtifactError: a damaged file.
    """
    check_setting(setting, prompt)
    named = load_tokenizer(file_of(Path(setting)), prompt=prompt) if setting and made_by_path(setting) else None
    if base is None:
        return named
    own = load_tokenizer(file_of(base))
    agrees = setting in (None, own.kind) if named is None else named.digest == own.digest
    if not agrees:
        raise InputError(
            f"tokenizer {setting!r} is not the one that {base} was trained with (kind {own.kind}, {own.digest[:12]}); "
            "leave the setting out, or train without a base"
        )
    return own


def choose_tokenizer(
    setting: str | None, prompt: str | None, *, base: Path | None, conversations: Sequence[Conversation]
) -> Tokenizer:
    """The tokenizer to use.

    Args:
        setting: see above.
        prompt: prompt format of a BPE.
        base: folder or file of the base's tokenizer.
        conversations: all of the corpus; a BPE is trained on the training split.

    Raises:
        InputError: what `given_tokenizer` raises, or a speaker of the corpus has no place in the tokenizer.
    """
    given = given_tokenizer(setting, prompt, base)
    speakers = {turn.speaker: item.id for item in conversations for turn in item.turns}
    if given is not None:
        beyond = [speaker for speaker in sorted(speakers) if speaker >= given.num_speakers]
        if beyond:
            raise InputError(
                f"speaker {beyond[0]} (conversation {speakers[beyond[0]]}) has no place in {base or setting}, whose "
                f"speakers are 0 to {given.num_speakers - 1}; let numbers count in each conversation, with "
                "--set data.speakers=conversation"
            )
        return given
    room = max(PLACES, max(speakers) + 1)
    size = bpe_size(setting)
    if size is None:
        return PhonemeTokenizer(num_speakers=room)
    assert prompt is not None
    texts = (turn.text for item in conversations if item.split == "train" for turn in item.turns)
    return train_bpe(texts, vocab_size=size, num_speakers=room, prompt=prompt)
