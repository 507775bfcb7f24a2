"""A path that will not do, to read or to write: one line that names it, exit 2, and before anything is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest
import soundfile

from csm_model.errors import InputError
from csm_serving.client.audio import sound_writer

Csm = Callable[..., Any]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    for name in ("folder.wav", "folder.opus"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "a folder": tmp_path / "folder.wav",
        "below a file": tmp_path / "file" / "x.wav",
        "below a loop": tmp_path / "loop" / "x.wav",
        "too long": tmp_path / f"{'n' * 300}.wav",
        "of the kernel": Path("/proc/x.wav"),
    }


@pytest.mark.parametrize("place", ["a folder", "below a file", "below a loop", "too long", "of the kernel"])
@pytest.mark.parametrize("suffix", [".wav", ".opus"])
def test_sound_that_cannot_be_written_is_known_before_it_is_spoken(
    places: dict[str, Path], place: str, suffix: str
) -> None:
    path = places[place].with_suffix(suffix)
    with pytest.raises(InputError) as raised, sound_writer(path):
        pytest.fail("it began to speak")
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def spoken(path: Path, then: Callable[[], object]) -> None:
    """A frame, and then what happens before the end."""
    with sound_writer(path) as write:
        write(np.zeros(1920, np.float32), b"")
        then()


def test_a_place_that_goes_while_it_is_spoken_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.wav: cannot be written"):
        spoken(tmp_path / "there" / "x.wav", lambda: shutil.rmtree(tmp_path / "there"))


def test_what_is_raised_while_speaking_stays_what_it_is_and_leaves_no_file(tmp_path: Path) -> None:
    def hang_up() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        spoken(tmp_path / "x.wav", hang_up)
    assert not list(tmp_path.iterdir())
    with sound_writer(tmp_path / "x.wav"):
        pass
    assert soundfile.info(tmp_path / "x.wav").frames == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("checkpoint", "verify", "n" * 300),
        ("checkpoint", "inspect", "file/own"),
        ("checkpoint", "convert", "own", "file/hf", "--to", "hf"),
        ("checkpoint", "convert", "own", "n" * 300, "--to", "hf"),
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_a_path_that_will_not_do_is_one_line(csm: Csm, arguments: tuple[str, ...]) -> None:
    Path("file").write_text("x")
    damage.write_small(Path("own"))
    outcome = csm(*arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome
    assert not Path("hf").exists()
