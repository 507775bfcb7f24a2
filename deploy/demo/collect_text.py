"""Collects the wide text: lines for about twenty hours of speech, as frequent in sounds and words as real English.

    python deploy/demo/collect_text.py                   # deploy/demo/text, from packages in data/text-sources
    python deploy/demo/collect_text.py --out data/text --characters 300000

Written are, in OUT:

| file | what it is |
| --- | --- |
| `lines.tsv.xz` | source and text of every line; what `make_corpora.py wide` speaks |
| `held-out.tsv.xz` | lines of the same sources that are in no corpus: what real English is compared by |
| `trigrams.json` | how often the runs of three words of the suite stand in real text, by source |
| `sources.json` | each source with its packages, versions, digests and licence; counts; the figures of the comparison |
| `licenses/` | what the packages themselves say of their licences |

The same packages give the same bytes. Needs Debian's `apt-get` and `dpkg-deb`; nothing is installed. About six minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

import patterns
import sentences
from csm_components.evaluate.suite import read_suite
from csm_model.files import write_bytes, write_json
from selection import KINDS, Line, choose, divergence, shares, totals
from suite import SUITE, is_english_anyway
from text_sources import SOURCES, license_text, passages

HERE = Path(__file__).parent
CHARACTERS = 1_100_000  # 20 hours at 15 characters a second
GENERATED_SHARE = 0.12
HELD_OUT_SHARE = 0.02
_SAME_BEGINNINGS = 4  # lines of a source that begin with the same three words
_SEED = 16


def _is_held_out(text: str) -> bool:
    """The same lines whatever else is collected."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") < HELD_OUT_SHARE * 2**32


def collect(source: str, cache: Path, seen: set[str]) -> list[Line]:
    """A source's lines that can be spoken, each once."""
    lines: list[Line] = []
    beginnings: Counter[str] = Counter()
    for passage in passages(SOURCES[source], cache):
        for sentence in sentences.split(passage):
            text = sentences.spoken(sentence)
            if text is None or (plain := sentences.plain(text)) in seen:
                continue
            begin = " ".join(plain.split()[:3])
            if beginnings[begin] >= _SAME_BEGINNINGS:
                continue
            sounds = sentences.sounds(text)
            if sounds is not None:
                seen.add(plain)
                beginnings[begin] += 1
                lines.append(Line(source=source, text=text, sounds=tuple(sounds)))
    return lines


def generated(characters: int, seen: set[str]) -> list[Line]:
    """Lines of `patterns.py`, each once."""
    lines: list[Line] = []
    taken = 0
    for kind, sentence in patterns.sentences(random.Random(_SEED)):
        text = sentences.in_words(sentence)
        if text is None or sentences.plain(text) in seen or (sounds := sentences.sounds(text, guess=True)) is None:
            continue
        seen.add(sentences.plain(text))
        lines.append(Line(source=f"pattern:{kind}", text=text, sounds=tuple(sounds)))
        taken += len(text)
        if taken >= characters:
            return lines
    raise AssertionError("patterns have no end")


def grammar_lines(most: int) -> list[Line]:
    """What the base was trained on before: the grammar's lines, a part of them scrambled."""
    from make_corpora import plan_base

    texts = [turn.text for item in plan_base() for turn in item.turns]
    chosen = random.Random(_SEED).sample(texts, most)
    return [
        Line(source="grammar", text=text, sounds=tuple(sentences.sounds(text, guess=True) or ())) for text in chosen
    ]


def _write(path: Path, lines: Iterable[Line]) -> None:
    rows = sorted(f"{line.source}\t{line.text}\n" for line in lines)
    write_bytes(path, lzma.compress("".join(rows).encode(), preset=9 | lzma.PRESET_EXTREME))


def compare(reference: Mapping[str, Mapping[object, float]], texts: Mapping[str, Sequence[Line]]) -> dict[str, object]:
    """For each text: its size, its divergence from the reference, and how much of running English its words are."""
    found: dict[str, object] = {}
    for name, lines in texts.items():
        sums = totals(lines)
        covered = sum(p for word, p in reference["words"].items() if word in sums["words"])
        found[name] = {
            "lines": len(lines),
            "characters": sum(len(line.text) for line in lines),
            "words": len(sums["words"]),
            "running_words_covered": round(covered, 4),
            **{
                f"bits_{kind}": round(divergence(reference[kind], sums[kind]), 4) for kind in KINDS if kind != "sources"
            },
        }
    return found


def _novelty(texts: Iterable[str], trained: Mapping[tuple[str, str, str], int]) -> float:
    """The share of running three-word runs that training has."""
    runs = [run for text in texts for run in sentences.trigrams(text)]
    return round(sum(run in trained for run in runs) / len(runs), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "text", help="folder of the text; made if it is not there")
    parser.add_argument("--cache", type=Path, default=Path("data/text-sources"), help="where the packages are kept")
    parser.add_argument("--characters", type=int, default=CHARACTERS, help="how much text is chosen")
    parser.add_argument("--picture", type=Path, help="draw how often sounds and words come, as PNG")
    arguments = parser.parse_args()
    out: Path = arguments.out
    (out / "licenses").mkdir(parents=True, exist_ok=True)

    suite = [sentences.in_words(item.text) or "" for item in read_suite(SUITE)]
    seen = {sentences.plain(text) for text in suite}
    pool: dict[str, list[Line]] = {}
    for source in track(SOURCES, description="sentences of the sources"):
        pool[source] = collect(source, arguments.cache, seen)
        write_bytes(out / "licenses" / f"{source}.txt", license_text(SOURCES[source], arguments.cache))
    runs = {name: Counter(r for line in lines for r in sentences.trigrams(line.text)) for name, lines in pool.items()}
    wanted = sorted({run for text in suite for run in sentences.trigrams(text)})
    counts = {" ".join(run): {name: runs[name][run] for name in pool if runs[name][run]} for run in wanted}
    forbidden = {run for run in wanted if not is_english_anyway(counts[" ".join(run)])}

    held_out = [line for lines in pool.values() for line in lines if _is_held_out(line.text)]
    free = [
        line
        for lines in pool.values()
        for line in lines
        if not _is_held_out(line.text) and forbidden.isdisjoint(sentences.trigrams(line.text))
    ]
    made = generated(int(arguments.characters * GENERATED_SHARE), seen)
    made = [line for line in made if forbidden.isdisjoint(sentences.trigrams(line.text))]
    reference = shares(pool)
    left = arguments.characters - sum(len(line.text) for line in made)
    chosen = choose(free, reference, made, left) + made

    unseen = shares({name: [line for line in held_out if line.source == name] for name in pool})
    texts: dict[str, Sequence[Line]] = {
        "chosen": chosen,
        "drawn at random": random.Random(_SEED).sample(free, min(len(free), len(chosen))),
        "grammar": grammar_lines(6000),
    }
    trained = Counter(run for line in chosen for run in sentences.trigrams(line.text))
    _write(out / "held-out.tsv.xz", held_out)
    _write(out / "lines.tsv.xz", chosen)
    write_json(out / "trigrams.json", counts)
    by_source = Counter(line.source for line in chosen)
    report = {
        "against_held_out_text": compare(unseen, texts),
        "trigrams_in_training": {
            "held-out text": _novelty((line.text for line in held_out), trained),
            "suite": _novelty(suite, trained),
        },
    }
    write_json(
        out / "sources.json",
        {
            "sources": {
                name: {
                    "what": source.what,
                    "license": source.license,
                    "packages": [asdict(package) for package in source.packages],
                    "sentences": len(pool[name]),
                    "chosen": by_source[name],
                }
                for name, source in SOURCES.items()
            },
            "generated": {
                "what": "deploy/demo/patterns.py",
                "license": "Apache-2.0",
                "chosen": {name: count for name, count in sorted(by_source.items()) if name not in SOURCES},
            },
            **report,
        },
    )
    print(json.dumps(report, indent=1))
    if arguments.picture:
        from text_picture import draw

        draw(unseen, {name: totals(texts[name]) for name in ("chosen", "grammar")}, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
