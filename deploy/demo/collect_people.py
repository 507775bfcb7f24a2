"""Collects speech of people from Debian's packages, for the codec, which needs no texts of it.

    python deploy/demo/collect_people.py --out data/people

OUT/train/VOICE/*.flac and OUT/test/VOICE/*.flac, 24 kHz mono, peak 0.7; `OUT/sources.json` says where each voice is
from and under which licence, and `test/allison-en/clips.jsonl` what is said in it. The voices of `test` are for
measuring and never trained on, Allison Smith's in both her languages.

Not taken, though their licences are free: recordings at 8 kHz (asterisk-prompt-*), and those at 11 kHz in MP3 of 16 kbit/s
(flight-of-the-amazon-queen): a codec would learn to sound like them.

Needs `apt-get` and `dpkg-deb` (Debian or Ubuntu), and `ffmpeg` for G.722. Nothing is installed. A voice that is already
there is not made again.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track

from csm_components.ingest.audio import read_mono, to_model_rate
from csm_model.frames import SAMPLE_RATE

SHORTEST_S, LONGEST_S = 0.9, 12.0
PEAK = 0.7
# Single words that are joined to numbers and dates, letters, and no speech at all.
_LEFT_OUT = re.compile(r"/(digits|letters|phonetic|silence|dictate)/|/(beep|tones?|ascending|descending)[^/]*$|tone\.")


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A speaker's files in a package: those whose path `pattern` finds."""

    split: str
    package: str
    pattern: str
    language: str
    speaker: str
    license: str
    texts: tuple[str, str] | None = None
    """Package and pattern of the file with the texts, `name: text` a line."""


_FISH = "the {} fish of fillets-ng, {}"  # each language has actors of its own
VOICES = {
    "june-fr": Voice(
        split="train",
        package="asterisk-core-sounds-fr-g722",
        pattern=r"\.g722$",
        language="fr-CA",
        speaker="June Wallack",
        license="CC-BY-SA-3.0",
    ),
    "ivrvoice-ru": Voice(
        split="train",
        package="asterisk-core-sounds-ru-g722",
        pattern=r"\.g722$",
        language="ru",
        speaker="provided by Maxim Topal, ivrvoice.ru",
        license="CC-BY-3.0",
    ),
    "small-fish-cs": Voice(
        split="train",
        package="fillets-ng-data-cs",
        pattern=r"/cs/[a-z0-9]+-m-[^/]*\.ogg$",
        language="cs",
        speaker=_FISH.format("small", "Czech"),
        license="GPL-2",
    ),
    "big-fish-cs": Voice(
        split="train",
        package="fillets-ng-data-cs",
        pattern=r"/cs/[a-z0-9]+-v-[^/]*\.ogg$",
        language="cs",
        speaker=_FISH.format("big", "Czech"),
        license="GPL-2",
    ),
    "small-fish-nl": Voice(
        split="train",
        package="fillets-ng-data-nl",
        pattern=r"/nl/[a-z0-9]+-m-[^/]*\.ogg$",
        language="nl",
        speaker=_FISH.format("small", "Dutch"),
        license="GPL-2",
    ),
    "big-fish-nl": Voice(
        split="test",
        package="fillets-ng-data-nl",
        pattern=r"/nl/[a-z0-9]+-v-[^/]*\.ogg$",
        language="nl",
        speaker=_FISH.format("big", "Dutch"),
        license="GPL-2",
    ),
    "carlo-it": Voice(
        split="test",
        package="asterisk-core-sounds-it-g722",
        pattern=r"\.g722$",
        language="it",
        speaker="Carlo Flora",
        license="CC-BY-3.0",
    ),
    "allison-en": Voice(
        split="test",
        package="asterisk-core-sounds-en-g722",
        pattern=r"\.g722$",
        language="en",
        speaker="Allison Smith",
        license="CC-BY-SA-3.0",
        texts=("asterisk-core-sounds-en", r"core-sounds-en\.txt\.gz$"),
    ),
    "allison-es": Voice(
        split="test",
        package="asterisk-core-sounds-es-g722",
        pattern=r"\.g722$",
        language="es-MX",
        speaker="Allison Smith",
        license="CC-BY-SA-3.0",
    ),
}


@functools.cache
def _unpacked(package: str, work: Path) -> Path:
    """A package's files; fetched by apt, not installed."""
    folder = work / package
    folder.mkdir()
    subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / "files"], check=True)
    archive.unlink()
    return folder / "files"


def _read(path: Path) -> np.ndarray:
    """A file's sound at 24 kHz, float32 [samples]."""
    if path.suffix != ".g722":
        return read_mono(path)
    command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", path, "-f", "f32le", "-ac", "1", "-"]
    decoded = subprocess.run(command, check=True, capture_output=True).stdout
    return to_model_rate(np.frombuffer(decoded, np.float32), 16_000)


def _texts(package: str, pattern: str, work: Path) -> dict[str, str]:
    """What is said in each file of English prompts; not in those that are no more than tones."""
    (path,) = (path for path in _unpacked(package, work).rglob("*") if re.search(pattern, path.as_posix()))
    lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {name.strip(): text.strip() for name, text in pairs if not re.search(r"[\[\]<>]", text)}


def _make(voice: Voice, folder: Path, work: Path) -> None:
    """Writes the clips of a voice; the folder gets its name last."""
    files = _unpacked(voice.package, work)
    found = sorted(path for path in files.rglob("*") if path.is_file() and re.search(voice.pattern, path.as_posix()))
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    texts = _texts(*voice.texts, work) if voice.texts else {}
    lines: list[str] = []
    for path in track(found, description=folder.name):
        if _LEFT_OUT.search(path.as_posix()):
            continue
        audio = _read(path)
        peak = float(np.abs(audio).max(initial=0.0))
        if not SHORTEST_S <= len(audio) / SAMPLE_RATE <= LONGEST_S or peak < 0.01:
            continue
        name = "-".join(path.relative_to(files).with_suffix(".flac").parts[-3:])
        soundfile.write(partial / name, PEAK / peak * audio, SAMPLE_RATE)
        spoken = texts.get(path.relative_to(files).with_suffix("").as_posix().split("/sounds/")[-1].split("/", 1)[-1])
        if spoken:
            lines.append(json.dumps({"audio": name, "text": spoken, "speaker": folder.name, "split": voice.split}))
    if lines:
        (partial / "clips.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sounds; made if it is not there")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as work:
        for name, voice in VOICES.items():
            if not (out / voice.split / name).exists():
                _make(voice, out / voice.split / name, Path(work))
    sources = json.dumps({name: asdict(voice) for name, voice in VOICES.items()}, indent=1, ensure_ascii=False)
    (out / "sources.json").write_text(sources + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
