"""One training process: `python -m csm_model.training.main --config CONFIG.json`, alone or under torchrun."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from csm_model.errors import CsmError, InputError
from csm_model.machine_errors import machine_error
from csm_model.training.cache import Fetch
from csm_model.training.checkpoint import Mirror, quiet_torch
from csm_model.training.config import TrainingConfig
from csm_model.training.guards import StopSignal
from csm_model.training.parallel import joined_world
from csm_model.training.trainer import Trainer


class RemoteStore(Mirror, Fetch, Protocol):
    """Where copies of checkpoints go and tokens come from; `csm_components.storage.Storage` is one."""


def no_storage(url: str) -> RemoteStore:
    """Raises `InputError`: `csm_components.train.worker` brings a storage."""
    raise InputError(f"{url!r}: this entry knows no storage; start csm_components.train.worker")


def main(
    arguments: list[str] | None = None,
    *,
    open_storage: Callable[[str], RemoteStore] = no_storage,
    raising: bool = False,
) -> int:
    """Trains as the file says; 2 for an error that the caller can mend.

    Args:
        arguments: of the command line.
        raising: raise such an error instead, for whoever hands it on.
        open_storage: opens what `mirror`, `tokens` and `replay` of the configuration name; no storage is known here.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON of csm_model.training.config.TrainingConfig")
    parsed = parser.parse_args(arguments)
    quiet_torch()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    out: Path | None = None
    try:
        config = TrainingConfig.load(parsed.config)
        out = Path(config.out)
        mirror = open_storage(config.mirror) if config.mirror else None
        fetch, replay_fetch = (
            open_storage(place) if "://" in place else None for place in (config.tokens, config.replay or "")
        )
        with joined_world() as world, StopSignal() as stop:  # who waits for others to join has nothing to save yet
            Trainer(config, world, mirror=mirror, fetch=fetch, replay_fetch=replay_fetch).run(stop)
    except Exception as error:
        said = error if isinstance(error, CsmError) else machine_error(error, out)
        if said is None or (raising and said is error):
            raise
        if raising:
            raise said from error
        sys.stderr.write(f"error: {said}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
