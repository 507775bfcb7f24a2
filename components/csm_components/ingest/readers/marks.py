"""Marks that transcribers put among the words, taken out: what is left is said aloud, what else was heard is a tag."""

from __future__ import annotations

import re
from dataclasses import replace

from csm_components.ingest.bounds import TextPolicy
from csm_components.ingest.records import Corpus, SourceTurn

_HEARD = {
    "laughter": "laughing",
    "laugh": "laughing",
    "sigh": "sighing",
    "cough": "coughing",
    "breath": "breathing",
    "lipsmack": "lipsmack",
}
"""Marks for sounds of the speaker, and the tag of a turn that has one."""
_PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
GIGASPEECH_NO_SPEECH = frozenset({"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"})


HESITATION, CUT_OFF, UNCLEAR = "hesitation", "cut-off word", "unclear"
"""Tags of a turn: a filled pause, a word broken off, words that were not heard well."""
_MARKED = re.compile(
    r"\[[^\]]*\]|\(\(|\)\)|(?<!\S)%[a-z]|\{[^}]*\}|<[a-z_]+>|(?<=\w)-(?=\s|$)|(?<=\w)_\d+(?=\s|$)", re.IGNORECASE
)
_BROKEN_OFF = re.compile(r"\w-$")
_HESITATIONS = frozenset("ah eh er erm hm hmm mm uh uhm um".split())


def spoken(text: str) -> tuple[str, tuple[str, ...]]:
    """Words and tags of a text of any corpus; one without marks stays as it is."""
    return telephone(text) if _MARKED.search(text) else (text, ())


def telephone(text: str) -> tuple[str, tuple[str, ...]]:
    """Words and tags of a line of Switchboard or Fisher.

    `[laughter-yeah]` is a word said laughing, `um-[um]` and `w[ent]-` are broken off, `%uh` is a filled pause, `{word}`
    is in no dictionary, `word_1` is one of several ways to say it, `((words))` were not heard well, `<b_aside>` opens
    an aside.
    """
    tags: list[str] = [UNCLEAR] if re.search(r"\(\(\s*\w", text) else []
    words: list[str] = []
    text = re.sub(r"<[^>]*>", " ", text)
    text = re.sub(r"\(\(|\)\)", " ", text)
    for token in text.split():
        laughed = re.fullmatch(r"\[laughter-(.+)\]", token)
        if laughed:
            tags.append("laughing")
            token = laughed.group(1)
        elif mark := re.fullmatch(r"\[([a-z_-]+)\]", token):
            tags += [_HEARD[mark.group(1)]] if mark.group(1) in _HEARD else []
            continue
        tags += [HESITATION] if token.startswith("%") else []
        token = re.sub(r"\[([^\]/]*)/([^\]]*)\]", r"\2", token)  # [said/meant]
        token = re.sub(r"\[[^\]]*\]", "", token)  # what was not said of a broken-off word
        token = re.sub(r"[{}]", "", token)
        token = re.sub(r"_\d+$", "", token).removeprefix("%")
        if token.strip("-"):
            words.append(token)
            tags += [CUT_OFF] if token.endswith("-") else []
    return " ".join(words), tuple(dict.fromkeys(tags))


def without_disfluencies(text: str) -> str:
    """A text of `spoken` without hesitations and words broken off; one that is nothing else stays as it is."""
    kept = [word for word in text.split() if not _is_disfluent(word)]
    return " ".join(kept) or text


def _is_disfluent(word: str) -> bool:
    return _BROKEN_OFF.search(word) is not None or word.strip(".,?!").lower() in _HESITATIONS


def read_marks(corpus: Corpus, policy: TextPolicy) -> Corpus:
    """The corpus with the marks in its texts as words and tags, by the policy."""

    def read(turn: SourceTurn) -> SourceTurn:
        text, tags = spoken(turn.text)
        if policy.marks == "strip":
            text = without_disfluencies(text)
        if (text, tags) == (turn.text, ()):
            return turn
        return replace(turn, text=text, tags=tuple(dict.fromkeys((*turn.tags, *tags))))

    sources = (replace(source, turns=tuple(map(read, source.turns))) for source in corpus.conversations)
    return replace(corpus, conversations=tuple(sources))


def gigaspeech(text: str) -> str:
    """GigaSpeech's capitals with named punctuation as sentences; empty for a segment without speech."""
    words: list[str] = []
    for token in text.split():
        if token in _PUNCTUATION:
            if words:
                words[-1] += _PUNCTUATION[token]
        elif token not in GIGASPEECH_NO_SPEECH:
            words.append(token)
    spoken = " ".join(words)
    if not spoken.isupper():
        return spoken
    parts = re.split(r"(?<=[.?!]) ", spoken.lower())
    joined = " ".join(part[:1].upper() + part[1:] for part in parts)
    return re.sub(r"\bi\b", "I", joined)
