"""Images, built once a session where root and the programs allow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import containers
import pytest
from containers import Running
from random_bundles import random_bundle


@pytest.fixture(scope="session")
def base() -> None:
    if reason := containers.missing():
        pytest.skip(reason)
    if reason := containers.make_base():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds leave bills and values."""
    return tmp_path_factory.mktemp("images")


def built_once(target: str, *, out: Path, failed: dict[str, AssertionError]) -> str:
    """Builds a target; a build that has failed is not tried again."""
    if target in failed:
        raise failed[target]
    try:
        return containers.build_image(target, out)
    except AssertionError as error:
        failed[target] = error
        raise


@pytest.fixture(scope="session")
def image_of(request: pytest.FixtureRequest, out: Path) -> Callable[[str], str]:
    """Builds a target, once; returns the image by its digest. TEST_IMAGES in the environment names those to build."""
    chosen = os.environ.get("TEST_IMAGES", "tracking data serve").split()

    def build(target: str) -> str:
        if target not in chosen:
            pytest.skip(f"TEST_IMAGES leaves {target} out")
        request.getfixturevalue("base")
        return built(target)

    built = cache(partial(built_once, out=out, failed={}))
    return build


@pytest.fixture
def run_container() -> Iterator[Callable[..., Running]]:
    """Starts containers that are gone when the test is over."""
    with ExitStack() as stack:
        yield lambda image, *command, **given: stack.enter_context(containers.running(image, *command, **given))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights and two speakers, which anybody may read."""
    folder = random_bundle(tmp_path_factory.mktemp("bundle"))
    for path in [folder.parent, folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
