"""What is asked of the planner: a model, a training's settings, how many GPUs, and what the speech is like.

Shapes: R rows of a micro-batch, K codebooks, F frames picked for the depth decoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from csm_model.config import ModelConfig
from csm_model.errors import InputError
from csm_model.frames import FRAME_RATE
from csm_model.training.packing import MOST_PADDING

if TYPE_CHECKING:
    from csm_model.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class SpeechShape:
    """What the corpus is like: how rows, targets and bytes follow from hours. Assumptions, all to be set."""

    ids_per_second: float = 3.5
    """Text ids of the words in a second of speech: 160 words a minute at 1.3 ids of the Llama-3 tokenizer each."""
    turn_seconds: float = 7.0
    """Mean length of a turn; each costs the ids that open and close its text, and the row that ends its speech."""
    document_turns: float = 40.0
    """Turns of a document, which attend to one another; a document is never longer than a row of the batch."""
    padding: float = MOST_PADDING
    """Share of the rows that is padding."""

    def __post_init__(self) -> None:
        for name in ("ids_per_second", "turn_seconds", "document_turns"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)}: must be more than 0, and finite")
        if not 0.0 <= self.padding < 1.0:
            raise InputError(f"padding {self.padding}: must be 0 or more, and less than 1")

    @property
    def frames_of_turn(self) -> float:
        """Audio frames of a turn."""
        return self.turn_seconds * FRAME_RATE

    def text_of_turn(self, sizes: ModelConfig) -> float:
        """Text rows of a turn: begin and speaker, words, end."""
        return sizes.text_prefix + self.ids_per_second * self.turn_seconds + 1

    def rows_of_turn(self, sizes: ModelConfig) -> float:
        """Rows of a turn: text, frames, and the one that ends its speech."""
        return self.text_of_turn(sizes) + self.frames_of_turn + 1


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one micro-batch of one process holds."""

    rows: int
    """R, padding included."""
    documents: tuple[int, ...]
    """Lengths of the documents, padding being among them; they add up to R."""
    first: int
    """Rows whose codebook 0 is predicted."""
    depth: int
    """F."""
    text: int
    """Rows whose text id is predicted: 0 where the text has no loss."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training to be planned. Names and meanings are those of `csm_model.training.config.TrainingConfig`."""

    sizes: ModelConfig
    """The model."""
    gpus: int
    """Processes, one a GPU."""
    strategy: Literal["ddp", "fsdp"]
    """Whole models, or shares of everything."""
    bf16: bool
    """Matrix products in bfloat16 over float32 weights."""
    recompute: bool
    """Activations of a block are computed again in the backward pass."""
    row_length: int
    """Rows of a pack."""
    micro_packs: int
    """Packs that a process handles at once."""
    accumulation: int
    """Micro-batches of a process in a step."""
    depth_share: float
    """Share of the frames that the depth decoder is trained on."""
    text_loss: bool
    """Whether the text has a loss."""
    dropout: bool
    """Whether the blocks have dropout."""
    keep_checkpoints: int
    """Checkpoints kept, beside the best."""
    speech: SpeechShape = field(default_factory=SpeechShape)
    """What the corpus is like."""

    @classmethod
    def of(cls, config: TrainingConfig, sizes: ModelConfig, *, gpus: int, speech: SpeechShape) -> TrainingJob:
        """From a training's settings.

        Raises:
            InputError: the settings ask for what the planner does not plan, or for more rows than the model holds.
        """
        if config.trainable != "all":
            raise InputError(f"trainable {config.trainable!r}: the planner plans trainings of all weights")
        if config.row_length > sizes.max_rows:
            raise InputError(f"row_length {config.row_length}: the model holds {sizes.max_rows} rows")
        if gpus < 1:
            raise InputError(f"gpus {gpus}: must be at least 1")
        config.check_processes(gpus)
        return cls(
            sizes=sizes,
            gpus=gpus,
            strategy=config.strategy,
            bf16=config.bf16,
            recompute=config.recompute,
            row_length=config.row_length,
            micro_packs=config.micro_packs,
            accumulation=config.batch_packs // (gpus * config.micro_packs),
            depth_share=config.depth_share,
            text_loss=config.text_weight > 0,
            dropout=config.dropout > 0,
            keep_checkpoints=config.keep_checkpoints,
            speech=speech,
        )

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 is at work; alone, a process does without."""
        return self.strategy == "fsdp" and self.gpus > 1

    @property
    def packs(self) -> int:
        """Packs of an optimiser step."""
        return self.gpus * self.micro_packs * self.accumulation

    @property
    def load(self) -> Workload:
        """The mean micro-batch of a process."""
        speech, rows = self.speech, self.row_length * self.micro_packs
        turns = rows * (1.0 - speech.padding) / speech.rows_of_turn(self.sizes)
        frames = turns * speech.frames_of_turn
        closing = turns if self.sizes.end == "zeros" else 0.0  # every codebook of the closing rows is learnt
        return Workload(
            rows=rows,
            documents=self._documents(),
            first=min(rows, round(frames + turns)),
            depth=min(rows, round(self.depth_share * frames + closing)),
            text=round(turns * (speech.text_of_turn(self.sizes) - 1)) if self.text_loss else 0,
        )

    def _documents(self) -> tuple[int, ...]:
        speech = self.speech
        filled = round(self.row_length * (1.0 - speech.padding))
        length = min(filled, max(1, round(speech.document_turns * speech.rows_of_turn(self.sizes))))
        whole, rest = divmod(filled, length)
        pack = [length] * whole + [part for part in (rest, self.row_length - filled) if part]
        return tuple(pack * self.micro_packs)

    def changed(self, **fields: object) -> TrainingJob:
        """The same job with other settings."""
        return replace(self, **fields)  # type: ignore[arg-type]
