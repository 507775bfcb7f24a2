"""Whatever a folder is called, nothing that a shell or a search path would misread is handed to Triton."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from csm_model.errors import InputError
from csm_model.files import path_written, read_json, write_json, written_path
from csm_serving.launcher.hosts import for_grpc, for_http, listening_socket
from csm_serving.launcher.installation import find_installation
from csm_serving.launcher.places import PlainPlace, is_plain
from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings
from csm_serving.wire.defaults import address_of

ODD = " \t\n'\"`;&|<>()[]{}$*?!#~^\\:=,%@äöüñ漢字🙂\u202e\udcff\udc80-._aZ0"
"""Letters of a name, with bytes among them that are no UTF-8."""


def odd_names(count: int) -> list[str]:
    draw = random.Random(7)
    names = ["a b", "-rf", "it's", '"q"', "$(touch X)", "`touch X`", "a;touch X", "a:b", "~", "x" * 250, "ä" * 120]
    while len(names) < count:
        name = "".join(draw.choice(ODD) for _ in range(draw.randint(1, 40)))
        if name not in (".", "..") and len(os.fsencode(name)) < 250:
            names.append(name)
    return names


@pytest.mark.parametrize("under", ["", "deep " * 20 + "/it's/" + "deep " * 20])
def test_nothing_but_plain_names_is_handed_to_triton(tmp_path: Path, under: str) -> None:
    installation = find_installation()
    for name in odd_names(120):
        folder = tmp_path / under / name
        triton = LocalTriton(tmp_path, settings=load_settings(), folder=folder)
        folder.mkdir(parents=True)
        triton.ports = {"grpc": 1, "http": 2, "metrics": 3}
        command, environment = triton._assemble(installation)
        place = triton._place.path
        try:
            told = dict(option[2:].split("=", 1) for option in command[1:] if "=" in option)
            for option, leads in (("model-repository", "repository"), ("backend-directory", "backends")):
                assert is_plain(told[option]), told[option]
                assert Path(told[option]).resolve() == (folder / leads).resolve()
            search = [environment["PATH"].split(":")[0], *environment["LD_LIBRARY_PATH"].split(":")[:2]]
            assert all(is_plain(path) and Path(path).is_dir() for path in search), search
            assert (Path(search[0]) / "python3").exists()
            assert Path(search[1]).resolve() == installation.libraries.resolve()
            assert place.resolve() == folder.resolve()
        finally:
            triton._place.remove()
        assert not place.is_symlink()


def test_a_search_path_is_cut_by_no_colon_in_a_programs_own_path(tmp_path: Path) -> None:
    place = PlainPlace(tmp_path, f"csm_test_{os.getpid()}_")
    place.make()
    try:
        own = tmp_path / "a:b" / "bin"
        own.mkdir(parents=True)
        other = tmp_path.parent
        assert place.of(other, "there").resolve() == other.resolve()
        assert place.of(other, "there") == place.path / "there", "made again as before"
        assert place.of(own, "x").resolve() == own
    finally:
        place.remove()


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    (tmp_path / "file").touch()
    for folder in (tmp_path / ("x" * 300), tmp_path / "file" / "below", tmp_path / "/".join(["long" * 50] * 30)):
        with pytest.raises(InputError, match="give another --folder") as caught:
            LocalTriton(bundle, settings=load_settings(grpc_port=0, http_port=0, metrics_port=0), folder=folder).start()
        assert "\n" not in str(caught.value)


def test_a_path_in_json_is_the_path_that_was_written(tmp_path: Path) -> None:
    for name in odd_names(200):
        path = tmp_path / name
        write_json(tmp_path / "paths.json", {"bundle": written_path(path)})
        assert path_written(read_json(tmp_path / "paths.json")["bundle"]) == path


@pytest.mark.parametrize(
    ("host", "grpc", "http"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]", "ipv6:::1"),
        ("::", "[::]", "ipv6:::"),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0"),
    ],
)
def test_an_address_is_written_as_each_part_of_triton_wants_it(host: str, grpc: str, http: str) -> None:
    assert (for_grpc(host), for_http(host)) == (grpc, http)
    with listening_socket(host, 0) as held:
        assert held.getsockname()[1] > 0
    assert address_of(host, 80) == (f"[{host}]:80" if ":" in host else f"{host}:80")


def test_a_name_is_an_address_to_what_knows_no_names() -> None:
    assert for_http("localhost") in ("127.0.0.1", "ipv6:::1")
    assert for_grpc("localhost") == "localhost"
