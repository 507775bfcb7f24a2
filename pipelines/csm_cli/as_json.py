"""`--json`, which means the same everywhere: the command's figures or list as one JSON value on standard output.

Nothing else is printed there then; what a person is told goes to standard error.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from csm_model.files import measured

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]


def print_json(value: Any) -> None:
    """Prints a value; what is no finite number in it was not measured, and is null."""
    typer.echo(json.dumps(measured(value), indent=2, allow_nan=False))
