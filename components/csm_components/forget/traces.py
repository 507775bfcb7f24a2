"""What a record is recognised by, wherever it has been copied to: ids, texts and digests of data sets.

Everything that a run makes of conversations names their turns: token shards in their headers, verdicts and clips in
their file names, reports beside the text. So a file holds a record where one of its names or words is a trace.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csm_components.ingest.blocklist import KINDS, Blocked, Blocklist

LONG_TEXT = 12
"""Characters from which on a text is a trace; shorter ones are everybody's."""
_UNREAD = frozenset({".flac", ".wav", ".opus", ".ogg", ".mp3", ".pt", ".png"})
"""Files that are known by their names: sound, and weights."""
_WEIGHTS = re.compile(r"(model|codec)[^/]*\.safetensors|.*\.distcp")
_PARTS = re.compile(rb'[<>\n\t"\x00]+')


@dataclass
class Traces:
    """What the records of some names have left."""

    conversations: set[str] = field(default_factory=set)
    turns: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    """Digests of conversations that hold one."""
    tokens: set[str] = field(default_factory=set)
    """Digests of tokens that do."""

    def add_part(self, part: Mapping[str, Any], rows: Blocklist) -> None:
        """Takes the traces of a conversation: of its blocked turns, or of all where it is blocked itself."""
        self.conversations.add(part["id"])
        of = names_of(part)
        whole = rows.finds(recordings=of["recordings"], urls=[] if _of_turns(part) else of["urls"])
        for turn in part["turns"]:
            url = turn.get("rights", {}).get("url")
            if whole or rows.finds(speakers=[turn["speaker"], turn.get("voice") or ""], urls=[url] if url else []):
                self.turns.add(turn["id"])
                self.texts.add(turn["text"])
        for row in _told(part):  # whose speaker is not known any more
            self.turns.add(row["turn"])
            self.texts.add(" ".join(row["text"].split()))
        self.turns.discard("")

    def in_file(self, path: Path) -> bool:
        """Whether a file holds a trace: in its name, or in what is written in it."""
        name = path.name
        if any(name == each or name.startswith(f"{each}.") for each in _beginnings(name) & (self.turns | self._safe)):
            return True
        if path.suffix.lower() in _UNREAD or _WEIGHTS.fullmatch(name):
            return False
        return self.in_bytes(path.read_bytes())

    def in_bytes(self, data: bytes) -> bool:
        """Whether what is written in a file holds a trace, in JSON (of JSON), in HTML or in lines."""
        words = {_plain(part) for part in _PARTS.split(data.replace(b'\\\\"', b'"').replace(b'\\"', b'"'))}
        texts = {text for text in self.texts if len(text) >= LONG_TEXT}
        return not words.isdisjoint(self.turns | texts)

    @property
    def _safe(self) -> set[str]:
        from csm_components.ingest.convert import file_name

        return {file_name(name) for name in self.conversations}


def names_of(part: Mapping[str, Any]) -> dict[str, list[str]]:
    """Who and what is in a conversation that ingest has converted; of an older part, as far as it says so."""
    turns = part["turns"]
    speakers = {turn["speaker"] for turn in turns} | {turn["voice"] for turn in turns if turn.get("voice")}
    of: Mapping[str, list[str]] = part.get("of", {})
    return {
        "speakers": sorted(speakers | set(of.get("speakers", ()))),
        "recordings": sorted({part["id"], *of.get("recordings", ()), *(row["audio"] for row in _told(part))}),
        "urls": list(of.get("urls", ())),
    }


def holds(part: Mapping[str, Any], rows: Blocklist) -> bool:
    """Whether a conversation has anything of these names in it: more than that it was left out as blocked."""
    return bool(part["turns"] or _told(part)) and rows.finds(**names_of(part))


def _told(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was left out of a conversation and is told of; of what is blocked nothing is."""
    return [row for row in part["rejections"] if row["reason"] != "blocked"]


def found_kinds(part: Mapping[str, Any], value: str) -> set[Blocked]:
    """As what a conversation knows a name."""
    of = names_of(part)
    return {Blocked(kind=kind, value=value) for kind in KINDS if value in of[f"{kind}s"]}


def _of_turns(part: Mapping[str, Any]) -> bool:
    """Whether the turns of a conversation name their addresses themselves."""
    return any("url" in turn.get("rights", {}) for turn in part["turns"])


def _beginnings(name: str) -> set[str]:
    """A file's name, and what it begins with up to each of its dots."""
    return {name, *(name[: dot.start()] for dot in re.finditer(r"\.", name))}


def _plain(data: bytes) -> str:
    """A piece of text as it was before it was written into JSON or HTML."""
    text = data.decode("utf-8", errors="replace")
    if "\\" in text:
        with suppress(ValueError):
            text = str(json.loads(f'"{text}"'))
    return html.unescape(text).strip()
