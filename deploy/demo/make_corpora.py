"""Makes the demo's corpora: lhotse recordings and supervisions over 24 kHz Opus files.

    python deploy/demo/make_corpora.py demo --out deploy/demo/corpus      # the corpus in the repository
    python deploy/demo/make_corpora.py base --out data/base-corpus        # what the base model was trained on
    python deploy/demo/make_corpora.py voices --out data/voices           # further voices, low ones above all, for the codec
    python deploy/demo/make_corpora.py wide --out data/wide-corpus        # the collected text (collect_text.py), 20 hours
    python deploy/demo/make_corpora.py context --out data/context-corpus  # turns that depend on those before (context.py)

Needs the extras `data` and `voices`. Every conversation has its own seed, so the result is the same on every machine
up to the last bits of the synthesisers' arithmetic. A conversation that is already there is not made again, so a run that
was killed goes on. No sentence of the demo's held-out conversations stands in a training conversation of another corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.progress import track

from context import KINDS, Said, talk
from csm_components.workers import run_parallel
from delivery import speak_as
from grammar import Turn, conversation, scrambled
from sentences import read_lines
from topics import BASE_TOPICS, DEMO_TOPICS
from voices import LICENSE, SAMPLE_RATE, VOICES, dictionary, origin, speak
from words import BASE_SLOTS, DEMO_SLOTS

GAP_S = 0.24  # silence between turns: three codec frames
OPUS_LEVEL = 0.95  # libsndfile's compression level: 22 kbit/s of mono speech
TURNS = 6
CHARACTERS_A_SECOND = 17  # of the voices together


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`voices[i]` speaks the turns of speaker `i`; `speaker_ids[i]` is the number the model knows it by."""

    id: str
    split: str
    seed: int
    voices: tuple[str, str]
    speaker_ids: tuple[int, int]
    turns: tuple[Turn, ...]
    said: tuple[Said, ...] = ()
    """How each turn is said, where that is planted; else at a pace drawn anew for each."""


# The numbers by which the models know the voices. 1 is never used by the base corpus: the demo's second voice is new to it.
SPEAKER_IDS = {"heart": 0, "kumo": 1, "heart-78": 2, "heart-86": 3, "heart-114": 4, "alpha": 5, "gongitsune": 6}
# In the corpus of voices alone; the base has not heard them.
SPEAKER_IDS |= {"nezumi": 7, "tebukuro": 8, "kumo-alpha-deep": 9, "kumo-nezumi-deep": 10}
SPEAKER_IDS |= {"kumo-gongitsune": 11, "kumo-tebukuro": 12, "kumo-alpha": 13}
DEMO_VOICES = ("heart", "kumo")
DEMO_SIZES = {"train": 190, "validation": 10, "test": 24}
# Conversations for each pair of base voices, about 18 hours in all; the Kokoro voices are slow to make and get fewer.
BASE_PAIRS = {
    ("heart", "heart-78"): 1400,
    ("heart", "heart-86"): 1200,
    ("heart", "heart-114"): 800,
    ("heart-78", "heart-114"): 600,
    ("heart-86", "alpha"): 45,
    ("heart-78", "gongitsune"): 45,
}
SCRAMBLED_SHARE = 0.4  # of the base conversations
# Of the corpus of voices. In its test split there are further voices, which no codec is trained on.
VOICE_PAIRS = {
    ("kumo", "kumo-alpha-deep"): 40,
    ("kumo", "kumo-gongitsune"): 20,
    ("kumo-nezumi-deep", "kumo-alpha"): 20,
    ("alpha", "gongitsune"): 10,
}
HELD_OUT_VOICES = {("kumo-tebukuro", "nezumi"): 16}


def plan_demo() -> list[Conversation]:
    """The demo corpus: held-out conversations first, then training ones that share no sentence with them."""
    taken: set[str] = set()
    held_out: set[str] = set()
    plan = []
    for split in ("test", "validation", "train"):
        index = 0
        while sum(conversation.split == split for conversation in plan) < DEMO_SIZES[split]:
            seed = {"test": 1, "validation": 2, "train": 3}[split] * 1_000_000 + index
            index += 1
            turns = conversation(random.Random(seed), DEMO_TOPICS, DEMO_SLOTS, turns=TURNS)
            texts = [turn.text for turn in turns]
            if split == "test" and (taken.intersection(texts) or len(set(texts)) < len(texts)):
                continue
            if held_out.intersection(texts):
                continue
            taken.update(texts)
            if split != "train":
                held_out.update(texts)
            plan.append(
                Conversation(
                    id=f"demo-{split}-{seed}",
                    split=split,
                    seed=seed,
                    voices=DEMO_VOICES,
                    speaker_ids=(SPEAKER_IDS[DEMO_VOICES[0]], SPEAKER_IDS[DEMO_VOICES[1]]),
                    turns=tuple(turns),
                )
            )
    return plan


def _drawn(pairs: Mapping[tuple[str, str], int], first_seed: int, prefix: str) -> Iterator[Conversation]:
    """Conversations of wide text for pairs of voices, pair after pair, with none of the demo's held-out sentences."""
    held_out = {turn.text for item in plan_demo() if item.split != "train" for turn in item.turns}
    words = dictionary()
    for pair_index, (pair, count) in enumerate(pairs.items()):
        index = made = 0
        while made < count:
            seed = first_seed + pair_index * 100_000 + index
            index += 1
            rng = random.Random(seed)
            if rng.random() < SCRAMBLED_SHARE:
                turns = scrambled(rng, words, turns=TURNS)
            else:
                turns = conversation(rng, BASE_TOPICS, BASE_SLOTS, turns=TURNS)
            if held_out.intersection(turn.text for turn in turns):
                continue
            made += 1
            yield Conversation(
                id=f"{prefix}-{seed}",
                split="validation" if made % 100 == 0 else "train",
                seed=seed,
                voices=pair,
                speaker_ids=(SPEAKER_IDS[pair[0]], SPEAKER_IDS[pair[1]]),
                turns=tuple(turns),
            )


def plan_base() -> list[Conversation]:
    """The base corpus: wider text, other voices, and none of the demo's held-out sentences."""
    return list(_drawn(BASE_PAIRS, 10_000_000, "base"))


def plan_voices() -> list[Conversation]:
    """Further voices for the codec; the test split holds voices of its own."""
    train = sorted(_drawn(VOICE_PAIRS, 20_000_000, "voices"), key=lambda item: item.seed % 100_000)
    test = [replace(item, split="test") for item in _drawn(HELD_OUT_VOICES, 30_000_000, "voices-test")]
    return train + test


def _say(item: Conversation, number: int, rng: random.Random) -> tuple[np.ndarray, dict[str, Any]]:
    """The sound of a turn, and what was planted in it."""
    turn, seed = item.turns[number], item.seed + number
    voice = item.voices[turn.speaker]
    if not item.said:
        return speak(voice, turn.text, seed=seed, speed=rng.uniform(0.94, 1.1)), {}
    said = item.said[number]
    audio, planted = speak_as(voice, turn.text, said.delivery, seed=seed)
    return audio, {"planted": {"kind": said.kind, "follows": said.follows, **planted}}


def _make(item: Conversation, out: Path) -> None:
    """Speaks one conversation into `audio/ID.opus` and, last of all, `parts/ID.json`."""
    done = out / "parts" / f"{item.id}.json"
    if done.exists():
        return
    rng = random.Random(item.seed)
    gap = np.zeros(int(GAP_S * SAMPLE_RATE), np.float32)
    pieces, turns, position = [gap], [], len(gap)
    for number, turn in enumerate(item.turns):
        audio, planted = _say(item, number, rng)
        turns.append({**asdict(turn), "start": position / SAMPLE_RATE, "duration": len(audio) / SAMPLE_RATE, **planted})
        pieces += [audio, gap]
        position += len(audio) + len(gap)
    partial = out / "audio" / f".{item.id}.opus"
    soundfile.write(
        partial, np.concatenate(pieces), SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL
    )
    partial.replace(out / "audio" / f"{item.id}.opus")
    record = {"samples": position, "turns": turns}
    partial = done.with_suffix(".partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(done)


def _write_manifests(plan: list[Conversation], out: Path) -> None:
    """Writes lhotse's `recordings.jsonl` and `supervisions.jsonl`, each by rename."""
    from lhotse import AudioSource, Recording, SupervisionSegment

    recordings, supervisions = [], []
    for item in plan:
        made = json.loads((out / "parts" / f"{item.id}.json").read_text(encoding="utf-8"))
        recordings.append(
            Recording(
                id=item.id,
                sources=[AudioSource(type="file", channels=[0], source=f"audio/{item.id}.opus")],
                sampling_rate=SAMPLE_RATE,
                num_samples=made["samples"],
                duration=made["samples"] / SAMPLE_RATE,
            ).to_dict()
        )
        for number, turn in enumerate(made["turns"]):
            voice = item.voices[turn["speaker"]]
            planted = {"planted": turn["planted"]} if "planted" in turn else {}
            supervisions.append(
                SupervisionSegment(
                    id=f"{item.id}-{number:02}",
                    recording_id=item.id,
                    start=round(turn["start"], 6),
                    duration=round(turn["duration"], 6),
                    text=turn["text"],
                    language="en",
                    speaker=str(item.speaker_ids[turn["speaker"]]),
                    custom={
                        "voice": voice,
                        "split": item.split,
                        "license": LICENSE,
                        "origin": origin(voice),
                        **planted,
                    },
                ).to_dict()
            )
    for name, rows in (("recordings", recordings), ("supervisions", supervisions)):
        partial = out / f".{name}.jsonl"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(out / f"{name}.jsonl")


WIDE_TEXT = Path(__file__).parent / "text" / "lines.tsv.xz"
WIDE_SEED = 40_000_000
# Shares of the conversations.
WIDE_PAIRS = {
    ("heart", "heart-78"): 0.34,
    ("heart", "heart-86"): 0.28,
    ("heart", "heart-114"): 0.20,
    ("heart-78", "heart-114"): 0.12,
    ("heart-86", "alpha"): 0.03,
    ("heart-78", "gongitsune"): 0.03,
}
CONTEXT_SEED = 50_000_000
CONTEXT_SIZES = {"test": 60, "validation": 20, "train": 1500}  # about eight hours
# Only hibari's: the pitch of the others cannot be asked for.
CONTEXT_PAIRS = (("heart", "heart-78"), ("heart", "heart-86"), ("heart", "heart-114"), ("heart-78", "heart-114"))


def plan_wide() -> list[Conversation]:
    """The collected text, each line said once, by the base's voices; a line is no answer to the one before it."""
    held_out = {turn.text for item in plan_demo() if item.split != "train" for turn in item.turns}
    texts = [text for _, text in read_lines(WIDE_TEXT) if text not in held_out]
    random.Random(WIDE_SEED).shuffle(texts)
    plan = []
    for index in range(len(texts) // TURNS):
        rng = random.Random(WIDE_SEED + index)
        (pair,) = rng.choices(list(WIDE_PAIRS), list(WIDE_PAIRS.values()))
        opener = rng.randrange(2)
        plan.append(
            Conversation(
                id=f"wide-{WIDE_SEED + index}",
                split="validation" if index % 100 == 99 else "train",
                seed=WIDE_SEED + index,
                voices=pair,
                speaker_ids=(SPEAKER_IDS[pair[0]], SPEAKER_IDS[pair[1]]),
                turns=tuple(
                    Turn(speaker=(opener + number) % 2, text=text)
                    for number, text in enumerate(texts[index * TURNS : (index + 1) * TURNS])
                ),
            )
        )
    return plan


def plan_context() -> list[Conversation]:
    """Conversations whose turns depend on those before; no held-out text of theirs or the demo's is in training."""
    held_out = {turn.text for item in plan_demo() if item.split != "train" for turn in item.turns}
    plan = []
    for split, count in CONTEXT_SIZES.items():
        made = index = 0
        while made < count:
            seed = CONTEXT_SEED + {"test": 1, "validation": 2, "train": 3}[split] * 1_000_000 + index
            index += 1
            rng = random.Random(seed)
            pair = CONTEXT_PAIRS[rng.randrange(len(CONTEXT_PAIRS))]
            said = talk(KINDS[made % len(KINDS)], rng, turns=TURNS)
            texts = {each.turn.text for each in said}
            if held_out & texts:
                continue
            made += 1
            if split != "train":
                held_out |= texts
            plan.append(
                Conversation(
                    id=f"context-{split}-{seed}",
                    split=split,
                    seed=seed,
                    voices=pair,
                    speaker_ids=(SPEAKER_IDS[pair[0]], SPEAKER_IDS[pair[1]]),
                    turns=tuple(each.turn for each in said),
                    said=tuple(said),
                )
            )
    return plan


def _made(item: Conversation, out: Path) -> bool:
    return (out / "parts" / f"{item.id}.json").exists()


def _tell(plan: Sequence[Conversation], out: Path) -> None:
    """Prints what the plan comes to."""
    speech = Counter[str]()
    for item in plan:
        for turn in item.turns:
            speech[item.voices[turn.speaker]] += len(turn.text)
    kinds = Counter(said.kind for item in plan for said in item.said[:1])
    splits = Counter(item.split for item in plan)
    print(f"{len(plan)} conversations of {sum(len(item.turns) for item in plan)} turns, ", end="")
    print(f"about {speech.total() / CHARACTERS_A_SECOND / 3600:.1f} hours; {sum(_made(i, out) for i in plan)} are made")
    for name, counts in (("splits", splits), ("kinds", kinds), ("characters by voice", speech)):
        if counts:
            print(f"{name}: " + ", ".join(f"{key} {count}" for key, count in counts.most_common()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=tuple(PLANS))
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus; made if it is not there")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=int, help="make only so many conversations, spread over the plan")
    parser.add_argument("--plan", action="store_true", help="say what would be made, and make nothing")
    options = parser.parse_args(arguments)
    out: Path = options.out
    plan = PLANS[options.which]()
    if options.limit:
        plan = plan[:: max(1, len(plan) // options.limit)][: options.limit]
    unknown = {voice for item in plan for voice in item.voices} - VOICES.keys()
    assert not unknown, unknown
    _tell(plan, out)
    if options.plan:
        return 0
    for folder in ("audio", "parts"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    left = [item for item in plan if not _made(item, out)]
    made = run_parallel(partial(_make, out=out), left, workers=options.workers)
    for number, _ in enumerate(track(made, total=len(left), description=f"{options.which} corpus"), start=1):
        if not sys.stdout.isatty() and number % max(1, len(left) // 100) == 0:
            print(f"{number} of {len(left)} made", flush=True)
    _write_manifests(plan, out)
    return 0


PLANS = {"demo": plan_demo, "base": plan_base, "voices": plan_voices, "wide": plan_wide, "context": plan_context}

if __name__ == "__main__":
    sys.exit(main())
