"""Podcasts: an RSS feed with its episodes' sound and transcripts, all in one folder; or transcripts beside the sound.

The feed is any `.xml` or `.rss` at the top whose root is `<rss>`. An episode's `<enclosure url>` and
`<podcast:transcript url type language>` are looked for in the folder by the last part of their addresses; nothing is
fetched. Of several transcripts one that names speakers and times well is taken: VTT, SRT, JSON, HTML, in this order.
`<podcast:license>` (of the item, else of the channel) and `<language>` count for all turns. Without a feed,
`x.mp3` goes with `x.vtt` or `x.srt`. An episode is a conversation; a speaker whom nobody names is called after it.
(https://podcasting2.org/docs/podcast-namespace)
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from csm_components.ingest.readers.record import (
    BadRecord,
    CorpusReader,
    Found,
    SoundIndex,
    TurnRecord,
    corpus_of,
    relative,
)
from csm_components.ingest.readers.texts import EncodingError, parse_xml, read_text
from csm_components.ingest.readers.transcripts import FORMATS, TYPES, Cue

_NAMESPACES = (
    "{https://podcastindex.org/namespace/1.0}",
    "{https://github.com/Podcastindex-org/podcast-namespace/blob/main/docs/1.0.md}",
)


@dataclass(frozen=True, kw_only=True)
class _Episode:
    sound: str
    transcript: Path | None
    kind: str
    """Suffix that says how the transcript is read."""
    source: str
    language: str | None = None
    license: str | None = None


def _feeds(folder: Path) -> Iterator[tuple[Path, ET.Element]]:
    for path in sorted([*folder.glob("*.xml"), *folder.glob("*.rss")]):
        try:
            root = parse_xml(path)
        except (ET.ParseError, EncodingError):
            continue
        if root.tag == "rss":
            yield path, root


def _beside(folder: Path, sounds: Sequence[str]) -> Iterator[_Episode]:
    """Sounds with a transcript of the same name."""
    for sound in sounds:
        for kind in (".vtt", ".srt"):
            path = folder / PurePosixPath(sound).with_suffix(kind)
            if path.is_file():
                yield _Episode(sound=sound, transcript=path, kind=kind, source=relative(path, folder))
                break


def detect(folder: Path, sounds: Sequence[str]) -> bool:
    """Whether there is a feed, or a sound with a `.vtt` or `.srt` beside it."""
    return next(_feeds(folder), None) is not None or next(_beside(folder, sounds), None) is not None


def records(folder: Path, sounds: Sequence[str]) -> Found:
    """A record for each cue of each transcript."""
    named: set[str] = set()
    for path, root in _feeds(folder):
        for episode in _of_feed(folder, path, root, sounds):
            if isinstance(episode, _Episode):
                named.add(episode.sound)
                yield from _cues(folder, episode)
            else:
                yield episode
    for episode in _beside(folder, sounds):
        if episode.sound not in named:
            yield from _cues(folder, episode)


def _file_name(url: str | None) -> str:
    """The last part of an address, as a file would be called."""
    return unquote(PurePosixPath(urlsplit(url or "").path).name)


def _child(item: ET.Element, name: str) -> list[ET.Element]:
    return [found for space in _NAMESPACES for found in item.findall(space + name)]


def _text_of(item: ET.Element, name: str) -> str | None:
    return next((text for found in _child(item, name) if (text := (found.text or "").strip())), None)


def _of_feed(folder: Path, path: Path, root: ET.Element, sounds: Sequence[str]) -> Iterator[_Episode | BadRecord]:
    """The episodes of a feed."""
    index = SoundIndex(sounds)
    texts = {found.name: found for found in folder.rglob("*") if found.suffix.lower() in FORMATS}
    for channel in root.iter("channel"):
        language, license_ = (channel.findtext("language") or "").strip(), _text_of(channel, "license")
        for count, item in enumerate(channel.iter("item"), 1):
            source = f"{relative(path, folder)} (item {count})"
            enclosure = item.find("enclosure")
            name = _file_name(enclosure.get("url") if enclosure is not None else None)
            if not name:
                yield BadRecord(source=source, reason="damaged record", detail="names no sound (enclosure)")
                continue
            sound = index.named(name)
            if sound is None:
                yield BadRecord(source=source, reason="unreadable", detail=f"{name}: no such file", sound=name)
                continue
            found = [
                (kind, texts[_file_name(link.get("url"))], link.get("language"))
                for link in _child(item, "transcript")
                if (kind := TYPES.get((link.get("type") or "").partition(";")[0].strip())) is not None
                and _file_name(link.get("url")) in texts
            ]
            if not found:
                detail = "none of its transcripts is in the folder"
                yield BadRecord(source=source, reason="no text", detail=detail, sound=sound)
                continue
            kind, transcript, own = min(found, key=lambda one: list(FORMATS).index(one[0]))
            yield _Episode(
                sound=sound,
                transcript=transcript,
                kind=kind,
                source=relative(transcript, folder),
                language=own or language or None,
                license=_text_of(item, "license") or license_,
            )


def _cues(folder: Path, episode: _Episode) -> Found:
    assert episode.transcript is not None
    name = str(PurePosixPath(episode.sound).with_suffix(""))
    try:
        cues = list(FORMATS[episode.kind](read_text(episode.transcript)))
    except EncodingError as error:
        detail = str(error).removeprefix(f"{episode.transcript}: ")
        yield BadRecord(source=episode.source, reason="wrong encoding", detail=detail, sound=episode.sound)
        return
    except ValueError as error:
        detail = f"not a transcript ({error})"
        yield BadRecord(source=episode.source, reason="damaged record", detail=detail, sound=episode.sound)
        return
    for count, cue in enumerate(cues):
        source = f"{episode.source}:{cue.line}"
        if not isinstance(cue, Cue):
            yield BadRecord(
                source=source, reason="damaged record", detail=cue.problem, conversation=name, sound=episode.sound
            )
            continue
        yield TurnRecord(
            id=f"{name}-{count:05}",
            conversation=name,
            sound=episode.sound,
            text=cue.text,
            speaker=f"{name}-unknown" if cue.speaker is None else cue.speaker,
            source=source,
            start=cue.start,
            end=cue.end,
            language=episode.language,
            license=episode.license,
        )


READER = CorpusReader(
    name="podcast",
    title="Podcast with transcripts",
    license="as the feed says",
    layout="*.xml (RSS) with its sound and .vtt, .srt, .json or .html; or x.mp3 and x.vtt or x.srt",
    gives="text, speaker where named, times, language",
    reference="https://podcasting2.org/docs/podcast-namespace",
    detect=detect,
    read=corpus_of("podcast", records),
)
