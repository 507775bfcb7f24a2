"""One training process with a storage for its tokens and for copies of its checkpoints; what torchx starts."""

from __future__ import annotations

import sys

from csm_components.storage import open_storage
from csm_model.training.main import main

if __name__ == "__main__":
    sys.exit(main(open_storage=open_storage))
