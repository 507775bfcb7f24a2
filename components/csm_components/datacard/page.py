"""The data card as a page: numbers, pictures, and records to listen to. `csm data card` makes it."""

from __future__ import annotations

import importlib.resources
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from scipy.signal import resample_poly

from csm_components.artefacts import have
from csm_components.datacard.facts import Amount, DataFacts, Histogram, read_facts
from csm_components.datacard.record import DataFolders, DataRecord, read_records
from csm_components.datacard.summary import TITLES, bins, lead
from csm_components.evaluate import html
from csm_components.evaluate.charts import opus_uri
from csm_components.evaluate.html import Markup, element, join, table
from csm_components.evaluate.report_sentences import player
from csm_components.ingest.audio import Samples
from csm_model.errors import AudioError
from csm_model.files import write_bytes
from csm_model.frames import SAMPLE_RATE

PLAYERS = 20
"""Players of each kind."""
LONGEST_S = 20.0
"""Seconds of a turn that a player has."""
NOT_HEARD = frozenset(
    {"unknown licence", "no consent", "expired", "not for this use", "blocked", "unreadable", "empty"}
)
"""Reasons for which nobody is to hear a record either, or could."""
T = TypeVar("T")
_SoundOf = Callable[[DataRecord], Samples | None]


def write_page(out: Path, folders: DataFolders, *, corpus: Path | None = None, players: int = PLAYERS) -> DataFacts:
    """Writes the page, in one step.

    Args:
        out: the file.
        folders: the data.
        corpus: folder of the corpus, where the sound of what was left out is; without it, that is not heard.
        players: most of each kind, kept and left out; drawn evenly, and those left out over all reasons.
    """
    facts = read_facts(folders.conversations)
    kept, left_out = drawn(read_records(folders), players)
    content = join(
        element("h1", "What is the data made of?"),
        element("p", lead(facts), cls="lead"),
        *(_table(title, rows) for title, rows in facts.tables.items() if rows),
        element("h2", "How it is spread"),
        element("div", join(*(picture(*row) for row in facts.histograms.items() if row[1].total)), cls="pictures"),
        *_cards("Kept", kept, lambda record: _of_conversation(folders.conversations, record)),
        *_cards("Left out", left_out, lambda record: None if corpus is None else _of_corpus(corpus, record)),
        element("footer", f"Data of digest {facts.digest}."),
    )
    style = (importlib.resources.files("csm_components.evaluate") / "page.css").read_text(encoding="utf-8")
    write_bytes(out, html.page("Data card", style, content).encode())
    return facts


def drawn(records: Iterable[DataRecord], count: int) -> tuple[list[DataRecord], list[DataRecord]]:
    """Records for players, in one pass: of those kept, and of each reason in turn; the same data gives the same."""
    rng = random.Random(0)
    kept: list[DataRecord] = []
    by_reason: dict[str, list[DataRecord]] = {}
    seen: dict[str, int] = {}
    for record in records:
        name = record.reason or ""
        seen[name] = seen.get(name, 0) + 1
        sample = by_reason.setdefault(name, []) if record.reason else kept
        if len(sample) < count:
            sample.append(record)
        elif (place := rng.randrange(seen[name])) < count:
            sample[place] = record
    return kept, list(_in_turn(list(by_reason.values()), count))


def _in_turn(rows: Sequence[Sequence[T]], count: int) -> Iterator[T]:
    """The first of each row, then the second of each, up to a count."""
    order = [row[place] for place in range(max(map(len, rows), default=0)) for row in rows if place < len(row)]
    yield from order[:count]


def _table(title: str, rows: Mapping[str, Amount]) -> Markup:
    cells = [(name, str(amount.turns), f"{amount.hours:.3f}") for name, amount in rows.items()]
    shown = table((title, "turns", "hours"), cells)
    return join(element("h2", TITLES[title]), element("div", shown, cls="panel"))


def picture(title: str, found: Histogram) -> Markup:
    """A histogram as an SVG."""
    width, height, foot = 360, 150, 46
    step = width / len(found.counts)
    most = max(found.counts)
    parts = []
    for place, (label, count) in enumerate(bins(found)):
        tall = (height - 18) * count / most
        x, y = place * step, height - tall
        parts.append(_svg("rect", None, x=x + 2, y=y, width=step - 4, height=tall, rx=2, fill="#1971c2"))
        middle = x + step / 2
        text: dict[str, float | str] = {"fill": "#627d98", "font-size": 10}
        if count:
            parts.append(_svg("text", str(count), x=middle, y=y - 4, **{**text, "text-anchor": "middle"}))
        turned: dict[str, float | str] = {"transform": f"translate({middle + 3:.1f} {height + 10}) rotate(35)"}
        parts.append(_svg("text", label.replace(" and more", "+").split(" to ")[0], x=0, y=0, **{**text, **turned}))
    drawing = _svg("svg", join(*parts), viewBox=f"0 0 {width} {height + foot}", role="img", width="100%")
    caption = element("figcaption", f"{title}: {found.total} values; each bar begins at its number")
    return element("figure", join(drawing, caption))


def _svg(tag: str, content: str | None, **attributes: float | str) -> Markup:
    given = {name: f"{value:.1f}" if isinstance(value, float) else str(value) for name, value in attributes.items()}
    return element(tag, "" if content is None else content, **given)


def _cards(title: str, records: Sequence[DataRecord], sound_of: _SoundOf) -> Iterator[Markup]:
    if records:
        yield element("h2", f"{title}: {len(records)} to listen to")
        yield from (_card(record, sound_of(record)) for record in records)


def _card(record: DataRecord, sound: Samples | None) -> Markup:
    badge = element("span", record.reason or "kept", cls="badge bad" if record.reason else "badge good")
    where = " ".join(part for part in (record.split, record.license, record.language) if part)
    length = "" if record.seconds is None else f"{record.seconds:.2f} s"
    head = element("header", join(badge, element("code", record.id), element("span", f"{length} {where}".strip())))
    parts = [head, element("div", record.text or "(no text)", cls="said")]
    if record.heard is not None:
        parts.append(element("div", f"heard: {record.heard or '(nothing)'}", cls="heard"))
    if record.detail:
        parts.append(element("p", record.detail, cls="note"))
    if sound is not None and len(sound):
        parts.append(player(opus_uri(sound)))
    if record.figures:
        told = ", ".join(f"{name} {value}" for name, value in record.figures.items())
        parts.append(element("p", told, cls="note"))
    return element("div", join(*parts), cls="card")


def _of_conversation(folder: Path, record: DataRecord) -> Samples:
    """The sound of a kept turn, 24 kHz."""
    first, count = round((record.start or 0) * SAMPLE_RATE), round(min(record.seconds or 0, LONGEST_S) * SAMPLE_RATE)
    samples, _ = soundfile.read(have(folder, str(record.sound)), start=first, frames=count, dtype="float32")
    return np.asarray(samples, np.float32)


def _of_corpus(corpus: Path, record: DataRecord) -> Samples | None:
    """The sound of what was left out, 24 kHz; None where it may not be heard, or is not known to be where."""
    from csm_components.annotate.recordings import RATE, Span, decoded

    if record.reason in NOT_HEARD or not record.sound:
        return None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="csm-sound-") as scratch,
            decoded(corpus / record.sound, Path(scratch)) as sound,
        ):
            whole = record.start is None
            if whole and abs(sound.seconds - (record.seconds or 0)) > 0.1:
                return None  # a stretch of it, and nobody knows which
            start = 0.0 if record.start is None else record.start
            span = Span(start, start + min(record.seconds or 0.0, LONGEST_S))
            channel = record.channel if record.channel is not None and record.channel < sound.channels else None
            samples = sound.read(channel, span)
    except AudioError:
        return None
    return np.asarray(resample_poly(samples, SAMPLE_RATE // 8_000, RATE // 8_000), np.float32)
