"""The step speak: serves a bundle from a real Triton on this machine, and listens.

| file | what it is |
| --- | --- |
| `made.json` | written last: how soon and how fast it spoke, and how well |
| `dialogue.wav` | the dialogue asked for; what the judges heard in it is in `clips/`, `verdicts/` and `dialogue.html` |
| `TEXT.wav` | the sentence asked for |

Speed is what one listener alone would see: one stream at a time, from the request to the sound. One stream is compared
with the offline generator, frame by frame. Where this machine has no Triton, the model speaks in this process, and the
result says so.
"""

from __future__ import annotations

import contextlib
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from csm_components import made
from csm_components.evaluate.knobs import EvaluateSettings
from csm_components.ingest.conversations import read_manifest as read_conversations_manifest
from csm_components.register.judged import judged_bundle
from csm_components.speak.dialogue import cast_dialogue, hold_dialogue, judge_dialogue, voices_of
from csm_components.speak.knobs import SpeakSettings
from csm_components.speak.service import service
from csm_model.bundle import read_manifest as read_bundle_manifest
from csm_model.files import digest_of
from csm_serving.client.dialogue import read_dialogue
from csm_serving.client.speech import SpeechService, Spoken


@dataclass(frozen=True, kw_only=True)
class SpeakResult:
    """How it spoke; JSON-able."""

    out: str
    dialogue: dict[str, Any] | None
    """What came of the dialogue, a `HeardDialogue`; None where none was asked for."""
    speech: str
    """WAV of the sentence asked for."""
    text: str
    speaker: int
    bundle_digest: str
    served: bool
    """True: streamed from Triton; False: this machine has none, it spoke in this process."""
    streams: int
    """Streams that were timed."""
    first_audio_ms: float
    """Median time from the request to the first sound."""
    first_audio_ms_worst: float
    real_time_factor: float
    """Seconds of work for a second of sound, over all timed streams."""
    frames_equal: bool
    """Whether every frame of a stream equals the offline generator's with the same seed."""
    seconds: list[float] = field(default_factory=list)
    """Length of each timed stream's sound."""
    reused: bool


def speak(
    bundle: Path,
    conversations: Path,
    out: Path,
    *,
    settings: SpeakSettings,
    judging: EvaluateSettings,
    verdict: Path | None = None,
    sentences: Sequence[str] = (),
    seed: int = 0,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> SpeakResult:
    """Holds a dialogue, says a sentence and some for the clock, and compares one stream with the offline generator.

    Args:
        bundle: folder of the bundle.
        conversations: folder that ingest wrote: whose voices speak, and what they sound like.
        out: folder for the result.
        settings: what to say, and who says it.
        judging: who judges the dialogue, and how long a turn may be.
        verdict: folder in which register left the gate's verdict on the bundle, if that is not the bundle's own.
        sentences: more to be said, only for the clock.
        seed: of the sampling.
        workers: processes that judge; `CSM_WORKERS` or one a core without it.
        say: called with lines of progress.

    Raises:
        InputError: nothing to say, or an unknown speaker.
    """
    manifest, dataset = read_bundle_manifest(bundle), read_conversations_manifest(conversations)
    digest = manifest["digest"]
    voices = voices_of(manifest, dataset)
    text, max_frames = settings.say, judging.max_frames
    speaker = min(voices) if settings.speaker is None else settings.speaker
    lines = () if settings.dialogue is None else cast_dialogue(read_dialogue(Path(settings.dialogue)), voices)
    asked = {"text": text, "speaker": speaker, "sentences": list(sentences), "seed": seed, "max_frames": max_frames}
    judged = {"dataset": dataset["digest"], "recogniser": judging.recogniser, "mos": judging.mos}
    told = {"lines": [(line.who, line.text) for line in lines], **judged} if lines else None
    inputs = digest_of({"bundle": digest, "dialogue": told, **asked})
    known = made.committed(out, inputs)
    if known is not None and Path(known["speech"]).exists():
        return SpeakResult(**known)
    out.mkdir(parents=True, exist_ok=True)
    wav = out / f"{file_name_of(text)}.wav"
    with judged_bundle(bundle, verdict) as folder, service(folder, say=say) as (speech, served):
        speech.say(text, speaker, seed=seed, max_frames=max_frames)  # the first stream warms the model up
        timed: list[Spoken] = []
        for number, sentence in enumerate([text, *sentences]):
            path = wav if number == 0 else None
            timed.append(speech.say(sentence, speaker, path=path, seed=seed + number, max_frames=max_frames))
            say(f"{number + 1}/{1 + len(sentences)}  first audio {timed[-1].first_audio_ms:.0f} ms")
        equal = _equals_offline(speech, folder, text, speaker, seed=seed, max_frames=max_frames)
        takes = hold_dialogue(speech, lines, out, manifest=manifest, seed=seed, max_frames=max_frames, say=say)
    heard = judge_dialogue(takes, conversations, out, names=voices, judging=judging, workers=workers) if takes else None
    result = SpeakResult(
        out=str(out),
        dialogue=None if heard is None else asdict(heard),
        speech=str(wav),
        text=text,
        speaker=speaker,
        bundle_digest=digest,
        served=served,
        streams=len(timed),
        first_audio_ms=statistics.median(spoken.first_audio_ms for spoken in timed),
        first_audio_ms_worst=max(spoken.first_audio_ms for spoken in timed),
        real_time_factor=sum(s.real_time_factor * s.seconds for s in timed) / sum(s.seconds for s in timed),
        frames_equal=equal,
        seconds=[spoken.seconds for spoken in timed],
        reused=False,
    )
    made.commit(out, "speak", inputs, result)
    return result


def _equals_offline(
    speech: SpeechService, bundle: Path, text: str, speaker: int, *, seed: int, max_frames: int | None
) -> bool:
    """Whether the codes of a stream are those that this process makes."""
    from csm_serving.server.local import LocalSpeech

    codes = []
    for one in (speech, LocalSpeech(bundle)):
        with contextlib.closing(one.stream(text, speaker, seed=seed, max_frames=max_frames)) as stream:
            codes.append(np.stack([chunk.codes for chunk in stream], axis=1))
    streamed, own = codes
    return np.array_equal(streamed, own)


def file_name_of(text: str) -> str:
    """A file name from what is said: `could-you-book-a-table`."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words[:6]) or "speech"
