"""Whether the model of a running Triton lives, by its signs of life (`csm_serving.server.life`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from csm_serving.server.life import FOLDER, STOP, signs_in

HUNG_S: Final = 60.0
"""Seconds without a round of a living engine after which it counts as hung; the longest work it does at once is some
rows of a prompt."""


class LifeWatch:
    """Looks for a model that has died, or hangs, without Triton's noticing.

    Args:
        folder: of the server.
        period_s: seconds between two looks. Time is counted in looks: a machine that was asleep has made none.
    """

    def __init__(self, folder: Path, *, period_s: float) -> None:
        self._folder = folder / FOLDER
        self._most = round(HUNG_S / period_s)
        self._seen: dict[str, tuple[int, int]] = {}

    def begin(self) -> None:
        """Makes room for signs; those of a server before are gone."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._seen.clear()

    def failure(self) -> str | None:
        """Why the model cannot speak; None where it can, as far as it can be seen."""
        for sign in signs_in(self._folder):
            if not sign.lives:
                return f"the process of the model (version {sign.version}, process {sign.pid}) is gone"
            touched, looks = self._seen.get(sign.version, (0, 0))
            looks = looks + 1 if touched == sign.touched else 0
            self._seen[sign.version] = sign.touched, looks
            if looks >= self._most:
                return f"the model (version {sign.version}, process {sign.pid}) gave no sign of life for {HUNG_S:g} s"
        return None

    @property
    def serves(self) -> bool:
        """Whether a version serves, or still ends its streams."""
        return any(sign.lives for sign in signs_in(self._folder))

    def tell_to_stop(self) -> None:
        """Has every version take no more streams, and end those that are live."""
        if self._folder.is_dir():
            (self._folder / STOP).touch()
