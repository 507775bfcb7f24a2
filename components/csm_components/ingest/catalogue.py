"""The end of ingest: parts to `cuts.jsonl.gz`, `rejected.jsonl` and, last of all, `manifest.json`."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from csm_components.ingest.checks import plain_text
from csm_components.ingest.records import SPLITS, Corpus, Rejection, SourceConversation, Split
from csm_components.ingest.speakers import Numbering, number_in_conversation, number_speakers, over_corpus
from csm_components.ingest.splits import LONG_SENTENCE, choose_splits, leaked
from csm_model.errors import InputError
from csm_model.files import digest_of, write_bytes
from csm_model.frames import SAMPLE_RATE

FORMAT = 1
CUTS = "cuts.jsonl.gz"
REJECTED = "rejected.jsonl"
MOST_NAMED = 1000
"""People whom the manifest names where numbers count in each conversation alone."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What goes into the output folder beside the sound."""

    conversations: list[dict[str, Any]]
    """Parts that are kept, each with its split, and each turn with its speaker's number."""
    rejections: list[Rejection]
    speakers: dict[str, str]
    """Name of the voice for each number (as text, for JSON)."""
    splits_given: bool

    @property
    def digest(self) -> str:
        """SHA-256 of all that a later step can read: the same corpus gives the same digest, wherever it lies."""
        fields = ("id", "split", "samples", "pcm_sha256", "turns", "channels")
        rows = [{field: part[field] for field in fields if field in part} for part in self.conversations]
        return digest_of({"format": FORMAT, "sample_rate": SAMPLE_RATE, "speakers": self.speakers, "rows": rows})


def _drop_leaks(
    parts: list[dict[str, Any]], splits: Mapping[str, Split]
) -> tuple[list[dict[str, Any]], list[Rejection]]:
    """Leaves turns of test out whose sentence is in training or validation, and turns of validation that training has.

    Nothing of training goes: its answers are what everybody says, and a hole in a talk harms what comes after it.
    """

    def texts(*names: Split) -> Iterator[tuple[str, str]]:
        mine = (part for part in parts if splits[part["id"]] in names)
        return ((turn["id"], plain_text(turn["text"])) for part in mine for turn in part["turns"])

    where = {turn["id"]: splits[part["id"]] for part in parts for turn in part["turns"]}
    leaks = leaked(dict(texts("validation")), texts("train")) | leaked(
        dict(texts("test")), texts("train", "validation")
    )
    kept: list[dict[str, Any]] = []
    rejections: list[Rejection] = []
    for part in parts:
        turns = []
        for turn in part["turns"]:
            if turn["id"] not in leaks:
                turns.append(turn)
                continue
            leak = leaks[turn["id"]]
            whose = f"the {'training' if where[leak.turn] == 'train' else where[leak.turn]} turn {leak.turn}"
            rejections.append(
                Rejection(
                    conversation=part["id"],
                    turn=turn["id"],
                    audio=part["file"],
                    reason="held-out sentence",
                    detail=f"{leak.words} words of it in a row are in {whose}, {LONG_SENTENCE} in all may not be",
                    seconds=round(turn["samples"] / SAMPLE_RATE, 3),
                    text=turn["text"],
                )
            )
        if turns:
            kept.append({**part, "turns": turns})
    return kept, rejections


def _voices(parts: list[dict[str, Any]], numbers: Mapping[str, int], names: Mapping[str, str]) -> dict[str, str]:
    """The name of each speaker: the voice that its turns name, else the person's name, else the corpus's label."""
    voices: dict[int, str] = {}
    for part in parts:
        for turn in part["turns"]:
            label = turn["speaker"]
            voices.setdefault(numbers[label], turn["voice"] or names.get(label) or label)
    return {str(number): voices[number] for number in sorted(voices)}


def catalogue(
    corpus: Corpus,
    parts: Sequence[dict[str, Any]],
    others: Sequence[Rejection],
    speakers: Mapping[str, int] | None,
    numbering: Numbering = "auto",
) -> Catalogue:
    """Chooses the splits and numbers the speakers of the parts that hold anything.

    Args:
        corpus: what was read.
        parts: the part of each of its conversations, sorted by id.
        others: records left out before any conversation was looked at.
        speakers: numbers given for the corpus's speaker labels; they count over the corpus.
        numbering: where numbers count that are not given.
    """
    rejections = [*others, *(Rejection(**row) for part in parts for row in part["rejections"])]
    used = [part for part in parts if part["turns"]]
    sources = {source.id: source for source in corpus.conversations}
    splits, given = choose_splits([sources[part["id"]] for part in used])
    used, leaks = _drop_leaks(used, splits)
    rejections = sorted([*rejections, *leaks], key=lambda row: (row.conversation, row.turn, row.audio))
    labels = {turn.speaker for source in corpus.conversations for turn in source.turns}
    numbers = number_speakers(labels, keep_numbers=corpus.keep_speaker_numbers, given=speakers)
    if speakers is not None or over_corpus(numbering, numbers):
        people, voices = [_numbered(part, numbers) for part in used], _voices(used, numbers, corpus.speaker_names)
    else:
        people = [_numbered_alone(part, corpus.speaker_names) for part in used]
        most = max((turn["speaker"] for part in people for turn in part["turns"]), default=0)
        voices = {str(number): f"speaker {number}" for number in range(most + 1)}
    return Catalogue(
        conversations=[{**part, "split": splits[part["id"]]} for part in people],
        rejections=rejections,
        speakers=voices,
        splits_given=given,
    )


def _numbered(part: dict[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """The part with a number of the corpus for each turn's speaker."""
    return {**part, "turns": [{**turn, "speaker": numbers[turn["speaker"]]} for turn in part["turns"]]}


def _numbered_alone(part: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The part with a number of its own for each turn's speaker, whose name stays beside it."""
    numbers = number_in_conversation(turn["speaker"] for turn in part["turns"])
    turns = [
        {**turn, "speaker": numbers[turn["speaker"]], "person": names.get(turn["speaker"], turn["speaker"])}
        for turn in part["turns"]
    ]
    return {**part, "turns": turns}


def _people(found: Catalogue) -> dict[str, Any]:
    """Of numbers that count in each conversation alone: how many people there are, and who speaks most (seconds)."""
    heard: Counter[str] = Counter()
    for part in found.conversations:
        for turn in part["turns"]:
            if "person" in turn:
                heard[turn["person"]] += turn["samples"]
    if not heard:
        return {}
    ranked = sorted(heard.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMED]
    return {
        "people": {"count": len(heard), "most_heard": {name: round(n / SAMPLE_RATE, 3) for name, n in ranked}},
    }


def _cut(part: dict[str, Any]) -> dict[str, Any]:
    """One conversation as a lhotse cut, whose recording lies beside the manifest."""
    from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment

    channels = list(range(part.get("channels", 1)))
    recording = Recording(
        id=part["id"],
        sources=[AudioSource(type="file", channels=channels, source=part["file"])],
        sampling_rate=SAMPLE_RATE,
        num_samples=part["samples"],
        duration=part["samples"] / SAMPLE_RATE,
    )
    supervisions = [
        SupervisionSegment(
            id=turn["id"],
            recording_id=part["id"],
            start=turn["start"] / SAMPLE_RATE,
            duration=turn["samples"] / SAMPLE_RATE,
            channel=turn.get("channel", 0),
            text=turn["text"],
            speaker=str(turn["speaker"]),
            language=turn.get("language"),
            custom={
                key: value
                for key, value in (
                    ("license", turn["license"]),
                    ("voice", turn["voice"]),
                    ("origin", turn["origin"]),
                    ("tags", turn.get("tags")),
                    ("person", turn.get("person")),
                    ("text_heard", turn.get("text_heard")),
                    ("figures", turn.get("figures")),
                    ("rights", turn.get("rights")),
                    ("start_sample", turn["start"]),
                    ("samples", turn["samples"]),
                )
                if value is not None
            },
        )
        for turn in part["turns"]
    ]
    kind, channel = (MonoCut, 0) if len(channels) == 1 else (MultiCut, channels)
    cut = kind(
        id=part["id"],
        start=0.0,
        duration=recording.duration,
        channel=channel,
        supervisions=supervisions,
        recording=recording,
        custom={"split": part["split"], "pcm_sha256": part["pcm_sha256"]},
    )
    row: dict[str, Any] = cut.to_dict()
    return row


def write_rejected(out: Path, rejections: Sequence[Rejection]) -> None:
    """Writes one JSON line for each record that was left out."""
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rejections)
    write_bytes(out / REJECTED, lines.encode())


def write_cuts(out: Path, found: Catalogue) -> None:
    """Writes the cuts, packed without a time stamp: the same cuts are the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
        for part in found.conversations:
            file.write(json.dumps(_cut(part), ensure_ascii=False).encode() + b"\n")
    write_bytes(out / CUTS, packed.getvalue())


def manifest_of(corpus: Corpus, found: Catalogue, *, inputs: str, cuts_sha256: str) -> dict[str, Any]:
    """The manifest: digests, counts, seconds, speakers, splits, licences, tags, and how much was left out."""
    turns = [turn for part in found.conversations for turn in part["turns"]]
    splits = {}
    for split in SPLITS:
        parts = [part for part in found.conversations if part["split"] == split]
        spoken = [turn["samples"] for part in parts for turn in part["turns"]]
        splits[split] = {
            "conversations": len(parts),
            "turns": len(spoken),
            "speech_seconds": round(sum(spoken) / SAMPLE_RATE, 3),
        }
    return {
        "format": FORMAT,
        "kind": "conversations",
        "digest": found.digest,
        "inputs": inputs,
        "cuts_sha256": cuts_sha256,
        "layout": corpus.layout,
        "sample_rate": SAMPLE_RATE,
        "conversations": len(found.conversations),
        "turns": len(turns),
        "seconds": round(sum(part["samples"] for part in found.conversations) / SAMPLE_RATE, 3),
        "speech_seconds": round(sum(turn["samples"] for turn in turns) / SAMPLE_RATE, 3),
        "speakers": found.speakers,
        "splits": splits,
        "splits_given": found.splits_given,
        "licenses": dict(sorted(Counter(turn["license"] for turn in turns).items())),
        "tags": dict(sorted(Counter(tag for turn in turns for tag in turn.get("tags", ())).items())),
        "rejected": dict(sorted(Counter(row.reason for row in found.rejections).items())),
        "rejected_seconds": round(sum(row.seconds for row in found.rejections), 3),
        **_people(found),
    }


def thin_out(corpus: Corpus, count: int) -> Corpus:
    """About `count` conversations, evenly spread over the corpus; of every split that it gives, at least one."""
    if count < 1:
        raise InputError(f"{count} conversations: take at least 1, or do not limit them")
    kept: list[SourceConversation] = []
    for split in (*SPLITS, None):
        mine = [source for source in corpus.conversations if source.split == split]
        share = min(len(mine), max(1, round(count * len(mine) / len(corpus.conversations))))
        kept += [mine[index * len(mine) // share] for index in range(share)]
    return replace(corpus, conversations=tuple(sorted(kept, key=lambda source: source.id)), rejections=())


def with_default_license(corpus: Corpus, name: str | None) -> Corpus:
    """The corpus with the licence `name` on each turn that names none."""
    if name is None:
        return corpus
    return replace(
        corpus,
        conversations=tuple(
            replace(
                source,
                turns=tuple(turn if turn.license else replace(turn, license=name) for turn in source.turns),
            )
            for source in corpus.conversations
        ),
    )
