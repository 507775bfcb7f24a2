"""The step speak: serves a bundle from a real Triton on this machine, and listens.

| file | what it is |
| --- | --- |
| `made.json` | written last: how soon and how fast it spoke |
| `TEXT.wav` | the sentence asked for |

Speed is what one listener alone would see: one stream at a time, from the request to the sound. One stream is compared
with the offline generator, frame by frame. Where this machine has no Triton, the model speaks in this process, and the
result says so.
"""

from __future__ import annotations

import contextlib
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from csm_components import made
from csm_components.register.judged import judged_bundle
from csm_model.errors import MissingDependencyError
from csm_model.files import digest_of, read_json
from csm_serving.client.speech import SpeechService, Spoken


@dataclass(frozen=True, kw_only=True)
class SpeakResult:
    """How it spoke; JSON-able."""

    out: str
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
    out: Path,
    *,
    text: str,
    speaker: int,
    verdict: Path | None = None,
    sentences: Sequence[str] = (),
    seed: int = 0,
    max_frames: int | None = None,
    say: Callable[[str], None] = print,
) -> SpeakResult:
    """Says `text`, times `sentences` as well, and compares one stream with the offline generator.

    Args:
        bundle: folder of the bundle.
        out: folder for the result.
        text: what to say into a WAV file.
        speaker: whose voice.
        verdict: folder in which register left the gate's verdict on the bundle, if that is not the bundle's own.
        sentences: more to be said, only for the clock.
        seed: of the sampling.
        max_frames: longest turn; None is the model's own bound.
        say: called with lines of progress.

    Raises:
        InputError: nothing to say, or an unknown speaker.
    """
    digest = read_json(bundle / "manifest.json")["digest"]
    asked = {"text": text, "speaker": speaker, "sentences": list(sentences), "seed": seed, "max_frames": max_frames}
    inputs = digest_of({"bundle": digest, **asked})
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
    result = SpeakResult(
        out=str(out),
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


@contextlib.contextmanager
def service(bundle: Path, *, say: Callable[[str], None] = print) -> Iterator[tuple[SpeechService, bool]]:
    """Something that speaks with `bundle`, and whether it is a Triton: this process where the machine has none."""
    from csm_serving.client import SpeechClient
    from csm_serving.launcher.installation import find_installation
    from csm_serving.launcher.triton import LocalTriton
    from csm_serving.settings import load_settings

    settings = load_settings(grpc_port=0, http_port=0, metrics_port=0).unguarded()
    try:
        find_installation(settings.triton)
    except MissingDependencyError as error:
        from csm_serving.server.local import LocalSpeech

        say(f"no Triton here ({error}): speaking in this process")
        yield LocalSpeech(bundle), False
        return
    say("starting Triton")
    with LocalTriton(bundle, settings=settings) as triton, SpeechClient(triton.url) as client:
        say(f"Triton serves {bundle.name} on {triton.url}")
        yield client, True


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
