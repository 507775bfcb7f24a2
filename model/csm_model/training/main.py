"""One training process: `python -m csm_model.training.main --config CONFIG.json`, alone or under torchrun."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from csm_model.errors import CsmError
from csm_model.training.config import TrainingConfig
from csm_model.training.parallel import joined_world
from csm_model.training.trainer import Trainer


def main(arguments: list[str] | None = None) -> int:
    """Trains as the file says; 2 for an error that the caller can mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON of csm_model.training.config.TrainingConfig")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        config = TrainingConfig.load(parsed.config)
        with joined_world() as world:
            Trainer(config, world).run()
    except CsmError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
