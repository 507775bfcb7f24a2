"""Writes what is installed as a software bill of materials: CycloneDX 1.6, JSON.

python3 sbom.py --name serve --out /usr/share/csm/sbom.cdx.json

Standard library only: it runs inside an image, on what that image's Python and its Debian packages say of themselves.
The same content gives the same bytes; the time is that of the image, in its label `created`.
Format: https://cyclonedx.org/docs/1.6/json/ ; package URLs: https://github.com/package-url/purl-spec .
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

NAMESPACE = uuid.UUID("8d2c2f5e-5f0b-4d57-9e0c-3f6f8f0a7c11")
"""Serial numbers are made in it from the content."""
DPKG_STATUS = Path("/var/lib/dpkg/status")
OS_RELEASE = Path("/etc/os-release")


def canonical(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_licenses(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The licence as the package states it: an SPDX expression, else its short name, else its classifiers."""
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    stated = (metadata.get("License") or "").strip()
    if stated and "\n" not in stated and len(stated) <= 100 and stated.upper() != "UNKNOWN":
        return [{"license": {"name": stated}}]
    classifiers = metadata.get_all("Classifier", []) if hasattr(metadata, "get_all") else []
    names = [row.rpartition(" :: ")[2] for row in classifiers if row.startswith("License ::")]
    return [{"license": {"name": name}} for name in names]


def python_components() -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The installed distributions, and which of them ask for which, by package URL.

    Of two with one name it is the first on Python's path, which is the one that an import finds.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    for dist in importlib.metadata.distributions():
        found.setdefault(canonical(dist.metadata["Name"]), dist)
    purls = {name: f"pkg:pypi/{name}@{quote(dist.version)}" for name, dist in found.items()}
    components, asks = [], {}
    for name, dist in sorted(found.items()):
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purls[name],
            "name": dist.metadata["Name"],
            "version": dist.version,
            "purl": purls[name],
        }
        if summary := dist.metadata.get("Summary"):
            component["description"] = summary
        if licenses := python_licenses(dist.metadata):
            component["licenses"] = licenses
        components.append(component)
        needed = {canonical(re.split(r"[^A-Za-z0-9._-]", row.strip(), maxsplit=1)[0]) for row in dist.requires or ()}
        asks[purls[name]] = sorted(purls[name] for name in needed & set(purls))
    return components, asks


def os_release(text: str) -> dict[str, str]:
    """`/etc/os-release` as a dictionary."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, _, value in pairs}


def debian_components(status: str, release: Mapping[str, str]) -> list[dict[str, Any]]:
    """The installed packages of Debian or a distribution made from it, out of dpkg's status file."""
    system = release.get("ID", "debian")
    version_id = release.get("VERSION_ID", "")
    components = []
    for block in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if fields.get("Status") != "install ok installed":
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        distro = f"&distro={system}-{version_id}" if version_id else ""
        purl = f"pkg:deb/{system}/{quote(name)}@{quote(version)}?arch={architecture}{distro}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return sorted(components, key=lambda component: component["bom-ref"])


def bill(
    name: str,
    components: Iterable[dict[str, Any]],
    asks: Mapping[str, list[str]],
    release: Mapping[str, str],
) -> dict[str, Any]:
    """The document about the image `name`."""
    subject = {"type": "container", "bom-ref": f"csm-foundry/{name}", "name": f"csm-foundry/{name}"}
    listed = list(components)
    if release.get("ID"):
        system = {"type": "operating-system", "bom-ref": "os", "name": release["ID"]}
        listed.append(system | ({"version": release["VERSION_ID"]} if release.get("VERSION_ID") else {}))
    graph = [{"ref": ref, "dependsOn": asks[ref]} for ref in sorted(asks)]
    asked_for = {ref for needed in asks.values() for ref in needed}
    graph.insert(
        0,
        {
            "ref": subject["bom-ref"],
            "dependsOn": [one["bom-ref"] for one in listed if one["bom-ref"] not in asked_for],
        },
    )
    content = {"metadata": {"component": subject}, "components": listed, "dependencies": graph}
    serial = uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", **head, **content}


def main(arguments: list[str]) -> int:
    """Writes the bill of what is installed here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="the image's name")
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    given = parser.parse_args(arguments)
    release = os_release(OS_RELEASE.read_text(encoding="utf-8")) if OS_RELEASE.exists() else {}
    python, asks = python_components()
    system = debian_components(DPKG_STATUS.read_text(encoding="utf-8"), release) if DPKG_STATUS.exists() else []
    document = bill(given.name, python + system, asks, release)
    partial = given.out.with_name(f".{given.out.name}.partial")
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
