"""The data card as Markdown: hours by corpus, language, licence and reason, and histograms.

It goes wherever figures of a run go, MLflow among them, so it holds nobody's words, voice or name; the page of
`csm data card` has those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from csm_components.datacard.facts import DataFacts, Histogram, read_facts
from csm_model.files import write_bytes

CARD = "card.md"
_BAR = 30
TITLES = {
    "corpus": "By layout of the corpus",
    "split": "By split",
    "language": "By language",
    "licence": "By licence",
    "tag": "By tag",
    "reason": "Left out, by reason",
}


def write_card(folder: Path) -> None:
    """Writes `card.md` into a folder that ingest wrote."""
    write_bytes(folder / CARD, markdown(read_facts(folder)).encode())


def markdown(facts: DataFacts) -> str:
    """The card as Markdown: numbers alone."""
    lines = [f"# Data {facts.digest[:12]}", "", lead(facts), ""]
    for title, rows in facts.tables.items():
        if rows:
            lines += [f"## {TITLES[title]}", "", f"| {title} | turns | hours |", "| --- | --- | --- |"]
            lines += [f"| {name} | {amount.turns} | {amount.hours:.3f} |" for name, amount in rows.items()]
            lines.append("")
    for title, found in facts.histograms.items():
        if found.total:
            lines += [f"## {title[0].upper()}{title[1:]}", "", "```text"]
            lines += [
                f"{label:>16} {count:>8} {'#' * round(_BAR * count / max(found.counts))}".rstrip()
                for label, count in bins(found)
            ]
            lines += ["```", ""]
    return "\n".join(lines)


def lead(facts: DataFacts) -> str:
    """What there is in a sentence."""
    whole = facts.kept.seconds + facts.left_out.seconds
    share = f" ({facts.left_out.seconds / whole:.1%} of the seconds)" if whole else ""
    return (
        f"{facts.kept.hours:.2f} hours of speech in {facts.kept.turns} turns of {facts.conversations} conversations; "
        f"{facts.left_out.turns} records left out{share}."
    )


def bins(found: Histogram) -> Iterator[tuple[str, int]]:
    """Each bin in words, and its count; of the speakers, which are whole, its first number."""
    for place, count in enumerate(found.counts):
        low, high = found.edges[place], found.edges[place + 1]
        yield (f"{low:g} and more" if place + 1 == len(found.counts) else f"{low:g} to {high:g}"), count
