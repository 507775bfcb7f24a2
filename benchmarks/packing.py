"""Share of padding in the rows that training reads, from the lengths of a corpus's turns; nothing is trained.

    python benchmarks/packing.py [--corpus deploy/demo/corpus] [--row-length 2048 1536] [--split train] [--times 1]

The corpus is in lhotse's layout. A turn fills a row for each of its text ids, for each frame of 80 ms, and one that
ends its speech. `--times 20` draws twenty times as many conversations from it, for a corpus of a size that is common.
Sides:

- padded: a conversation an item, batches of 8 drawn at random, padded to the longest of them (transformers' collator).
- bucketed: the same, but conversations of like lengths share a batch.
- packed: `csm_model.training.packing`, over three epochs of three seeds; and how many conversations stay whole in it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from pathlib import Path

import numpy as np

from csm_model.frames import SAMPLE_RATE, frames_of
from csm_model.text import PhonemeTokenizer
from csm_model.training.packing import Lengths, Packing, Packs

BATCH = 8
SHARD_CONVERSATIONS = 16


def read_lengths(corpus: Path, split: str) -> Lengths:
    """Lengths of the turns of a split, in conversations and shards as tokenise makes them."""
    tokenizer = PhonemeTokenizer()
    path = next(path for path in (corpus / "supervisions.jsonl", corpus / "supervisions.jsonl.gz") if path.exists())
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        turns = [json.loads(line) for line in file]
    turns = [turn for turn in turns if turn["custom"].get("split", split) == split]
    turns.sort(key=lambda turn: (turn["recording_id"], turn["start"]))
    rows = [
        len(tokenizer.encode(turn["text"], int(turn["speaker"]))) + frames_of(round(turn["duration"] * SAMPLE_RATE)) + 1
        for turn in turns
    ]
    numbers = np.unique([turn["recording_id"] for turn in turns], return_inverse=True)[1]
    shard_ends = np.flatnonzero(np.diff(numbers // SHARD_CONVERSATIONS, append=-1)) + 1
    return Lengths(rows=np.array(rows), conversations=numbers, shard_ends=shard_ends)


def drawn(lengths: Lengths, times: int) -> Lengths:
    """So many times as many conversations, drawn from these."""
    sizes = np.bincount(lengths.conversations)
    starts = np.cumsum(sizes) - sizes
    chosen = np.random.default_rng(0).integers(0, len(sizes), times * len(sizes))
    rows = np.concatenate([lengths.rows[starts[each] : starts[each] + sizes[each]] for each in chosen])
    numbers = np.repeat(np.arange(len(chosen)), sizes[chosen])
    shard_ends = np.flatnonzero(np.diff(numbers // SHARD_CONVERSATIONS, append=-1)) + 1
    return Lengths(rows=rows, conversations=numbers, shard_ends=shard_ends)


def padded(conversations: np.ndarray) -> float:
    """Padding of batches of so many consecutive conversations, each as long as its longest."""
    batches = [conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH)]
    return 1.0 - conversations.sum() / sum(len(batch) * batch.max() for batch in batches)


def whole_share(packs: Packs, epoch: int) -> float:
    """Share of the conversations that are one document."""
    ids = packs.lengths.conversations
    sizes = np.bincount(ids)
    documents = [document for pack in packs.epoch(epoch) for document in pack]
    return sum(d.last - d.first == sizes[d.conversation] for d in documents) / len(sizes)


def main() -> None:
    """Prints one line a side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("deploy/demo/corpus"))
    parser.add_argument("--row-length", type=int, nargs="+", default=[2048, 1536])
    parser.add_argument("--split", default="train")
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    lengths = read_lengths(options.corpus, options.split)
    if options.times > 1:
        lengths = drawn(lengths, options.times)
    conversations = np.bincount(lengths.conversations, weights=lengths.rows)
    print(
        f"{len(lengths.rows)} turns of {lengths.rows.mean():.0f} rows ({lengths.rows.min()} to {lengths.rows.max()}), "
        f"{len(conversations)} conversations of {conversations.mean():.0f} "
        f"({conversations.min():.0f} to {conversations.max():.0f}); {conversations.sum():.0f} rows"
    )
    rng = np.random.default_rng(0)
    shuffled = statistics.mean(padded(rng.permutation(conversations)) for _ in range(20))
    print(f"padded    {shuffled:7.2%}")
    print(f"bucketed  {padded(np.sort(conversations)):7.2%}")
    for row_length in options.row_length:
        found = []
        began = time.perf_counter()
        for seed in range(3):
            packs = Packs(lengths, Packing(row_length=row_length, seed=seed))
            found += [(packs.padding(epoch), whole_share(packs, epoch)) for epoch in range(3)]
        seconds = (time.perf_counter() - began) / len(found)
        share, whole = (statistics.mean(column) for column in zip(*found, strict=True))
        fewest = -(-int(conversations.sum()) // row_length)
        least = 1.0 - conversations.sum() / (fewest * row_length)
        print(
            f"packed    {share:7.2%}  in rows of {row_length} (at most {max(found)[0]:.2%}; the fewest packs there can "
            f"be leave {least:.2%}); {whole:.1%} of the conversations whole; planned in {seconds:.2f} s"
        )


if __name__ == "__main__":
    main()
