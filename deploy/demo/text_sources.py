"""Where the wide text is from: packages of Debian whose texts have free licences, pinned to a version and a digest.

A source yields its passages (paragraphs, lines of dialogue, examples) as they are written; `sentences.py` makes sentences
of them. Nothing is installed: the archives are fetched by `apt-get download` and read where they lie.

Not taken: the prompts of asterisk-core-sounds-en, which are test sentences; fortunes, whose quotations have other owners.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import subprocess
import tarfile
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from csm_model.errors import DigestError, InputError

Reader = Callable[[bytes], Iterator[str]]


@dataclass(frozen=True, kw_only=True)
class Package:
    """An archive of Debian's, by its version and what it must be."""

    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """As apt-get writes it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Texts of one kind under one licence."""

    what: str
    license: str
    packages: tuple[Package, ...]
    pattern: str
    """Which files of the packages are read."""
    read: Reader


def _fetched(package: Package, cache: Path) -> Path:
    """The archive in the cache, fetched if it is not there.

    Raises:
        InputError: the version is not to be had.
        DigestError: what came is something else.
    """
    archive = cache / package.file_name
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        wanted = f"{package.name}={package.version}"
        done = subprocess.run(["apt-get", "download", "-q", wanted], cwd=cache, capture_output=True, text=True)
        if done.returncode or not archive.exists():
            raise InputError(
                f"{wanted}: apt-get does not have it ({done.stderr.strip().splitlines()[-1:]}); run apt-get update, "
                f"or put {archive.name} into {cache}"
            )
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise DigestError(f"{archive}: SHA-256 {found}, expected {package.sha256}; delete it, or pin what it is now")
    return archive


def _files(package: Package, pattern: str, cache: Path) -> Iterator[bytes]:
    """The files of a package whose path the pattern finds, by their names."""
    archive = _fetched(package, cache)
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in sorted((member for member in tar if member.isfile()), key=lambda member: member.name):
            if re.search(pattern, member.name):
                file = tar.extractfile(member)
                assert file is not None, member.name
                yield file.read()


def passages(source: Source, cache: Path) -> Iterator[str]:
    """What a source's files say, package after package."""
    for package in source.packages:
        for data in _files(package, source.pattern, cache):
            yield from source.read(data)


def license_text(source: Source, cache: Path) -> bytes:
    """What the packages say of their authors and licence; of packages made together, the first speaks for all."""
    (text,) = _files(source.packages[0], r"/doc/[^/]+/copyright$", cache)
    return text


def _novels(data: bytes) -> Iterator[str]:
    """Novels as R keeps them: blocks of zlib, in each a vector of lines; an empty line ends a paragraph."""
    begin = 0
    while begin < len(data):
        block = zlib.decompressobj()
        text = block.decompress(data[begin + 4 :])
        begin = len(data) - len(block.unused_data)
        lines: list[str] = []
        at = text.find(b"\0\4\0\x09")
        while at >= 0:
            (length,) = struct.unpack(">i", text[at + 4 : at + 8])
            line = text[at + 8 : at + 8 + length].decode("utf-8")
            if line:
                lines.append(line)
            elif lines:
                yield " ".join(lines)
                lines = []
            at = text.find(b"\0\4\0\x09", at + 8 + length)


def _examples(data: bytes) -> Iterator[str]:
    """The examples in WordNet's glosses; those that are no sentence by their first letter get one of their own."""
    for line in data.decode("utf-8").splitlines():
        if line.startswith(" "):
            continue  # the licence
        for example in re.findall(r'"([^"]+)"', line.partition("|")[2]):
            text = example.strip()
            yield text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _paragraphs(data: bytes) -> Iterator[str]:
    """The paragraphs of a page of Mallard, but those with something to type."""
    space = "{http://projectmallard.org/1.0/}"
    try:
        page = ET.fromstring(data)  # noqa: S314  a package whose digest is known
    except ET.ParseError:
        return  # entities of a document type that is not in the package
    for comment in page.iter(f"{space}comment"):
        comment.clear()
    for paragraph in page.iter(f"{space}p"):
        if not any(part.tag[len(space) :] in ("code", "cmd", "file", "input", "output") for part in paragraph.iter()):
            yield " ".join("".join(paragraph.itertext()).split())


def _conversations(data: bytes) -> Iterator[str]:
    """Endless Sky: lines of conversations and dialogues, in quotes or backquotes."""
    for line in data.decode("utf-8").splitlines():
        match = re.fullmatch(r"""\t+(?:dialog |description |)(["`])\s*(.+)\1""", line)
        if match:
            yield match[2]


def _messages(data: bytes) -> Iterator[str]:
    """Wesnoth: strings that are translated; a quotation mark in one is doubled."""
    for match in re.finditer(r'_ *"((?:[^"]|"")*)"', data.decode("utf-8")):
        yield match[1].replace('""', '"')


_WESNOTH = {
    "did": "774619f5aaeb7eb4c848e1cc1758795a8c58e96bd270cceecc9d847dbcc769b3",
    "dm": "1997ad4d91e8de36415db2a3445904288f588a76d75111222d2aace409ace5c6",
    "dw": "47982e08b2a5d5fd79f400a5453f32c6d7dd56f2ccc10412a9e47dec8a9b3ca4",
    "ei": "687abe111ee662b7324336ddadc209758f68d2eeb1ccbf630238f27a0e3c6404",
    "httt": "05b16a3f8f8204278794aae14d8e6a7c95d2b2faef7337c4997c827a146d1bbd",
    "l": "5383c79046df6121929bc36a8ec3f970ab4cf9c1239ed9b31868201c27f4266d",
    "low": "2f304551b97b7fb76a2adb5ad8ffcac3e78476bc8ade17532c90714065c9bf9f",
    "nr": "13edcf1bdd23708f531ba81c67100c5800363a119f10155c7f9e146fe7dced34",
    "sof": "b6f1ddffdbd1a977f3965dae944e4fb11c147627471f1cfc71c92d1e69efb555",
    "sota": "fa44304ff53d259f3c5fe13c03cb8166e55e9c307807d1a5663048c396645ba6",
    "sotbe": "877a2f4a7fd8df54fd3b4561ffbd5fa95d0390d7c7372f3cb66367c8007918cb",
    "thot": "79d9ec6e43300ea9f41295ccf3fb451e8eeaefc17007123f65d77eb05cb88695",
    "tsg": "38b5f564253b8e0d9c093b2b7c58aabfef24f688968d9cbaf42abfc1e76d8288",
    "ttb": "d0d45693665305191488553ade8dc1d0aa26ab17d4bffae3bf6969db4a766329",
    "utbs": "81e05717bebbfb6348c0bed2cd6ce2560c4fd9205ed419c2e7bc039b4a70e228",
}

SOURCES: dict[str, Source] = {
    "novels": Source(
        what="Jane Austen's six novels (public domain), as janeaustenr packs them",
        license="MIT",
        packages=(
            Package(
                name="r-cran-janeaustenr",
                version="1.0.0-1",
                sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
            ),
        ),
        pattern=r"/janeaustenr/data/Rdata\.rdb$",
        read=_novels,
    ),
    "examples": Source(
        what="the examples in WordNet 3.0's glosses",
        license="WordNet-3.0",
        packages=(
            Package(
                name="wordnet-base",
                version="1:3.0-37",
                sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            ),
        ),
        pattern=r"/wordnet/data\.(adj|adv|noun|verb)$",
        read=_examples,
    ),
    "help": Source(
        what="GNOME's user documentation",
        license="CC-BY-SA-3.0",
        packages=(
            Package(
                name="gnome-user-docs",
                version="43.0-2",
                sha256="0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f",
            ),
        ),
        pattern=r"/help/C/[^/]+/[^/]+\.page$",
        read=_paragraphs,
    ),
    "space": Source(
        what="conversations and descriptions of the game Endless Sky",
        license="GPL-3.0-or-later",
        packages=(
            Package(
                name="endless-sky-data",
                version="0.9.8-1.2",
                sha256="e45835e05a11e84bb1a890a0ded390246a53b8318f21a25925aa70fa54f80c13",
            ),
        ),
        pattern=r"/endless-sky/data/.*\.txt$",
        read=_conversations,
    ),
    "fantasy": Source(
        what="dialogues and stories of fifteen campaigns of the game Battle for Wesnoth",
        license="GPL-2.0-or-later",
        packages=tuple(
            Package(name=f"wesnoth-1.16-{campaign}", version="1:1.16.9-1", sha256=sha256)
            for campaign, sha256 in _WESNOTH.items()
        ),
        pattern=r"/data/campaigns/.*\.cfg$",
        read=_messages,
    ),
}
