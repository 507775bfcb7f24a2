"""The lock is cut to what an image needs: no less, and little more."""

from __future__ import annotations

import importlib.metadata
import re

import image_requirements
import lock
import pytest
from image_requirements import CutError, canonical, closure, cut, name_of, read_lock
from packaging.requirements import Requirement

LOCK = lock.LOCK.read_text(encoding="utf-8")
PROJECT = lock.read_project()
EXTRAS = sorted(set(PROJECT["project"]["optional-dependencies"]) - lock.NOT_LOCKED - {"dev"})
OVERRIDDEN = {name_of(row) for row in PROJECT["tool"]["uv"]["override-dependencies"]}


def names(text: str) -> set[str]:
    return {match[1] for match in re.finditer(r"^([a-z0-9-]+)==", text, re.MULTILINE)}


def asked_of(name: str, extras: frozenset[str]) -> set[tuple[str, frozenset[str]]]:
    """What an installed distribution asks for on this machine, by its own metadata."""
    found = set()
    for row in importlib.metadata.requires(name) or ():
        requirement = Requirement(row)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}
        )
        if wanted and canonical(requirement.name) not in OVERRIDDEN:
            found.add((canonical(requirement.name), frozenset(requirement.extras)))
    return found


def truly_needed(extra: str) -> set[str]:
    """The closure of an extra by what the installed distributions say: the lock's notes play no part."""
    rows = [Requirement(row) for row in PROJECT["project"]["optional-dependencies"][extra]]
    rows += [Requirement(row) for row in PROJECT["project"]["dependencies"]]
    waiting = {(canonical(row.name), frozenset(row.extras)) for row in rows}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        waiting |= asked_of(*one) - seen
    return {name for name, _ in seen}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_cut_holds_all_that_the_extra_needs_by_the_packages_own_words(extra: str) -> None:
    assert truly_needed(extra) <= names(cut(LOCK, PROJECT, extras=[extra]))


def test_a_cut_for_serving_holds_no_tracking_server_and_no_pipeline() -> None:
    served = names(cut(LOCK, PROJECT, extras=["serve"]))
    assert {"nvidia-pytriton", "torch", "tritonclient", "minio"} <= served
    assert served.isdisjoint({"mlflow", "kfp", "kubernetes", "lhotse", "pytest", "transformers", "boto3"})
    assert "torch" not in names(cut(LOCK, PROJECT, extras=["tracking"]))


def test_every_line_of_a_cut_stands_in_the_lock_with_its_hashes() -> None:
    text = cut(LOCK, PROJECT, extras=["serve"])
    assert set(text.splitlines()) <= set(LOCK.splitlines())
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert all("--hash=sha256:" in block for block in blocks)
    assert not any(block.rstrip().endswith("\\") for block in blocks)


def test_what_is_left_out_takes_along_what_only_it_needs() -> None:
    whole = names(cut(LOCK, PROJECT, extras=["serve"]))
    without = names(cut(LOCK, PROJECT, extras=["serve"], without=["nvidia-pytriton"]))
    assert whole - without >= {"nvidia-pytriton", "sh", "pyzmq"}
    assert {"numpy", "protobuf", "tritonclient"} <= without


def test_one_package_is_cut_out_alone() -> None:
    assert names(cut(LOCK, PROJECT, named=["uv"], base=False)) == {"uv"}
    assert "numpy" in names(cut(LOCK, PROJECT, named=["uv"]))


def test_the_lock_is_read_whole() -> None:
    packages = read_lock(LOCK)
    assert len(packages) == len(re.findall(r"^[A-Za-z0-9._-]+==", LOCK, re.MULTILINE))
    assert "csm-foundry" in packages["torch"].asked_by
    assert all(name in packages for one in packages.values() for name in one.asked_by - {"csm-foundry"})


def test_what_is_not_there_is_named_with_its_cure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CutError, match=r"extra 'server' is not in pyproject.toml, which has data, dev"):
        cut(LOCK, PROJECT, extras=["server"])
    with pytest.raises(CutError, match=r"absent is not in requirements.lock; write it again with `make lock`"):
        closure(read_lock(LOCK), ["absent"])
    assert image_requirements.main(["--extra", "server"]) == 2
    assert capsys.readouterr().err.startswith("error: extra 'server'")
