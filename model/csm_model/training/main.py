"""One training process: `python -m csm_model.training.main --config CONFIG.json`, alone or under torchrun."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from csm_model.errors import CsmError, InputError
from csm_model.training.checkpoint import Mirror, quiet_torch
from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import joined_world
from csm_model.training.trainer import Trainer


def no_mirror(url: str) -> Mirror:
    """Raises `InputError`: copies need a storage, which `csm_components.train.worker` brings."""
    raise InputError(f"mirror {url!r}: this entry knows no storage; start csm_components.train.worker")


def main(arguments: list[str] | None = None, *, open_mirror: Callable[[str], Mirror] = no_mirror) -> int:
    """Trains as the file says; 2 for an error that the caller can mend.

    Args:
        arguments: of the command line.
        open_mirror: opens what `mirror` of the configuration names; this package knows no storage of its own.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON of csm_model.training.config.TrainingConfig")
    parsed = parser.parse_args(arguments)
    quiet_torch()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        config = TrainingConfig.load(parsed.config)
        with joined_world() as world:
            Trainer(config, world, mirror=open_mirror(config.mirror) if config.mirror else None).run()
    except CsmError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
