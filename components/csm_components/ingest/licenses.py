"""Licences: the names that are taken, and what a LICENSE file says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from csm_model.errors import InputError, quoted
from csm_model.rules import nearest

_TITLE = 80
"""Characters of a document's first line that are told."""
FREE_LICENSES: tuple[str, ...] = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CDLA-Permissive-2.0",
    "MIT",
    "ODC-By-1.0",
    "PDDL-1.0",
    "Public-Domain",
)
"""SPDX names (and the public domain) that allow training and passing on what was trained, commercially too."""

KNOWN_LICENSES: tuple[str, ...] = (
    *FREE_LICENSES,
    *(
        f"CC-BY{kind}-{version}"
        for kind in ("-NC", "-NC-SA", "-NC-ND", "-ND")
        for version in ("2.0", "2.5", "3.0", "4.0")
    ),
    "0BSD",
    "BSL-1.0",
    "C-UDA-1.0",
    "CC-BY-1.0",
    "CC-BY-SA-2.0",
    "CC-BY-SA-2.5",
    "CC-PDDC",
    "CDLA-Permissive-1.0",
    "CDLA-Sharing-1.0",
    "GFDL-1.3-only",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-3.0-only",
    "MPL-2.0",
    "O-UDA-1.0",
    "ODbL-1.0",
    "Unlicense",
)
"""SPDX names that a policy may allow; the names of data sets' licences, and of what else data are given out under."""

_TEXTS: tuple[tuple[str, str], ...] = (
    # what stands in a licence's own text -> its SPDX name; the more particular first
    (r"attribution-sharealike (\d\.\d)", "CC-BY-SA-{}"),
    (r"cc[ -]by[ -]sa[ -](\d\.\d)", "CC-BY-SA-{}"),
    (r"licenses/by-sa/(\d\.\d)", "CC-BY-SA-{}"),
    (r"attribution-noncommercial\S* (\d\.\d)", "CC-BY-NC-{}"),
    (r"cc[ -]by[ -]nc\S*[ -](\d\.\d)", "CC-BY-NC-{}"),
    (r"attribution-noderivatives (\d\.\d)", "CC-BY-ND-{}"),
    (r"cc0 (\d\.\d)", "CC0-{}"),
    (r"publicdomain/zero/(\d\.\d)", "CC0-{}"),
    (r"attribution (\d\.\d)", "CC-BY-{}"),
    (r"cc[ -]by[ -](\d\.\d)", "CC-BY-{}"),
    (r"licenses/by/(\d\.\d)", "CC-BY-{}"),
    (r"apache license,? version (\d\.\d)", "Apache-{}"),
    (r"community data license agreement - permissive - version (\d\.\d)", "CDLA-Permissive-{}"),
    (r"permission is hereby granted, free of charge", "MIT"),
    (r"public domain", "Public-Domain"),
)


def canonical(name: str, known: tuple[str, ...]) -> str | None:
    """The spelling in `known` of the licence `name` ("cc by 4.0" is "CC-BY-4.0"), or none where it is not there."""

    def bare(text: str) -> str:
        return re.sub(r"[\s_-]+", "-", text.strip().lower())

    return next((item for item in known if bare(item) == bare(name)), None)


def check_name(name: str) -> None:
    """Raises `InputError` for what is no name of a licence: neither of SPDX, as far as they are known, nor private."""
    if not name.startswith("LicenseRef-") and canonical(name, KNOWN_LICENSES) is None:
        known = ", ".join(FREE_LICENSES)
        raise InputError(
            f"license {quoted(name)} is not one of {known}, nor of those that a policy may add"
            f"{nearest(name, KNOWN_LICENSES)}"
        )


def license_of_text(text: str) -> str | None:
    """The licence that a LICENSE file's text is or names, by its SPDX tag, its one line, or its well-known phrases."""
    tag = re.search(r"SPDX-License-Identifier:\s*(\S+)", text)
    if tag:
        return tag.group(1)
    lines = text.split("\n")
    if "\ufffd" not in text and len(text.split()) <= 4 and len([line for line in lines if line.strip()]) == 1:
        return text.strip()
    flat = re.sub(r"\s+", " ", text.lower())
    for pattern, name in _TEXTS:
        found = re.search(pattern, flat)
        if found:
            return name.format(*found.groups())
    return None


def license_of_folder(folder: Path, documents: Mapping[str, str]) -> str | None:
    """The licence that a corpus's LICENSE (or LICENSE.txt, COPYING) file is or names; none where there is no such file.

    Args:
        folder: the corpus.
        documents: licences without a public name, by the SHA-256 of their documents.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and re.fullmatch(r"(licen[sc]e|copying)(\.\w{1,5})?", path.name.lower()):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            mine = documents.get(digest)
            text = data.decode("utf-8", errors="replace")
            return mine or license_of_text(text) or _title(text)
    return None


def _title(text: str) -> str | None:
    """What a document that is no known licence calls itself: its first line, which is told as what is not taken."""
    if "\ufffd" in text:
        return None
    return next((line.strip()[:_TITLE] for line in text.split("\n") if re.search(r"\w", line)), None)
