"""The scripts of deploy/demo, which import each other by their bare names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "demo"


@contextmanager
def demo_modules(*names: str) -> Iterator[SimpleNamespace]:
    """Imports modules of deploy/demo; afterwards they, and what they imported from there, are gone again."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(FOLDER))
        for path in FOLDER.glob("*.py"):
            sys.modules.pop(path.stem, None)
