"""One shard: some conversations to text ids and codes. Runs in a worker process.

The shard's part (`parts/NAME.json`) is written after the shard itself, with the key of what both were made from, so a
shard is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csm_components.ingest.audio import Samples
from csm_components.ingest.conversations import Conversation
from csm_model.codec import AudioCodec, load_codec
from csm_model.errors import InputError
from csm_model.files import digest_of, digest_of_file, known_json, write_json
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE, frames_of
from csm_model.text import Tokenizer, load_tokenizer
from csm_model.training.shards import TokenTurn, write_shard

SHARD_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What goes to a worker."""

    name: str
    key: str
    conversations: tuple[Conversation, ...]
    out: Path

    @property
    def path(self) -> Path:
        """The shard's file."""
        return self.out / f"{self.name}.safetensors"

    @property
    def part(self) -> Path:
        """The shard's part."""
        return self.out / "parts" / f"{self.name}.json"

    @property
    def samples(self) -> int:
        """Samples of speech in it."""
        return sum(turn.samples for item in self.conversations for turn in item.turns)

    @property
    def seconds(self) -> float:
        """Seconds of speech in it."""
        return self.samples / SAMPLE_RATE


def shard_key(conversations: tuple[Conversation, ...], codec_digest: str, tokenizer: Tokenizer) -> str:
    """Digest of everything that a shard is made from, the rules by which text becomes words among it."""
    return digest_of(
        {
            "format": SHARD_FORMAT,
            "codec": codec_digest,
            "tokenizer": tokenizer.digest,
            "text_rules": tokenizer.rules,
            "conversations": [
                [
                    item.id,
                    item.split,
                    item.pcm_sha256,
                    [
                        [turn.id, turn.text, turn.speaker, turn.start_sample, turn.samples, *turn.tags]
                        + ([turn.channel] if item.channels > 1 else [])
                        for turn in item.turns
                    ],
                ]
                for item in conversations
            ],
        }
    )


def committed(task: ShardTask) -> dict[str, Any] | None:
    """The part of a shard that an earlier run has finished; none where there is none, or of other inputs."""
    part: dict[str, Any] | None = known_json(task.part)
    if part is None or part.get("key") != task.key:
        return None
    row = part["row"]
    if row is not None and not (task.path.exists() and digest_of_file(task.path) == row["sha256"]):
        return None
    return part


_codec: AudioCodec
_tokenizer: Tokenizer


def load_tools(codec: Path, tokenizer: Path) -> None:
    """Loads what a worker needs; once a process."""
    global _codec, _tokenizer
    _codec = load_codec(codec)
    _tokenizer = load_tokenizer(tokenizer)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: sums are then taken in one order, so codes do not depend on how many workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode(codec: AudioCodec, audio: Samples) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Sound `[S]` to codes `[K, T]` (int16); the last frame is filled with silence."""
    padded = np.pad(audio, (0, frames_of(len(audio)) * FRAME_SAMPLES - len(audio)))
    with one_thread(), torch.inference_mode():
        codes = codec.encode(torch.from_numpy(padded)[None, None])[0]
    return codes.numpy().astype(np.int16)


def make_shard(task: ShardTask) -> dict[str, Any]:
    """Tokenises the conversations of a task, writes the shard, and returns the part it committed.

    A turn whose text the tokenizer refuses is left out, and named in the part.
    """
    turns: list[TokenTurn] = []
    left_out: list[dict[str, str]] = []
    for item in task.conversations:
        for turn, audio in zip(item.turns, item.turn_audios(), strict=True):
            try:
                ids = _tokenizer.encode(turn.text, turn.speaker)
            except InputError as error:
                left_out.append({"turn": turn.id, "reason": str(error)})
                continue
            turns.append(
                TokenTurn(
                    id=turn.id,
                    conversation=item.id,
                    split=item.split,
                    speaker=turn.speaker,
                    text=turn.text,
                    text_ids=np.array(ids, np.int32),
                    codes=encode(_codec, audio),
                    tags=turn.tags,
                )
            )
    row = write_shard(task.path, turns) if turns else None
    part = {"key": task.key, "row": row, "left_out": left_out, "seconds": task.seconds}
    write_json(task.part, part)
    return part
