"""Takes a part of tokens as a replay: what the demo's fine-tuning learns again, so that it keeps what the base could.

    python deploy/demo/make_replay.py --tokens TOKENS --out deploy/demo/replay

TOKENS is what tokenise made of the wide corpus with the demo's codec. Whole conversations of its training split, evenly
over them; neither the codec nor other splits go along. The same tokens give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from csm_model.errors import InputError
from csm_model.files import atomic_folder, digest_of, read_json, write_json
from csm_model.training.shards import TokenTurn, load_tokens, write_index, write_shard

CONVERSATIONS = 400  # about 1.8 hours of speech, 1.5 MB
SHARD = 100  # conversations
_KEPT = (
    "format", "codec_digest", "tokenizer_digest", "dataset_digest", "num_codebooks", "codebook_size", "vocab_size",
    "text_prefix", "text_rules", "speakers",
)  # fmt: skip


def make_replay(tokens: Path, out: Path, *, conversations: int = CONVERSATIONS) -> str:
    """Writes the replay; returns the digest of its tokens.

    Raises:
        InputError: the tokens hold fewer conversations.
    """
    manifest = read_json(tokens / "manifest.json")
    talks: dict[str, list[TokenTurn]] = {}
    for turn in load_tokens(tokens, "train"):
        talks.setdefault(turn.conversation, []).append(turn)
    if len(talks) < conversations:
        raise InputError(f"{tokens}: holds {len(talks)} conversations of training, {conversations} are to be taken")
    names = list(talks)
    chosen = [names[place * len(names) // conversations] for place in range(conversations)]
    with atomic_folder(out) as partial:
        rows = []
        for number, start in enumerate(range(0, conversations, SHARD)):
            turns = [turn for name in chosen[start : start + SHARD] for turn in talks[name]]
            rows.append(write_shard(partial / f"train-{number:05}.safetensors", turns))
        index = write_index(partial, "train", [row["file"] for row in rows])
        kept = {name: manifest[name] for name in _KEPT}
        described = {
            **kept,
            "splits": {"train": rows},
            "indexes": {"train": index},
            "files": {},
            "turns": sum(row["turns"] for row in rows),
            "frames": sum(row["frames"] for row in rows),
        }
        digest = digest_of(described)
        write_json(partial / "manifest.json", {**described, "digest": digest})
    return digest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="folder that tokenise wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the replay; what is there is replaced")
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS)
    options = parser.parse_args(arguments)
    try:
        digest = make_replay(options.tokens, options.out, conversations=options.conversations)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in options.out.iterdir())
    manifest = read_json(options.out / "manifest.json")
    print(
        f"{manifest['turns']} turns, {manifest['frames'] / 12.5 / 3600:.1f} hours, {size / 1e6:.1f} MB: {digest[:12]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
