"""How often speech stops in each way: the model's, and recordings' as a check of what stops it.

    python benchmarks/failures.py [--bundle deploy/demo/base] [--codec deploy/demo/codec] [--corpus deploy/demo/corpus]
                                  [--sentences 48] [--seeds 3] [--speaker 0] [--recordings 144]
                                  [--temperature 0.5]

1. **Training speech**: recordings of the training split, each a turn, encoded and decoded by the codec: the longest
   silence, the longest repetition, the most frames a sound. The bounds of `csm_model.inference.safety` come from here.
   Also the pauses at punctuation, from which those of `csm_model.inference.sentences` come.
2. **False alarms**: how many recordings of the test split each watch would have stopped.
3. **The model**: sentences of the test split, in several seeds each, without context: how many ended by themselves,
   were cut at the most frames allowed, were stopped by which watch, or ended with the first frame that may end.

Shares carry a 95 % interval (Wilson). --bundle takes a run's champion as well; a codec that it carries is used.
`--recordings 0` leaves 1 and 2 out, `--sentences 0` leaves 3 out. `--temperature`, of all codebooks, takes the place of
what the bundle recommends, to see the watches at work (0, 1.5). Speech is made in batches.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from csm_components.evaluate.figures import wilson_interval
from csm_components.ingest.audio import read_sound, to_model_rate
from csm_model.bundle import Bundle, load_bundle
from csm_model.codec import AudioCodec
from csm_model.frames import FRAME_SAMPLES, FRAME_SECONDS
from csm_model.inference.batch import SpeechBatch
from csm_model.inference.narration import Utterance
from csm_model.inference.safety import MIN_FRAMES, Bounds, Reason, Watch
from csm_model.inference.sampling import Sampling
from csm_model.text import Tokenizer

BATCH = 16
_MARKS = {",": "comma", ".": "sentence", "?": "sentence", "!": "sentence"}


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A turn of the corpus."""

    text: str
    speaker: int
    path: Path
    start: float
    duration: float

    def sound(self) -> np.ndarray:
        """float32 `[S]`, 24 kHz."""
        samples, rate = read_sound(self.path)
        turn = samples[round(self.start * rate) : round((self.start + self.duration) * rate)].mean(1)
        return to_model_rate(turn, rate)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the watches see of a turn."""

    reason: Reason | None
    """What would have stopped it."""
    before: int
    """Silent frames before its first audio."""
    inside: int
    """Longest pause between sounds, in frames."""
    after: int
    """Silent frames after its last sound."""
    repeated: int
    """Longest repetition, in frames."""
    frames: int


def recordings(corpus: Path, split: str, limit: int) -> list[Recording]:
    """Turns of a split, spread evenly over it."""
    lines = (corpus / "recordings.jsonl").read_text(encoding="utf-8").splitlines()
    paths = {row["id"]: corpus / row["sources"][0]["source"] for row in map(json.loads, lines)}
    rows = map(json.loads, (corpus / "supervisions.jsonl").read_text(encoding="utf-8").splitlines())
    found = [
        Recording(text=row["text"], speaker=int(row["speaker"]), path=paths[row["recording_id"]], start=row["start"],
                  duration=row["duration"])
        for row in rows if row["custom"]["split"] == split
    ]  # fmt: skip
    return found if limit >= len(found) else [found[i * len(found) // limit] for i in range(limit)]


def look(codes: Tensor, sound: np.ndarray) -> Seen:
    """Shows the codes `[K, F]` and the sound `[S]` of a turn to the watches, frame by frame."""
    watch = Watch(Bounds())
    reason, silences, repeated, runs = None, [0], 0, []
    for number in range(codes.shape[1]):
        frame = sound[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
        stop = watch.see(codes[:, number], frame)
        reason = reason or stop
        if watch.silence.run == 0:
            runs.append(silences[-1])
        silences.append(watch.silence.run)
        repeated = max(repeated, watch.repeat.run)
    return Seen(
        reason=reason, before=runs[0] if runs else silences[-1], inside=max(runs[1:], default=0), after=silences[-1],
        repeated=repeated, frames=codes.shape[1],
    )  # fmt: skip


@torch.inference_mode()
def heard(turns: Sequence[Recording], codec: AudioCodec, what: str) -> Iterator[tuple[Recording, Seen]]:
    """Each turn, encoded and decoded, as the watches see it."""
    for turn in track(turns, description=what, transient=True):
        codes = codec.encode(torch.from_numpy(turn.sound())[None, None])
        yield turn, look(codes[0], codec.decode(codes)[0, 0].numpy())


def training_speech(turns: Sequence[Recording], codec: AudioCodec, tokenizer: Tokenizer) -> None:
    seen = list(heard(turns, codec, "training speech"))
    rates = [one.frames / tokenizer.sounds(tokenizer.encode(turn.text, 0)) for turn, one in seen]
    print(
        f"\nTraining speech: {len(seen)} turns, {sum(one.frames for _, one in seen) * FRAME_SECONDS / 60:.0f} minutes"
    )
    for name, values in (
        ("silent frames before speech", [one.before for _, one in seen]),
        ("silent frames between sounds", [one.inside for _, one in seen]),
        ("silent frames after speech", [one.after for _, one in seen]),
        ("frames repeated in a row", [one.repeated for _, one in seen]),
    ):
        print(f"  {name:30} median {statistics.median(values):4.0f}   most {max(values):4}")
    print(f"  {'frames a sound':30} median {statistics.median(rates):4.2f}   most {max(rates):4.2f}")
    pauses: dict[tuple[str, int], list[int]] = {}
    for turn, one in seen:
        marks = re.findall(r"[,.?!](?=\s)", turn.text)
        if len(marks) == 1:
            pauses.setdefault((_MARKS[marks[0]], turn.speaker), []).append(one.inside)
    for (mark, speaker), frames in sorted(pauses.items()):
        seconds = statistics.median(frames) * FRAME_SECONDS
        print(
            f"  pause at a {mark}, speaker {speaker}: median {seconds:.2f} s ({len(frames)} turns with no other mark)"
        )


def false_alarms(turns: Sequence[Recording], codec: AudioCodec) -> None:
    reasons = Counter(one.reason for _, one in heard(turns, codec, "recordings"))
    print(f"\nFalse alarms on {len(turns)} recordings of the test split")
    for reason in (Reason.SILENCE, Reason.REPEAT):
        print(share(reason, reasons[reason], len(turns)))


def share(name: str, hits: int, total: int) -> str:
    low, high = wilson_interval(hits, total)
    return f"  {name:30} {hits:4} of {total}   {hits / total:6.1%}   (95 %: {low:.1%} to {high:.1%})"


def spoken(bundle: Bundle, asked: Sequence[Utterance]) -> list[tuple[int, Reason]]:
    """Utterances spoken together: the frames of each, and why it stopped."""
    batch = SpeechBatch(bundle, slots=len(asked))
    for slot, utterance in enumerate(asked):
        batch.open(slot, utterance)
        while batch.reads(slot):
            batch.prefill(slot)
    while live := [slot for slot in range(len(asked)) if batch.over(slot) is None]:
        batch.step(live, lambda slot, frame: None)
    ends = [(batch.narration(slot).made, batch.over(slot)) for slot in range(len(asked))]
    return [(frames, reason) for frames, reason in ends if isinstance(reason, Reason)]


def model_speech(bundle: Bundle, turns: Sequence[Recording], sampling: Sampling, speaker: int, seeds: int) -> None:
    jobs = sorted(((turn.text, seed) for turn in turns for seed in range(seeds)), key=lambda job: len(job[0]))
    batches = [jobs[at : at + BATCH] for at in range(0, len(jobs), BATCH)]
    found: list[tuple[int, Reason]] = []
    began = time.perf_counter()
    for batch in track(batches, description="the model", transient=True):
        each = [replace(sampling, seed=seed) for _, seed in batch]
        found += spoken(
            bundle,
            [
                Utterance(text=text, speaker=speaker, sampling=one, sentences=False)
                for (text, _), one in zip(batch, each, strict=True)
            ],
        )
    took = time.perf_counter() - began
    reasons = Counter(reason for _, reason in found)
    sound = sum(frames for frames, _ in found) * FRAME_SECONDS
    print(f"\nThe model: {len(turns)} sentences, {seeds} seeds each, speaker {speaker}, {sampling}")
    print(f"  {sound:.0f} s of sound in {took:.0f} s")
    for reason in Reason:
        print(share(reason, reasons[reason], len(found)))
    first = sum(reason is Reason.ENDED and frames <= MIN_FRAMES for frames, reason in found)
    print(share("ended as soon as it may", first, len(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = Path(__file__).resolve().parents[1] / "deploy" / "demo"
    parser.add_argument("--bundle", type=Path, default=demo / "base")
    parser.add_argument("--codec", type=Path, default=demo / "codec", help="for a bundle that carries none")
    parser.add_argument("--corpus", type=Path, default=demo / "corpus")
    parser.add_argument("--sentences", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speaker", type=int, default=0)
    parser.add_argument("--temperature", type=float)
    parser.add_argument(
        "--recordings", type=int, default=144, help="of the test split; eight times as many of training"
    )
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle, codec_folder=arguments.codec)
    if arguments.recordings:
        training = recordings(arguments.corpus, "train", 8 * arguments.recordings)
        training_speech(training, bundle.codec, bundle.tokenizer)
        false_alarms(recordings(arguments.corpus, "test", arguments.recordings), bundle.codec)
    if arguments.sentences:
        turns = recordings(arguments.corpus, "test", arguments.sentences)
        sampling = bundle.sampling
        if arguments.temperature is not None:
            heat = arguments.temperature
            sampling = replace(sampling, temperature=heat, depth_temperature=heat)
        model_speech(bundle, turns, sampling, arguments.speaker, arguments.seeds)


if __name__ == "__main__":
    main()
