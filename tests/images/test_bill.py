"""Bills of materials: what is installed, as CycloneDX has it."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
import sbom
from bills import complaints

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 its text goes on
 Package: not-this

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("bill") / "bill.cdx.json"
    assert sbom.main(["--name", "here", "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_a_bill_is_valid(document: dict) -> None:
    assert complaints(document) == []


def test_the_check_of_bills_can_fail(document: dict) -> None:
    assert complaints(document | {"bomFormat": "SPDX"})
    assert complaints(document | {"components": [{"type": "libary", "name": "x"}]})


def test_every_installed_distribution_is_listed_with_its_version(document: dict) -> None:
    listed = {(one["purl"].partition("@")[0], one["version"]) for one in document["components"] if "purl" in one}
    for name in {dist.metadata["Name"] for dist in importlib.metadata.distributions()}:
        assert (f"pkg:pypi/{sbom.canonical(name)}", importlib.metadata.version(name)) in listed


def test_of_two_with_one_name_the_one_that_is_imported_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setuptools, once imported, puts its own older copies of some packages at the end of Python's path."""
    copy = tmp_path / "numpy-0.0.1.dist-info"
    copy.mkdir()
    (copy / "METADATA").write_text("Metadata-Version: 2.1\nName: NumPy\nVersion: 0.0.1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = {one["name"].lower(): one["version"] for one in sbom.python_components()[0]}
    monkeypatch.setattr("sys.path", [*sys.path[1:], sys.path[0]])
    last = {one["name"].lower(): one["version"] for one in sbom.python_components()[0]}
    assert (first["numpy"], last["numpy"]) == ("0.0.1", importlib.metadata.version("numpy"))


def test_who_asks_for_whom_is_told_among_what_is_listed(document: dict) -> None:
    refs = [one["bom-ref"] for one in document["components"]]
    assert len(refs) == len(set(refs))
    graph = {one["ref"]: one["dependsOn"] for one in document["dependencies"]}
    assert {ref for needed in graph.values() for ref in needed} <= set(refs)
    torch = f"pkg:pypi/torch@{importlib.metadata.version('torch')}"
    assert f"pkg:pypi/sympy@{importlib.metadata.version('sympy')}" in graph[torch]


def test_the_same_content_gives_the_same_bytes_and_another_another_number(tmp_path: Path, document: dict) -> None:
    sbom.main(["--name", "here", "--out", str(tmp_path / "again")])
    sbom.main(["--name", "there", "--out", str(tmp_path / "other")])
    assert json.loads((tmp_path / "again").read_text(encoding="utf-8")) == document
    assert json.loads((tmp_path / "other").read_text(encoding="utf-8"))["serialNumber"] != document["serialNumber"]


def test_packages_of_the_system_are_those_that_are_installed() -> None:
    release = sbom.os_release('PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="12"\n')
    (libc,) = sbom.debian_components(STATUS, release)
    assert libc["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12"


@pytest.mark.parametrize(
    ("fields", "licences"),
    [
        ({"License-Expression": "Apache-2.0", "License": "ignored"}, [{"expression": "Apache-2.0"}]),
        ({"License": "MIT"}, [{"license": {"name": "MIT"}}]),
        ({"License": "a whole\ntext"}, []),
    ],
)
def test_a_licence_is_told_as_the_package_states_it(fields: dict, licences: list) -> None:
    assert sbom.python_licenses(fields) == licences
