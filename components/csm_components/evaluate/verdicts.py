"""What the judges say of one clip, committed clip by clip like the clips themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csm_components.evaluate.clips import ClipPlace, read_clip
from csm_components.evaluate.judges import Mos, Recogniser, Size, SpeakerJudge
from csm_components.evaluate.silence import Silence, silence_of
from csm_model.files import digest_of, known_json, read_json, write_json
from csm_model.frames import SAMPLE_RATE

JUDGES_VERSION = 1
"""Goes up when a judge hears otherwise; older verdicts are then made again."""


@dataclass(frozen=True, kw_only=True)
class ClipVerdict:
    """What was heard."""

    heard: str
    mos: float | None
    """None where nobody asked for it."""
    nearest: int | None
    similarity: dict[int, float]
    """Cosine to each voice's reference."""
    silence: Silence
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgeTask:
    """One committed clip to be judged."""

    clip: ClipPlace
    path: Path
    """Where the verdict goes."""
    recogniser: Size
    references: Mapping[int, NDArray[np.float32]]
    references_key: str
    """Names what the references were made from."""
    mos: bool = True
    """Whether naturalness is scored too; it takes as long as recognition."""

    @property
    def key(self) -> str:
        """Digest of all that the verdict depends on."""
        return digest_of(
            {
                "clip": self.clip.key,
                "recogniser": self.recogniser,
                "mos": self.mos,
                "references": self.references_key,
                "version": JUDGES_VERSION,
            }
        )

    @property
    def committed(self) -> bool:
        """Whether the verdict is there, and is on this clip."""
        return (known_json(self.path) or {}).get("key") == self.key


@functools.lru_cache(maxsize=1)
def _panel(size: Size, with_mos: bool) -> tuple[Recogniser, Mos | None, SpeakerJudge]:
    return Recogniser(size), Mos() if with_mos else None, SpeakerJudge()


def dismiss_panel() -> None:
    """Lets go of the judges that this process holds."""
    _panel.cache_clear()


def judge_clip(task: JudgeTask) -> str:
    """Judges and commits; returns what was heard."""
    recogniser, mos, voices = _panel(task.recogniser, task.mos)
    audio = read_clip(task.clip.wav)
    voice = voices.decide(voices.embed(audio), task.references)
    verdict = ClipVerdict(
        heard=recogniser.transcribe(audio),
        mos=mos.score(audio) if mos else None,
        nearest=voice.nearest,
        similarity=voice.similarity,
        silence=silence_of(audio),
        seconds=len(audio) / SAMPLE_RATE,
    )
    write_json(task.path, {"key": task.key, **asdict(verdict)})
    return verdict.heard


def read_verdict(path: Path) -> ClipVerdict:
    """Reads what `judge_clip` committed."""
    stored = read_json(path)
    stored.pop("key")
    return ClipVerdict(
        **{
            **stored,
            "similarity": {int(speaker): value for speaker, value in stored["similarity"].items()},
            "silence": Silence(**stored["silence"]),
        }
    )
