"""Marks that transcribers put among the words, taken out: what is left is said aloud, what else was heard is a tag."""

from __future__ import annotations

import re

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


def telephone(text: str) -> tuple[str, tuple[str, ...]]:
    """Words and tags of a line of Switchboard or Fisher.

    `[laughter-yeah]` is a word said laughing, `um-[um]` and `w[ent]-` are broken off, `{word}` is in no dictionary,
    `word_1` is one of several ways to say it, `((words))` were not heard well, `<b_aside>` opens an aside.
    """
    tags: list[str] = []
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
        token = re.sub(r"\[([^\]/]*)/([^\]]*)\]", r"\2", token)  # [said/meant]
        token = re.sub(r"\[[^\]]*\]", "", token)  # what was not said of a broken-off word
        token = re.sub(r"[{}]", "", token)
        token = re.sub(r"_\d+$", "", token).removeprefix("%")
        if token.strip("-"):
            words.append(token)
    return " ".join(words), tuple(dict.fromkeys(tags))


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
