"""Corpora in the layouts that the readers know: true folders, names and formats, invented words, tiny sounds.

Each writer makes one of few turns in a folder and says, for each turn in the order of conversations and times,
(id, sound, channel, start, end, text, speaker).
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

Said = tuple[str, str, int | None, float | None, float | None, str, str]
"""What a writer says of a turn."""


def tone(seconds: float, pitch: float = 300.0, rate: int = 8000) -> np.ndarray:
    """A tone with a syllable's rhythm: float32 `[S]`."""
    at = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * at) * (0.6 - 0.4 * np.cos(8 * np.pi * at))).astype(np.float32)


def _sound(path: Path, seconds: float = 1.0, pitch: float = 300.0, form: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, pitch), 8000, format=form)


def _text(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.encode(encoding)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def sphere(path: Path, samples: np.ndarray, coding: str = "pcm") -> None:
    """Writes 16-bit samples `[S, C]` of 8 kHz as NIST SPHERE, with the header as on the discs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "\n".join(
        (
            "NIST_1A",
            "   1024",
            f"sample_count -i {len(samples)}",
            f"channel_count -i {samples.shape[1]}",
            "sample_rate -i 8000",
            "sample_n_bytes -i 2",
            "sample_byte_format -s2 01",
            f"sample_coding -s{len(coding)} {coding}",
            "end_head\n",
        )
    )
    path.write_bytes(head.encode().ljust(1024) + (samples * 32767).astype("<i2").tobytes())


def call(pitches: tuple[float, float], seconds: float = 6.0) -> np.ndarray:
    """A two-channel call, each side of another pitch: `[S, 2]`."""
    return np.stack([tone(seconds, pitch) for pitch in pitches], axis=1)


def switchboard(folder: Path) -> list[Said]:
    """Two calls; each person is on other sides; one line of silence alone, marks of all kinds."""
    said = []
    for number, (a, b) in {"2001": ("1000", "1001"), "2002": ("1001", "1002")}.items():
        sphere(folder / f"swb1/sw0{number}.sph", call((300, 900)))
        rows = {
            "A": [(0, 0.9, "[silence]"), (1, 2, "um-[um] we w[ent]- there"), (4, 5, "[laughter-yeah] {widgy} them_1")],
            "B": [(2, 3, "did you [noise] go [laughter]"), (1.5, 2.25, "uh-huh")],
        }
        for side in "AB":
            lines = "".join(
                f"sw{number}{side}-ms98-a-{count:04} {start:.6f} {end:.6f} {text}\n"
                for count, (start, end, text) in enumerate(rows[side], 1)
            )
            _text(folder / f"swb_ms98_transcriptions/{number[:2]}/{number}/sw{number}{side}-ms98-a-trans.text", lines)
        _text(folder / f"swb_ms98_transcriptions/{number[:2]}/{number}/sw{number}A-ms98-a-word.text", "no turns\n")
        sound, a_, b_ = f"swb1/sw0{number}.sph", f"sw{number}A-ms98-a-", f"sw{number}B-ms98-a-"
        said += [
            (f"{a_}0002", sound, 0, 1.0, 2.0, "um- we w- there", a),
            (f"{b_}0002", sound, 1, 1.5, 2.25, "uh-huh", b),
            (f"{b_}0001", sound, 1, 2.0, 3.0, "did you go", b),
            (f"{a_}0003", sound, 0, 4.0, 5.0, "yeah widgy them", a),
        ]
    _text(
        folder / "tables/call_con_tab.csv",
        '2001, "A", 1000, 12\n2001, "B", 1001, 12\n2002, "A", 1001, 9\n2002, "B", 1002, 9\n',
    )
    return said


def fisher(folder: Path) -> list[Said]:
    """Three calls, of which one is left out by all recipes and one has the known wrong time."""
    said = []
    text = "# fe_03_{0}.sph\n# Transcribed at the LDC\n\n{1} 2.50 A: hello (( there ))\n\n{2} 3.80 B: [sigh] oh hi \n\n"
    for number, first in (("00001", "1.20"), ("11487", "1.20"), ("01243", "1.20")):
        sphere(folder / f"disc1/audio/{number[:3]}/fe_03_{number}.sph", call((300, 900)))
        lines = text.format(number, first, "2.40") + "3.90 4.40 A: [noise]\n\n4.10 5.00 A: we ((go)) %uh home\n"
        if number == "11487":
            lines += "31.09 234.06 B: a long time\n"
        _text(folder / f"fe_03_p1_tran/data/trans/{number[:3]}/fe_03_{number}.txt", lines)
        _text(folder / f"fe_03_p1_tran/data/bbn_orig/{number[:3]}/fe_03_{number}.txt", "L: other form\n")
        if number == "01243":
            continue
        name, sound = f"fe_03_{number}", f"disc1/audio/{number[:3]}/fe_03_{number}.sph"
        a, b = ("101-f", "102-m") if number == "00001" else (f"{name}-A", f"{name}-B")
        said += [
            (f"{name}-A-0001", sound, 0, 1.2, 2.5, "hello there", a),
            (f"{name}-B-0002", sound, 1, 2.4, 3.8, "oh hi", b),
            (f"{name}-A-0004", sound, 0, 4.1, 5.0, "we go uh home", a),
        ]
        if number == "11487":
            said.append((f"{name}-B-0005", sound, 1, 231.09, 234.06, "a long time", b))
    header = "CALL_ID,DATE_TIME,TOPICID,SIG_GRADE,CNV_GRADE,APIN,ASX.DL,APHNUM,APHSET,APHTYP,BPIN,BSX.DL,BPHNUM,BPHSET"
    _text(
        folder / "fe_03_p1_tran/doc/fe_03_p1_calldata.tbl",
        f"{header},BPHTYP\n00001,20021211,ENG01,3,4,101,f.a,x,1,1,102,m.a,y,1,1\n",
    )
    return said


def common_voice(folder: Path, *, old: bool = False) -> list[Said]:
    """A release with the columns of today or of 2019; unbalanced quotes, and tables that are not to be read."""
    said = []
    for split, lines in {
        "train": ['"Quoted at one end only', "Über die Brücke", "A third sentence"],
        "dev": ["Said for tuning"],
        "test": ["Said for the test", "And another"],
    }.items():
        columns = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender"]
        columns += ["accent"] if old else ["accents", "variant"]
        if not old:
            columns[2:3] = ["sentence_id", "sentence", "sentence_domain"]
        columns += ["locale", "segment"]
        rows = ["\t".join(columns)]
        for count, text in enumerate(lines):
            name = f"common_voice_de_{split}{count}"
            _sound(folder / f"de/clips/{name}.mp3")
            cells = {"client_id": f"person-{count}", "path": f"{name}.mp3", "sentence": text, "locale": "de"}
            rows.append("\t".join(cells.get(column, "") for column in columns))
            said.append((name, f"de/clips/{name}.mp3", None, None, None, text, f"person-{count}"))
        _text(folder / f"de/{split}.tsv", "\n".join(rows) + "\n")
    _text(folder / "de/clip_durations.tsv", "clip\tduration[ms]\nx.mp3\t1000\n")
    _text(folder / "de/reported.tsv", "sentence_id\tsentence\tlocale\treason\n1\tx\tde\tother\n")
    return sorted(said)


def voxpopuli(folder: Path) -> list[Said]:
    """Two sessions; the table is cut by `|`; one sound has the language's name and one `original`."""
    header = "session_id|id_|paragraph_id|start_time|end_time|speaker_id|gender|split|original_text|normed_text"
    one, two = "20100614-0900-PLENARY-3", "20110705-0900-PLENARY-7"
    rows = [
        (one, "a_0", "p1", "0.5", "1.5", "77", "female", "train", "Mr President, good day.", "mr president good day"),
        (one, "a_1", "p1", "1.75", "2.75", "77", "female", "train", "", "thank you all"),
        (one, "a_2", "p2", "4.0", "5.0", "78", "male", "dev", "I agree.", "i agree"),
        (two, "b_0", "p1", "0.0", "1.0", "None", "male", "test", "The vote is open.", "the vote is open"),
        (two, "b_1", "p2", "2.0", "3.0", "79", "male", "other", "Left out.", "left out"),
    ]
    _text(folder / "asr_en.tsv.gz", "\n".join([header, *("|".join(row) for row in rows)]) + "\n")
    first, second = f"raw_audios/en/2010/{one}_en.ogg", f"raw_audios/en/2011/{two}_original.ogg"
    _sound(folder / first, 6, form="OGG")
    _sound(folder / second, 6, form="OGG")
    return [
        (f"{one}-a_0", first, None, 0.5, 1.5, "Mr President, good day.", "77"),
        (f"{one}-a_1", first, None, 1.75, 2.75, "thank you all", "77"),
        (f"{one}-a_2", first, None, 4.0, 5.0, "I agree.", "78"),
        (f"{two}-b_0", second, None, 0.0, 1.0, "The vote is open.", f"{two}-unknown"),
    ]


def ami(folder: Path) -> list[Said]:
    """Two meetings of two people, whose headsets are not in the order of their letters; Latin-1, ranges of words."""
    nite = 'xmlns:nite="http://nite.sourceforge.net/"'
    heading = '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'
    meetings, said = "", []
    for name in ("ES2002a", "ES2004a"):
        meetings += f'<meeting observation="{name}" type="s">'
        for agent, person, channel, base in (("A", "MEE006", 1, 0.0), ("B", "FEE005", 0, 2.0)):
            meetings += f'<speaker nxt_agent="{agent}" global_name="{person}" channel="{channel}"/>'
            sound = f"{name}/audio/{name}.Headset-{channel}.wav"
            _sound(folder / sound, 6)
            word = f"{name}.{agent}.words"
            words = [
                f'<w nite:id="{word}0" starttime="{base}" endtime="{base + 0.4}">Café</w>',
                f'<w nite:id="{word}1" starttime="{base + 0.4}" endtime="{base + 0.4}" punc="true">,</w>',
                f'<vocalsound nite:id="{word}2" starttime="{base + 0.4}" endtime="{base + 0.5}" type="laugh"/>',
                f'<w nite:id="{word}3" starttime="{base + 0.5}" endtime="{base + 0.9}" trunc="true">remo</w>',
                f'<w nite:id="{word}4">untimed</w>',
                f'<w nite:id="{word}5" starttime="{base + 1.0}" endtime="{base + 1.8}">yes</w>',
                f'<w nite:id="{word}6" starttime="{base + 1.8}" endtime="{base + 1.8}" punc="true">.</w>',
            ]
            text = f"{heading}<nite:root {nite}>{''.join(words)}</nite:root>"
            _text(folder / f"words/{name}.{agent}.words.xml", text, "iso-8859-1")
            segment, child = f"{name}.sync.{agent}", f'<nite:child href="{word}.xml#id({word}'
            rows = (
                f'<segment nite:id="{segment}1" transcriber_start="{base}" transcriber_end="{base + 0.95}">'
                f'{child}0)..id({word}3)"/></segment>'
                f'<segment nite:id="{segment}2" transcriber_start="{base + 1.0}" transcriber_end="{base + 1.5}">'
                f'{child}5)..id({word}6)"/></segment>'
                f'<segment nite:id="{segment}3" transcriber_start="{base + 1.6}" transcriber_end="{base + 1.7}">'
                f'{child}2)"/></segment>'
            )
            _text(folder / f"segments/{name}.{agent}.segments.xml", f"{heading}<nite:root {nite}>{rows}</nite:root>")
            said += [
                (f"{segment}1", sound, None, base, base + 0.95, "Café, remo-", person),
                (f"{segment}2", sound, None, base + 1.0, base + 1.5, "yes.", person),
            ]
        meetings += "</meeting>"
    _text(folder / "corpusResources/meetings.xml", f"{heading}<root>{meetings}</root>", "iso-8859-1")
    return said


def gigaspeech(folder: Path) -> list[Said]:
    """Two recordings; named punctuation, a segment without speech, a speaker that nobody knows."""
    said, audios = [], []
    for name, subset, speaker in (("POD01", "{XL}", "N/A"), ("YOU01", "{DEV}", "ann")):
        sound = f"audio/podcast/P0/{name}.opus"
        _sound(folder / sound, 6, form="OGG")
        texts = ("WELL <COMMA> I KNOW <PERIOD> DO YOU <QUESTIONMARK>", "<MUSIC>", "NO")
        segments = [
            {
                "sid": f"{name}_S{count}",
                "begin_time": count * 2.0,
                "end_time": count * 2.0 + 1.5,
                "speaker": speaker,
                "text_tn": text,
                "subsets": [subset],
            }
            for count, text in enumerate(texts)
        ]
        audios.append({"aid": name, "path": sound, "sample_rate": 16000, "channels": 1, "segments": segments})
        person = f"{name}-unknown" if speaker == "N/A" else speaker
        said += [
            (f"{name}_S0", sound, None, 0.0, 1.5, "Well, I know. Do you?", person),
            (f"{name}_S2", sound, None, 4.0, 5.5, "No", person),
        ]
    _text(folder / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "audios": audios}))
    return said


def packed(path: Path, members: dict[str, bytes]) -> None:
    """A tar file, packed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def encoded(seconds: float, form: str = "WAV", pitch: float = 300.0) -> bytes:
    """A sound file's bytes."""
    held = io.BytesIO()
    soundfile.write(held, tone(seconds, pitch), 8000, format=form)
    return held.getvalue()


def yodas(folder: Path) -> list[Said]:
    """Two videos in one archive, one with `-` in its name."""
    videos = ("-a-b_C", "xyz")
    packed(folder / "data/en000/audio/00000000.tar.gz", {f"./{video}.wav": encoded(6) for video in videos})
    rows, said = [], []
    for video in videos:
        for count, (start, end, text) in enumerate(((50, 175, "first things first"), (200, 350, "and then the rest"))):
            name = f"{video}-{count:05}-{start:08}-{end:08}"
            rows.append(f"{name} {text}")
            sound = f"data/en000/audio/00000000.tar.gz::{video}"
            said.append((name, sound, None, start / 100, end / 100, text, f"{video}-unknown"))
    _text(folder / "data/en000/text/00000000.txt", "\n".join(rows) + "\n")
    return said


def emilia(folder: Path) -> list[Said]:
    """One batch that is unpacked and one in an archive."""
    said = []
    for batch in ("EN_B00000", "EN_B00001"):
        rows, members = [], {}
        for source in range(2):
            for count in range(2):
                name = f"{batch}_S{source:05}_W{count:06}"
                wav = f"{batch}/{batch}_S{source:05}/mp3/{name}.mp3"
                rows.append(
                    {
                        "id": name,
                        "wav": wav,
                        "text": f" Words of {source} and {count}.",
                        "duration": 1.0,
                        "speaker": f"{batch}_S{source:05}",
                        "language": "en",
                        "dnsmos": 3.1,
                    }
                )
                members[wav] = encoded(1.0, "MP3")
                sound = f"EN/{wav}" if batch == "EN_B00000" else f"EN/{batch}.tar::{wav}"
                text, speaker = f"Words of {source} and {count}.", f"{batch}_S{source:05}"
                said.append((name, sound, None, None, None, text, speaker))
        _text(folder / f"EN/{batch}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if batch == "EN_B00001":
            packed(folder / f"EN/{batch}.tar", members)
        else:
            for wav, data in members.items():
                (folder / "EN" / wav).parent.mkdir(parents=True, exist_ok=True)
                (folder / "EN" / wav).write_bytes(data)
    return said


VTT = """\ufeffWEBVTT

NOTE Made by hand

1
00:00.500 --> 00:02.000 align:start
<v Ann Lee>Good morning &amp; welcome.

00:00:02.000 --> 00:00:03.000
To the show.

00:03.000 --> 00:05.000
<v Ben>Thank you: really.
"""
SRT = """1
00:00:00,500 --> 00:00:02,000
Ann: Good morning & welcome.

2
00:00:02,000 --> 00:00:03,000
Ann: To the show.

3
00:00:03,000 --> 00:00:05,000
[Ben]: Thank you: really.
"""
JSON = json.dumps(
    {
        "version": "1.0.0",
        "segments": [
            {"speaker": "Ann", "startTime": 0.5, "endTime": 2.0, "body": "Good morning & welcome."},
            {"startTime": 2.0, "endTime": 3.0, "body": "To the show."},
            {"speaker": "Ben", "startTime": 3.0, "endTime": 5.0, "body": "Thank you: really."},
        ],
    }
)
HTML = """<html><body><cite>Ann:</cite><time>0:00</time><p>Good morning &amp; welcome.</p>
<cite>Ann:</cite><time>00:02</time><p>To the show.</p><cite>Ben:</cite><time>0:00:03</time>
<p>Thank you: really.</p></body></html>"""


def podcast(folder: Path) -> list[Said]:
    """A feed of four episodes, a transcript of each kind; their addresses are the web's."""
    kinds = (("vtt", "text/vtt", VTT), ("srt", "application/x-subrip", SRT))
    kinds += (("json", "application/json", JSON), ("html", "text/html", HTML))
    items, said = "", []
    for number, (kind, type_, text) in enumerate(kinds, 1):
        _sound(folder / f"audio/ep%20{number}.mp3".replace("%20", " "), 6)
        _text(folder / f"texts/ep{number}.{kind}", text)
        items += (
            f'<item><title>{number}</title><enclosure url="https://e.org/a/ep%20{number}.mp3?x=1" length="1"/>'
            f'<podcast:transcript url="https://e.org/t/ep{number}.pdf" type="application/pdf"/>'
            f'<podcast:transcript url="https://e.org/t/ep{number}.{kind}" type="{type_}"/></item>'
        )
        ann = "Ann Lee" if kind == "vtt" else "Ann"
        begin, end = (0.0, None) if kind == "html" else (0.5, 5.0)
        sound, name = f"audio/ep {number}.mp3", f"audio/ep {number}"
        said += [
            (f"{name}-00000", sound, None, begin, 2.0, "Good morning & welcome.", ann),
            (f"{name}-00001", sound, None, 2.0, 3.0, "To the show.", ann),
            (f"{name}-00002", sound, None, 3.0, end, "Thank you: really.", "Ben"),
        ]
    _text(
        folder / "feed.xml",
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0" xmlns:podcast="https://podcastindex.org/namespace/1.0">'
        f"<channel><language>en-us</language><podcast:license>cc-by-4.0</podcast:license>{items}</channel></rss>",
    )
    return said


def libri_light(folder: Path) -> list[Said]:
    """Two files with their descriptions."""
    said = []
    for book in ("1001_book", "1002_book"):
        stem = f"small/84/{book}/part_01"
        _sound(folder / f"{stem}.flac", 6)
        spans = [[0.5, 2.25], [3.0, 5.5]]
        _text(folder / f"{stem}.json", json.dumps({"speaker": "84", "voice_activity": spans, "snr": 12.0}))
        said += [
            (f"{stem}-{count:04}", f"{stem}.flac", None, start, end, "", "84")
            for count, (start, end) in enumerate(spans)
        ]
    return said


def lhotse_shar(folder: Path) -> list[Said]:
    """Written by lhotse itself: three cuts in two shards, one cut not from its recording's beginning."""
    from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.shar import SharWriter

    cuts, said = [], []
    source = folder.parent / f"{folder.name}-source"
    for number in range(3):
        _sound(source / f"{number}.wav", 4)
        recording = Recording(
            id=f"rec-{number}",
            sources=[AudioSource(type="file", channels=[0], source=str(source / f"{number}.wav"))],
            sampling_rate=8000,
            num_samples=32000,
            duration=4.0,
        )
        turns = [
            SupervisionSegment(
                id=f"cut-{number}-{count}",
                recording_id=f"rec-{number}",
                start=count * 1.5,
                duration=1.25,
                text=f"words {number} and {count}",
                speaker=f"p{count}",
                language="en",
                custom={"license": "CC-BY-4.0"},
            )
            for count in range(2)
        ]
        cuts.append(
            MonoCut(id=f"cut-{number}", start=0.5, duration=3.0, channel=0, recording=recording, supervisions=turns)
        )
        sound = f"recording.{number // 2:06}.tar::cut-{number}"
        said += [
            (turn.id, sound, None, turn.start, turn.start + 1.25, str(turn.text), str(turn.speaker)) for turn in turns
        ]
    folder.mkdir(parents=True, exist_ok=True)
    with SharWriter(str(folder), fields={"recording": "flac"}, shard_size=2) as writer:
        for cut in CutSet.from_cuts(cuts):
            writer.write(cut)
    return said


def csv(folder: Path, *, separator: str = ",", encoding: str = "utf-8") -> list[Said]:
    """A table with quoted cells, one of two lines, and columns that nobody asked for."""
    _sound(folder / "calls/17.wav", 6)
    rows = [
        ("calls/17.wav", '"Good morning, all."', "anna", "0.4", "1.1", "call-17", "t-0"),
        ("calls/17.wav", '"Hello,\nAnna"', "ben", "1.7", "0.9", "call-17", "t-1"),
        ("calls/17.wav", "Nun über die Brücke", "anna", "3.0", "1.0", "call-17", "t-2"),
        ("calls/17.wav", "Once again", "ben", "4.5", "1.0", "call-17", "t-3"),
    ]
    header = ("audio", "text", "speaker", "start", "duration", "conversation", "id")
    lines = [separator.join([*row, "x"]) for row in [header, *rows]]
    _text(folder / ("turns.tsv" if separator == "\t" else "turns.csv"), "\n".join(lines) + "\n", encoding)
    return [
        ("t-0", "calls/17.wav", None, 0.4, 1.5, "Good morning, all.", "anna"),
        ("t-1", "calls/17.wav", None, 1.7, 2.6, "Hello,\nAnna", "ben"),
        ("t-2", "calls/17.wav", None, 3.0, 4.0, "Nun über die Brücke", "anna"),
        ("t-3", "calls/17.wav", None, 4.5, 5.5, "Once again", "ben"),
    ]


def sound_and_text(folder: Path) -> list[Said]:
    """A text beside each sound, one of them UTF-16; and a sound without one."""
    for name, encoding in (("ann/1", "utf-8-sig"), ("ann/2", "utf-16"), ("top", "utf-8")):
        _sound(folder / f"{name}.wav")
        _text(folder / f"{name}.txt", f"Words of\n{name} — so\n", encoding)
    _sound(folder / "alone.wav")
    said = [(f"ann/{n}", f"ann/{n}.wav", None, None, None, f"Words of ann/{n} — so", "ann") for n in (1, 2)]
    return [*said, ("top", "top.wav", None, None, None, "Words of top — so", "speaker")]


LAYOUTS: dict[str, Callable[[Path], list[Said]]] = {
    "switchboard": switchboard,
    "fisher": fisher,
    "common-voice": common_voice,
    "voxpopuli": voxpopuli,
    "ami": ami,
    "gigaspeech": gigaspeech,
    "yodas": yodas,
    "emilia": emilia,
    "podcast": podcast,
    "lhotse-shar": lhotse_shar,
    "libri-light": libri_light,
    "csv": csv,
    "sound-and-text": sound_and_text,
}
"""Writers by the name of the reader that is to know what they write."""


def write_layout(name: str, folder: Path) -> Sequence[Said]:
    """Writes one of `LAYOUTS`."""
    return LAYOUTS[name](folder)
