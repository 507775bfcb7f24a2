"""Makes the schemas again: python tests/schemas/cyclonedx/recreate.py cyclonedx_python_lib-11.12.0-py3-none-any.whl

What only people read (titles, descriptions, examples) is left out.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

FILES = ("bom-1.6", "jsf-0.82", "spdx")
FOR_PEOPLE = {"title", "description", "examples", "meta:enum", "$comment", "deprecated"}


def bare(schema: Any, *, names: bool = False) -> Any:
    """A schema without what is for people; `names` where the keys are names of properties and not keywords."""
    if isinstance(schema, dict):
        return {
            key: bare(value, names=key in {"properties", "definitions"} and not names)
            for key, value in schema.items()
            if names or key not in FOR_PEOPLE
        }
    if isinstance(schema, list):
        return [bare(value) for value in schema]
    return schema


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        for name in FILES:
            text = wheel.read(f"cyclonedx/schema/_res/{name}.SNAPSHOT.schema.json").decode()
            schema = json.loads(text.replace(".SNAPSHOT.", "."))
            target = Path(__file__).with_name(f"{name}.schema.json")
            target.write_text(json.dumps(bare(schema), separators=(",", ":")) + "\n", encoding="utf-8")
