"""Rights, record by record: what a corpus says of them, and which records a policy lets a run take.

A refused record stays in its conversation, so that its sound is made silent where it lies among others'. Days are days
of UTC; what day it is comes from who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from csm_components.ingest.blocklist import Blocklist, blocklist_here, read_blocklist
from csm_components.ingest.policy import USES, Policy, Use, open_policy
from csm_components.ingest.records import Corpus, Reason, Rejection, SourceConversation, SourceTurn, TurnRights
from csm_components.settings import Settings
from csm_components.storage import Storage
from csm_model.errors import InputError, quoted
from csm_model.rules import nearest

RunUse = Literal["train", "research"]
"""What a run is for: a model that may be given to anybody, or research."""
FIELDS = ("consent", "expires", "uses", "url")
"""Of a record, as the layouts that name them do."""


def utc_today() -> date:
    """The day that it is, in UTC."""
    return datetime.now(UTC).date()


def rights_of(given: Mapping[str, Any], where: str) -> TurnRights | None:
    """The rights that fields of a record state, `FIELDS`; none where it has none of them.

    Args:
        given: the record; other fields are let be.
        where: file and line, for an error.

    Raises:
        InputError: a date that is none, a use that there is none of, or another type.
    """
    found = {name: given[name] for name in FIELDS if given.get(name) not in (None, "", [])}
    if not found:
        return None
    for name in ("consent", "url"):
        if name in found and not isinstance(found[name], str | int):
            raise InputError(f"{where}: {name} {quoted(found[name])}: must be text")
    return TurnRights(
        consent=str(found["consent"]) if "consent" in found else None,
        expires=last_day(found["expires"], where) if "expires" in found else None,
        uses=_uses(found["uses"], where) if "uses" in found else None,
        url=str(found["url"]) if "url" in found else None,
    )


def last_day(given: object, where: str) -> str:
    """The last whole day of UTC before what a record expires at, `2027-01-31`.

    A day is good to its end; a moment (`2027-01-31T18:00:00+01:00`; without a zone it is of UTC) ends the day before,
    unless it is a day's last: midnight.
    """
    text = str(given).strip()
    try:
        if "T" not in text and " " not in text:
            return date.fromisoformat(text).isoformat()
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return (moment.date() - timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        raise InputError(
            f"{where}: expires {quoted(text)}: must be a day or a moment of ISO 8601, such as 2027-01-31 or "
            "2027-01-31T18:00:00Z"
        ) from None


def _uses(given: object, where: str) -> tuple[Use, ...]:
    """The uses that a record names: a list, or words that spaces or commas part."""
    words = given.replace(",", " ").split() if isinstance(given, str) else given
    if not isinstance(words, list | tuple) or not words:
        raise InputError(f"{where}: uses {quoted(given)}: must be a list of {', '.join(USES)}")
    for word in words:
        if word not in USES:
            raise InputError(f"{where}: uses {quoted(word)} is not one of {', '.join(USES)}{nearest(str(word), USES)}")
    return tuple(use for use in USES if use in words)


@dataclass(frozen=True, kw_only=True)
class RecordGate:
    """What decides whether a run takes a record."""

    policy: Policy = field(default_factory=Policy)
    use: RunUse = "train"
    today: date = field(default_factory=utc_today)
    blocklist: Blocklist = field(default_factory=Blocklist)

    @property
    def inputs(self) -> dict[str, str]:
        """What a result depends on beside the records that were refused; nothing where all is as packaged."""
        expired = self.policy.rights.expired
        return ({} if self.use == "train" else {"use": self.use}) | (
            {} if expired == "refuse" else {"expired": expired}
        )

    def passed(self, corpus: Corpus) -> tuple[Corpus, dict[str, tuple[Reason, str]]]:
        """The corpus with its licences spelt as in the policy, and why turns are refused, by their ids.

        What is refused as blocked says no word any more.
        """
        refused: dict[str, tuple[Reason, str]] = {}
        conversations = []
        for source in corpus.conversations:
            turns = []
            for turn in source.turns:
                found = self.refusal(turn, source, corpus.speaker_names.get(turn.speaker))
                if found is not None:
                    refused[turn.id] = found
                    turns.append(replace(turn, text="") if found[0] == "blocked" else turn)
                    continue
                turns.append(replace(turn, license=self.policy.known(turn.license or "")))
            conversations.append(replace(source, turns=tuple(turns)))
        rejections = tuple(self._silent(row) for row in corpus.rejections)
        return replace(corpus, conversations=tuple(conversations), rejections=rejections), refused

    def _silent(self, row: Rejection) -> Rejection:
        """A record that was left out before, without its words where its recording is blocked."""
        blocked = self.blocklist.finds(recordings=(row.audio, row.conversation))
        return replace(row, text="", reason="blocked", detail=_BLOCKED) if blocked else row

    def refusal(
        self, turn: SourceTurn, source: SourceConversation, name: str | None = None
    ) -> tuple[Reason, str] | None:
        """Why a turn is refused: the reason, and the value and the rule; none where it is not.

        Args:
            turn: the turn.
            source: its conversation.
            name: of the speaker, where the corpus has a list of names.
        """
        rights, rules = turn.rights or TurnRights(), self.policy.rights
        if self.blocklist.blocks(turn, source.id, name):
            return "blocked", _BLOCKED
        if turn.license is None:
            return "unknown licence", "names no licence; put a LICENSE file into the corpus or give one"
        license_name = self.policy.known(turn.license)
        if license_name is None:
            return (
                "unknown licence",
                f"{turn.license!r} is not on the list of allowed licences; a policy file may allow it (data.policy)",
            )
        if rules.consent == "required" and rights.consent is None:
            return "no consent", "names no consent, and the policy requires one (rights.consent)"
        if rights.expires is not None and rules.expired == "refuse":
            needed = self.today + timedelta(days=rules.days_left)
            if date.fromisoformat(rights.expires) < needed:
                left = f", and {rules.days_left} days must be left" if rules.days_left else ""
                return "expired", f"may be used until {rights.expires}; today is {self.today}{left}"
        for what, uses in (("its licence", self.policy.licenses[license_name]), ("it", rights.uses)):
            if uses is not None and not self._for_this(uses, source):
                return "not for this use", f"{what} may be used for {', '.join(uses)}; {self._wanted(source)}"
        return None

    def leaves(self, parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """What the manifest of kept conversations says for later steps: when the first record expires, and what for."""
        days = [
            turn["rights"]["expires"] for part in parts for turn in part["turns"] if "expires" in turn.get("rights", ())
        ]
        ends = {"expires": min(days)} if days and self.policy.rights.expired == "refuse" else {}
        return ends | ({} if self.use == "train" else {"use": self.use})

    def _for_this(self, uses: tuple[Use, ...], source: SourceConversation) -> bool:
        """Whether uses allow what this run does with a conversation: what may be learnt from may be judged with too."""
        if "train" in uses or (self.use == "research" and "research" in uses):
            return True
        return "evaluate" in uses and source.split in ("validation", "test")

    def _wanted(self, source: SourceConversation) -> str:
        split = f"in the split {source.split}" if source.split else "of no split of its own"
        return f"this run is for {self.use} (data.use), and the record is {split}"


def is_over(last: str | None, day: date | None = None) -> bool:
    """Whether a last day is in the past; none never is.

    Args:
        last: the day, as `last_day` writes it.
        day: the day that it is; the clock's without it.
    """
    return last is not None and date.fromisoformat(last) < (day or utc_today())


def refuse_expired(manifest: Mapping[str, Any], day: date | None = None) -> None:
    """Raises `InputError` where something that a manifest speaks for has expired since it was made.

    Args:
        manifest: of conversations, or of tokens made from them.
        day: the day that it is; the clock's without it.
    """
    day, last = day or utc_today(), manifest.get("expires")
    if is_over(last, day):
        raise InputError(
            f"some of the records may be used until {last}, and today is {day}: run ingest again, which leaves them out"
        )


_BLOCKED = "is on the blocklist"


@contextmanager
def open_gate(
    place: str | None,
    *,
    use: RunUse = "train",
    day: date | None = None,
    runs: Path | None = None,
    storage: Storage | None = None,
    settings: Settings | None = None,
) -> Iterator[RecordGate]:
    """The gate of a run: its policy, and all blocklists that there are for it.

    Args:
        place: of the policy, as data.policy has it.
        use: what the run is for.
        day: the day that it is; the clock's without it.
        runs: folder of this machine's runs, which may hold a blocklist.
        storage: may hold one too.
        settings: of the storage that may hold the policy.

    Raises:
        InputError: what `load_policy` raises, or a blocklist that cannot be read.
    """
    with open_policy(place, settings) as (policy, folder):
        lists = Blocklist()
        if policy.rights.blocklist is not None and folder is not None:
            named = folder / policy.rights.blocklist
            if not named.is_file():
                raise InputError(f"rights.blocklist {quoted(policy.rights.blocklist)}: no such file beside the policy")
            lists |= read_blocklist(named)
        if runs is not None:
            lists |= blocklist_here(runs)
        if storage is not None:
            lists |= Blocklist.of_storage(storage)
        yield RecordGate(policy=policy, use=use, today=day or utc_today(), blocklist=lists)
