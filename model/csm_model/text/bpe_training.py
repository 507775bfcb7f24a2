"""Byte-level BPE trained on a corpus (Sennrich et al. 2016), cut by Llama 3's pattern before it is merged.

The same texts and settings give the same tokenizer: bytes have their ids in order, and of two equally frequent pairs
the one with the smaller ids is merged first, whatever order the texts come in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from csm_model.errors import InputError
from csm_model.text.base import check_text
from csm_model.text.bpe import BEGIN_TOKEN, END_TOKEN, PROMPTS, BpeTokenizer, check_prompt, load_library, mark

LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words, numbers of up to three digits, signs and spaces, as Llama 3's tokenizer.json cuts them."""
_BYTES = 256
_LEAST_COUNT = 2  # a pair that a corpus has once is no habit


def least_vocabulary(num_speakers: int) -> int:
    """Ids without any merge: begin, end, speakers and bytes."""
    return 2 + num_speakers + _BYTES


def train_bpe(texts: Iterable[str], *, vocab_size: int, num_speakers: int, prompt: str) -> BpeTokenizer:
    """A tokenizer whose merges are the most frequent ones of the texts.

    Args:
        texts: the words of the training turns; those that no tokenizer takes are left out, as their turns will be.
        vocab_size: ids to have, all kinds together; there are fewer where the texts are too few to merge more.
        num_speakers: speakers to have a special token for.
        prompt: the prompt format that the tokenizer will write.

    Raises:
        InputError: an unknown prompt format, or a vocabulary that does not hold bytes and speakers.
    """
    write = PROMPTS[check_prompt(prompt)]
    least = least_vocabulary(num_speakers)
    if vocab_size < least:
        raise InputError(
            f"a vocabulary of {vocab_size} is too small: begin, end, {num_speakers} speakers and {_BYTES} bytes are "
            f"{least}; give more"
        )
    library = load_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(LLAMA_PATTERN), "isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    special = [BEGIN_TOKEN, END_TOKEN, *(mark(number) for number in range(num_speakers))]
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_LEAST_COUNT,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((write(text) for text in texts if _can_be_said(text)), trainer=trainer)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{BEGIN_TOKEN} $A {END_TOKEN}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BEGIN_TOKEN, END_TOKEN)],
    )
    return BpeTokenizer(json.loads(tokenizer.to_str()), prompt=prompt, where="the trained tokenizer")


def _can_be_said(text: str) -> bool:
    try:
        check_text(text)
    except InputError:
        return False
    return True
