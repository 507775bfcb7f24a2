"""Byte-level BPE with a prompt format: Llama 3's tokenizer from a file of Hugging Face, or one trained on a corpus.

A turn is begin, `[speaker]`, the words, end. Sesame writes `[0]Hello` (csm generator.py), Miso `[0] Hello`
(MisoTTS generator.py); begin and end are added here, because some files' post-processors add both and others begin
alone. Who speaks is written in one of two ways, as the file's special tokens say:

- `[n]` is ordinary text, as in Llama 3's file: "[" and the number are ids of their own; "]" may share one with what
  follows, and so tells a little of the words.
- `[n]` is a special token of each speaker: one id. The tokenizers that `bpe_training` makes are so.

What a user types is only ever ordinary text: no id of a special token comes of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_model.errors import ArtifactError, InputError, MissingDependencyError
from csm_model.files import digest_of, write_json
from csm_model.text.base import check_speaker, check_text
from csm_model.text.normaliser import Reading, read_markup

if TYPE_CHECKING:
    import tokenizers

PROMPTS: dict[str, Callable[[str], str]] = {
    "sesame": lambda text: text,
    "miso": lambda text: f" {text.lstrip()}",
}
"""Prompt formats: what follows `[speaker]`."""
BEGIN_TOKEN, END_TOKEN = "<|begin_of_text|>", "<|end_of_text|>"
MOST_SPEAKERS = 1_000
"""Speakers whose number is ordinary text, at most: Llama 3 has an id for every number of up to three digits."""

_SOUNDS = {**dict.fromkeys("0123456789", 9), **dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 4)}
"""Phonemes that a character may take: 7 can be "seven hundred", an initial is said by its name."""
_QUIET = set(" ,.?!;:'\"-\n") | set("abcdefghijklmnopqrstuvwxyz")
_SIGN = 6  # "percent", "dollars"; a character of a script that writes syllables


def mark(speaker: int) -> str:
    """How a speaker is written."""
    return f"[{speaker}]"


def check_prompt(prompt: str) -> str:
    """Returns the name of a prompt format; raises `InputError` that lists them all."""
    if prompt not in PROMPTS:
        raise InputError(f"prompt format {prompt!r} is unknown; there are {', '.join(PROMPTS)}")
    return prompt


def load_library() -> Any:
    """The package tokenizers, when it is first needed."""
    try:
        import tokenizers
    except ImportError:
        raise MissingDependencyError(
            "tokenizers is not installed: it cuts text by BPE; pip install 'csm-foundry[serve]'"
        ) from None
    return tokenizers


class BpeTokenizer:
    """Turns text into ids; Hugging Face's tokenizer.json and the prompt format are all of its state."""

    kind = "bpe"
    rules = 0
    """Ids are those of the text as it is written; markup is taken out of it before."""
    longest_turn = 91
    """Characters of the longest line of the demo's base corpus: a sound each."""

    def __init__(self, file: Mapping[str, Any], *, prompt: str, where: str) -> None:
        """Builds it from a tokenizer.json.

        Args:
            file: the JSON as Hugging Face ships it.
            prompt: a prompt format.
            where: what errors name.

        Raises:
            InputError: an unknown prompt format.
            ArtifactError: the file is damaged, is not byte-level BPE, lacks begin or end, or joins a speaker's number
                with what stands beside it.
        """
        self.prompt = check_prompt(prompt)
        self._file = json.dumps(file, sort_keys=True, separators=(",", ":"))
        self._tokenizer = _read(self._file, where)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token.content: number for number, token in added.items() if token.special}
        vocabulary = self._tokenizer.get_vocab()
        self._check(file, vocabulary, where)
        self._begin, self._end = self._special[BEGIN_TOKEN], self._special[END_TOKEN]
        self._special_ids = frozenset(self._special.values())
        self.vocab_size = max(vocabulary.values()) + 1
        self._marked = mark(0) in self._special
        self.text_prefix = 1 + len(self._speaker_ids(0))
        self.num_speakers = self._count_speakers(where)

    def _check(self, file: Mapping[str, Any], vocabulary: Mapping[str, int], where: str) -> None:
        for token in (BEGIN_TOKEN, END_TOKEN):
            if token not in self._special:
                raise ArtifactError(
                    f"{where}: has no special token {token!r}; "
                    "take a tokenizer.json of the Llama 3 family, or one that this program trained"
                )
        for token in file.get("added_tokens") or ():
            if vocabulary.get(token["content"]) != token["id"]:
                raise ArtifactError(
                    f"{where}: says that {token['content']!r} is id {token['id']}, but its vocabulary gives "
                    f"{vocabulary.get(token['content'])}; take the file as it was shipped"
                )
        model, decoder = (type(part).__name__ for part in (self._tokenizer.model, self._tokenizer.decoder))
        if (model, decoder) != ("BPE", "ByteLevel") or not vocabulary.keys() >= set(
            load_library().pre_tokenizers.ByteLevel.alphabet()
        ):
            raise ArtifactError(
                f"{where}: model {model} with decoder {decoder} may not know every text; "
                "it must be byte-level BPE with all 256 bytes"
            )
        if file["model"].get("dropout"):
            raise ArtifactError(f"{where}: its BPE drops merges at random; set model.dropout to null")

    def _count_speakers(self, where: str) -> int:
        """Speakers from 0 on whose ids stand apart from the words and are as many as those of speaker 0."""
        if self._marked:
            return next(number for number in range(len(self._special)) if mark(number) not in self._special)
        for number in range(MOST_SPEAKERS):
            opened = self._speaker_ids(number)
            if len(opened) != self.text_prefix - 1 or self._ordinary(f"{mark(number)}a")[: len(opened)] != opened:
                break
        else:
            return MOST_SPEAKERS
        if not number:
            raise ArtifactError(f"{where}: joins '[0' with what follows it, so that nothing says who speaks")
        return number

    def _speaker_ids(self, speaker: int) -> list[int]:
        """The ids that say who speaks and nothing of the words."""
        return [self._special[mark(speaker)]] if self._marked else self._ordinary(mark(speaker).removesuffix("]"))

    def _ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the tokenizer's state."""
        return digest_of(self._state())

    def _state(self) -> dict[str, Any]:
        return {"kind": self.kind, "prompt": self.prompt, "tokenizer": json.loads(self._file)}

    def encode(self, text: str, speaker: int) -> list[int]:
        """The ids of one turn: begin, `[speaker]`, words, end; raises as `Tokenizer` says."""
        check_speaker(speaker, self.num_speakers)
        check_text(text)
        opened, words = self._speaker_ids(speaker), PROMPTS[self.prompt](text)
        ids = [*opened, *self._ordinary(words)] if self._marked else self._ordinary(mark(speaker) + words)
        said = ids[len(opened) :]
        if ids[: len(opened)] != opened or not said or not self._special_ids.isdisjoint(said):
            raise InputError(f"text {text[:40]!r} cannot be told from the marks around it; write it another way")
        return [self._begin, *ids, self._end]

    def read(self, text: str) -> Reading:
        """See `Tokenizer`: a model that reads characters reads numbers and signs as well."""
        return read_markup(text)

    def sounds_in(self, words: str) -> int:
        """See `Tokenizer`."""
        return _count(words) if any(map(str.isalnum, words)) else 0

    def sounds(self, ids: Sequence[int]) -> int:
        """See `Tokenizer`: counted by the characters, as English reads them."""
        said = self._tokenizer.decode(list(ids[self.text_prefix :])).removeprefix("" if self._marked else "]")
        return _count(said)

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON: Hugging Face's file with the prompt format around it."""
        write_json(path, self._state())

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, prompt: str | None, where: str) -> BpeTokenizer:
        """What `save` wrote, read again; raises `InputError` where `prompt` is given and is not the stored one."""
        stored, file = state.get("prompt"), state.get("tokenizer")
        if stored not in PROMPTS or not isinstance(file, dict):
            raise ArtifactError(f"{where}: a damaged tokenizer (prompt {stored!r}); run the step that writes it again")
        if prompt not in (None, stored):
            raise InputError(f"{where}: its prompt format is {stored!r}, not {prompt!r}; leave the format out")
        return cls(file, prompt=stored, where=where)


def _count(text: str) -> int:
    """Phonemes and pauses of a text, rather more than fewer."""
    return sum(1 if sign in _QUIET else _SOUNDS.get(sign, _SIGN) for sign in text)


def _read(file: str, where: str) -> tokenizers.Tokenizer:
    """The library's tokenizer, which takes any text for ordinary and neither cuts nor pads it."""
    try:
        tokenizer: tokenizers.Tokenizer = load_library().Tokenizer.from_str(file)
    except MissingDependencyError:
        raise
    except Exception as error:  # the library has no type of its own for it
        raise ArtifactError(f"{where}: not a tokenizer.json of Hugging Face ({error})") from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
