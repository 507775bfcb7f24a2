"""What the watermark lasts through, what it mistakes, what it costs and what it takes from the sound.

    python benchmarks/watermark.py [--bundle deploy/demo/base] [--codec deploy/demo/codec] [--utterances 24]
                                   [--corpus deploy/demo/corpus/audio] [--conversations 12] [--seconds 10]
                                   [--recordings FOLDER] [--no-judges]

1. **Found**: speech that the bundle makes (24 utterances of 2 to 3 s), recordings of the corpus (cut to `--seconds`)
   and those of `--recordings`, marked and then changed. Beside the mark that is served stands Perth's own, which its
   encoder sets over the whole sound with a look into the future; the detector is the same.
2. **False alarms**: the same sounds and the whole corpus, unmarked, whole and in parts of 5 s.
3. **Cost** of a frame of 80 ms, of 1 and of 8 streams, in turns with Perth's encoder over that frame and the 150 ms on
   either side that it looks at. Take `OMP_NUM_THREADS=1 OMP_PROC_BIND=true`.
4. **Quality**: distillMOS and words misheard (Whisper tiny.en), before and after, and the signal over the difference.

Shares carry a 95 % interval (Wilson).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.signal import resample_poly
from torch import Tensor

from csm_components.evaluate.figures import wilson_interval
from csm_components.evaluate.judges import Mos, Recogniser
from csm_components.evaluate.wer import word_errors
from csm_components.ingest.audio import AUDIO_SUFFIXES, read_sound, to_model_rate
from csm_model.bundle import load_bundle
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE
from csm_model.inference.generator import Generator
from csm_model.watermark import perth
from csm_model.watermark.filters import WINDOW
from csm_model.watermark.fixed import FixedDetector, FixedMark
from csm_serving.wire.opus import OpusDecoder, OpusEncoder

Sound = np.ndarray  # float32 [S], 24 kHz
Change = Callable[[Sound], Sound]
PAYLOAD = 40_321
SENTENCES = (
    "Good morning, how are you today?",
    "The train leaves at nine fifteen from platform two.",
    "It has four rooms and a garden behind the house.",
    "Did you find the red scarf that I lost yesterday?",
    "We should take the bus because it is raining.",
    "My brother works in a small shop near the station.",
)


def opus(bitrate: int) -> Change:
    def change(sound: Sound) -> Sound:
        encoder, decoder = OpusEncoder(bitrate=bitrate), OpusDecoder()
        padded = np.pad(sound, (0, -len(sound) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
        parts = [encoder(frame) for frame in padded] + [encoder(None)]
        heard = [decoder(bytes(part["AUDIO_OPUS"][0])) for part in parts if "AUDIO_OPUS" in part]
        return np.concatenate(heard)[: len(sound)].astype(np.float32)

    return change


def through(rate: int) -> Change:
    common = gcd(rate, SAMPLE_RATE)
    up, down = rate // common, SAMPLE_RATE // common
    return lambda sound: resample_poly(resample_poly(sound, up, down), down, up).astype(np.float32)


def noise(decibels: float) -> Change:
    def change(sound: Sound) -> Sound:
        white = np.random.default_rng(len(sound)).standard_normal(len(sound))
        power = np.mean(sound**2) / np.mean(white**2) * 10 ** (-decibels / 10)
        return (sound + white * np.sqrt(power)).astype(np.float32)

    return change


def cut(seconds: float) -> Change:
    size = int(seconds * SAMPLE_RATE)
    return lambda sound: sound[(first := max(0, len(sound) // 2 - size // 2)) : first + size]


CHANGES: dict[str, Change] = {
    "nothing": lambda sound: sound,
    "16 bits": lambda sound: np.rint(sound * 32767).astype(np.float32) / 32767,
    "Opus, 32 kbit/s": opus(32_000),
    "Opus, 24 kbit/s": opus(24_000),
    "Opus, 16 kbit/s": opus(16_000),
    "24 to 16 to 24 kHz": through(16_000),
    "24 to 44.1 to 24 kHz": through(44_100),
    "24 to 8 to 24 kHz": through(8_000),
    "noise at 30 dB": noise(30),
    "noise at 20 dB": noise(20),
    "noise at 10 dB": noise(10),
    "gain -12 dB": lambda sound: sound * np.float32(0.25),
    "cut to 1 s": cut(1.0),
    "cut to 0.5 s": cut(0.5),
    "2 % slower": lambda sound: resample_poly(sound, 51, 50).astype(np.float32),
    "5 % faster": lambda sound: resample_poly(sound, 20, 21).astype(np.float32),
}


def spectrum_of(sound: Sound) -> Tensor:
    return torch.stft(torch.from_numpy(sound), WINDOW, 240, window=torch.hann_window(WINDOW), return_complex=True)


def perths_own(sound: Sound, network: perth.PerthNetwork) -> Sound:
    """Marked as resemble-perth marks it: by its encoder, over the whole sound."""
    spectrum = spectrum_of(sound)
    spectrum[: perth.BAND] *= 10 ** (network.added(spectrum.abs()[None])[0] / 20)
    return torch.istft(spectrum, WINDOW, 240, window=torch.hann_window(WINDOW), length=len(sound)).numpy()


def made(bundle: Path, codec: Path, count: int) -> list[tuple[Sound, str]]:
    """Utterances of the bundle's speakers and what they were to say."""
    loaded = load_bundle(bundle, codec_folder=codec)
    generator = Generator(loaded)
    speakers = sorted(loaded.speakers) or [0]
    utterances = []
    for number in track(range(count), description="speaking", transient=True):
        text = SENTENCES[number % len(SENTENCES)]
        sampling = replace(loaded.sampling, seed=number)
        speech = generator.speak(text, speakers[number // len(SENTENCES) % len(speakers)], sampling=sampling)
        utterances.append((speech.audio, text))
    return utterances


def sounds_of(folder: Path, count: int | None, seconds: float) -> list[Sound]:
    """The first audios of a folder, those of 1.5 s and more, cut to `seconds`."""
    sounds: list[Sound] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES):
        samples, rate = read_sound(path)
        sound = to_model_rate(np.ascontiguousarray(samples.mean(axis=1)), rate)
        if len(sound) >= 1.5 * SAMPLE_RATE:
            sounds.append(sound[: int(seconds * SAMPLE_RATE)])
        if count is not None and len(sounds) >= count:
            break
    return sounds


def share(hits: int, total: int) -> str:
    low, high = wilson_interval(hits, total)
    return f"{hits} of {total} ({100 * low:.0f} to {100 * high:.0f} %)"


def found(name: str, sounds: Sequence[Sound], mark: FixedMark, detector: FixedDetector) -> None:
    network = perth.PerthNetwork()
    ours = [mark.mark(torch.from_numpy(sound)).numpy() for sound in sounds]
    theirs = [perths_own(sound, network) for sound in sounds]
    seconds = statistics.median(len(sound) / SAMPLE_RATE for sound in sounds)
    print(f"\nFound: {name}, {len(sounds)} of {seconds:.1f} s (median)\n")
    print(
        "| after | marked | presence | payload read | read wrong | Perth's own: presence |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for change, apply in CHANGES.items():
        here = [detector.find(torch.from_numpy(apply(sound))) for sound in ours]
        there = [float(network.presence(spectrum_of(apply(sound)).abs()[None])) for sound in theirs]
        total = len(sounds)
        print(
            f"| {change} | {share(sum(report.marked for report in here), total)} "
            f"| {sum(report.whole.presence > 0.5 for report in here)} "
            f"| {sum(report.payload == PAYLOAD for report in here)} "
            f"| {sum(report.payload not in (None, PAYLOAD) for report in here)} "
            f"| {sum(presence > 0.5 for presence in there)} |",
            flush=True,
        )


def false_alarms(name: str, sounds: Sequence[Sound], detector: FixedDetector) -> None:
    reports = [detector.find(torch.from_numpy(sound)) for sound in track(sounds, description=name, transient=True)]
    parts = [window for report in reports for window in report.windows or (report.whole,)]
    print(
        f"{name}: {share(sum(report.whole.marked for report in reports), len(reports))} sounds, "
        f"{share(sum(part.marked for part in parts), len(parts))} parts; payloads read: "
        f"{sum(part.payload is not None for part in parts)}; highest presence {max(p.presence for p in parts):.2f}, "
        f"least chance {min(part.chance for part in parts):.1e}",
        flush=True,
    )


def cost(mark: FixedMark, rounds: int = 200) -> None:
    print("\nCost: ms a frame of 80 ms, median (least), one thread\n")
    torch.set_num_threads(1)
    network = perth.PerthNetwork()
    context = torch.rand(1, WINDOW // 2 + 1, 8 + 2 * 15)  # a frame's windows and 150 ms on either side
    marker, frames = mark.slot_marker(8), 0.1 * torch.randn(8, FRAME_SAMPLES)
    sides: dict[str, Callable[[], object]] = {
        "the mark, 1 stream": lambda: marker.step(frames[:1], [0]),
        "the mark, 8 streams": lambda: marker.step(frames, list(range(8))),
        "Perth's encoder, 1 stream": lambda: network.added(context),
        "Perth's encoder, 8 streams": lambda: network.added(context.expand(8, -1, -1)),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, step in sides.items():
            began = time.perf_counter()
            step()
            times[side].append(1000 * (time.perf_counter() - began))
    for side, taken in times.items():
        print(f"| {side} | {statistics.median(taken):.2f} ({min(taken):.2f}) |")


def quality(name: str, spoken: Sequence[tuple[Sound, str]], mark: FixedMark) -> None:
    network, mos, recogniser = perth.PerthNetwork(), Mos(), Recogniser("tiny")
    sides: dict[str, Change] = {
        "unmarked": lambda sound: sound,
        "marked": lambda sound: mark.mark(torch.from_numpy(sound)).numpy(),
        "Perth's own": lambda sound: perths_own(sound, network),
    }
    print(f"\nQuality: {name}, {len(spoken)} sounds\n")
    print(
        "| | distillMOS | against unmarked (worst) | signal over difference | words misheard |\n"
        "| --- | --- | --- | --- | --- |"
    )
    plain: list[float] = []
    for side, apply in sides.items():
        sounds = [apply(sound) for sound, _ in spoken]
        scores = [mos.score(sound) for sound in sounds]
        plain = plain or scores
        gaps = [score - before for score, before in zip(scores, plain, strict=True)]
        ratios = [
            10 * np.log10(np.sum(sound**2) / np.sum((sound - changed) ** 2))
            for (sound, _), changed in zip(spoken, sounds, strict=True)
            if not np.array_equal(sound, changed)
        ]
        misheard = total = 0
        for sound, (_, text) in zip(sounds, spoken, strict=True):
            if text:
                errors = word_errors(text, recogniser.transcribe(sound))
                misheard, total = misheard + errors.total, total + errors.words
        print(
            f"| {side} | {statistics.mean(scores):.3f} | {statistics.mean(gaps):+.3f} ({min(gaps):+.2f}) "
            f"| {f'{statistics.mean(ratios):.1f} dB' if ratios else ''} "
            f"| {f'{100 * misheard / total:.1f} % of {total}' if total else ''} |",
            flush=True,
        )


def turns_of(corpus: Path, count: int) -> list[tuple[Sound, str]]:
    """Turns of the corpus and what was said in them."""
    lines = (corpus / "supervisions.jsonl").read_text(encoding="utf-8").splitlines()
    turns = []
    for line in lines[:: max(1, len(lines) // count)][:count]:
        row = json.loads(line)
        samples, rate = read_sound(corpus / "audio" / f"{row['recording_id']}.opus")
        part = samples[round(row["start"] * rate) : round((row["start"] + row["duration"]) * rate)].mean(axis=1)
        turns.append((to_model_rate(np.ascontiguousarray(part), rate), row["text"]))
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = Path(__file__).resolve().parents[1] / "deploy" / "demo"
    parser.add_argument("--bundle", type=Path, default=demo / "base")
    parser.add_argument("--codec", type=Path, default=demo / "codec", help="for a bundle that carries none")
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--corpus", type=Path, default=demo / "corpus")
    parser.add_argument("--conversations", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--recordings", type=Path, help="folder of other sounds, of people")
    parser.add_argument("--no-judges", action="store_true", help="leave quality out")
    arguments = parser.parse_args()

    mark, detector = FixedMark(PAYLOAD), FixedDetector()
    cost(mark)
    spoken = made(arguments.bundle, arguments.codec, arguments.utterances)
    speech = [sound for sound, _ in spoken]
    corpus = sounds_of(arguments.corpus / "audio", None, 1e9)
    short = [sound[: int(arguments.seconds * SAMPLE_RATE)] for sound in corpus[: arguments.conversations]]
    people = [] if arguments.recordings is None else sounds_of(arguments.recordings, None, 30.0)
    found("speech of the model", speech, mark, detector)
    found("recordings of the corpus", short, mark, detector)
    if people:
        found("other recordings", people[:: max(1, len(people) // 24)][:24], mark, detector)
    print("\nFalse alarms\n")
    false_alarms("speech of the model", speech, detector)
    false_alarms("recordings of the corpus", corpus, detector)
    if people:
        false_alarms("other recordings", people, detector)
    if not arguments.no_judges:
        quality("speech of the model", spoken, mark)
        quality("turns of the corpus", turns_of(arguments.corpus, 24), mark)


if __name__ == "__main__":
    main()
