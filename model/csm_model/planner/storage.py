"""Bytes on disk: the audio, the tokens made of it, and the checkpoints of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from csm_model.frames import FRAME_RATE, SAMPLE_RATE
from csm_model.planner.flops import parameter_count
from csm_model.planner.job import TrainingJob
from csm_model.planner.memory import ADAM_STATES
from csm_model.planner.tape import FLOAT, INT

AudioFormat = Literal["pcm16", "flac", "opus"]
PCM_BYTES = 2
"""Of a sample of 16 bits."""
FLAC_SHARE = 0.55
"""Size of FLAC over that of 16-bit PCM, for speech; an assumption."""
OPUS_BITS_PER_SECOND = 32_000
"""Of Opus: RFC 6716, 2.1.1, names 28 to 40 kbit/s for speech of full bandwidth; an assumption."""
CODE_BYTES = 2
"""Token shards hold codes as int16 (`csm_model.training.shards`)."""
ID_BYTES = 4
"""Token shards hold text ids as int32."""
TURN_BYTES = 2 * INT + 220
"""Of a turn in a token shard beside codes and ids: two ends, and its row of metadata with the text; an assumption."""


@dataclass(frozen=True, kw_only=True)
class StorageNeed:
    """Bytes."""

    audio: dict[AudioFormat, float]
    """The corpus as 24 kHz mono sound, by format."""
    tokens: float
    """Token shards."""
    checkpoint: float
    """One checkpoint: parameters and AdamW's moments in float32, all processes together."""
    checkpoints: float
    """The most at once: those kept, the best, and the one being written."""


def storage(job: TrainingJob, hours: float) -> StorageNeed:
    """What so many hours of speech and their training take."""
    seconds = hours * 3600.0
    pcm = seconds * SAMPLE_RATE * PCM_BYTES
    one = float(FLOAT * (1 + ADAM_STATES) * parameter_count(job.sizes))
    return StorageNeed(
        audio={"pcm16": pcm, "flac": FLAC_SHARE * pcm, "opus": seconds * OPUS_BITS_PER_SECOND / 8},
        tokens=token_bytes(job, seconds),
        checkpoint=one,
        checkpoints=one * (job.keep_checkpoints + 2),
    )


def token_bytes(job: TrainingJob, seconds: float) -> float:
    """Bytes of the token shards of so many seconds."""
    turns = seconds / job.speech.turn_seconds
    codes = seconds * FRAME_RATE * job.sizes.num_codebooks * CODE_BYTES
    return codes + turns * (job.speech.text_of_turn(job.sizes) * ID_BYTES + TURN_BYTES)
