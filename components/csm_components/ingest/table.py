"""What ingest kept and what it left out, for a person to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from csm_components.ingest.records import Rejection


def kept_table(manifest: Mapping[str, Any]) -> Table:
    """One row a split: conversations, turns and minutes of speech."""
    table = Table(title=f"Ingested ({manifest['layout']}, digest {manifest['digest'][:12]})", title_justify="left")
    table.add_column("split")
    for name in ("conversations", "turns", "minutes of speech"):
        table.add_column(name, justify="right")
    for split, row in manifest["splits"].items():
        table.add_row(split, str(row["conversations"]), str(row["turns"]), f"{row['speech_seconds'] / 60:.1f}")
    return table


def rejection_table(rejections: Sequence[Rejection]) -> Table:
    """One row a reason: how many records, how many seconds, and the first of them with its figure."""
    by_reason: dict[str, list[Rejection]] = defaultdict(list)
    for rejection in rejections:
        by_reason[rejection.reason].append(rejection)
    table = Table(title=f"Left out: {len(rejections)} records", title_justify="left")
    table.add_column("why")
    table.add_column("records", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("for example", overflow="fold")
    for reason, rows in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        first = rows[0]
        table.add_row(
            reason,
            str(len(rows)),
            f"{sum(row.seconds for row in rows):.1f}",
            f"{first.turn or first.audio or first.conversation}: {first.detail}",
        )
    return table
