"""Checks bills of materials against the schema of CycloneDX 1.6."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from referencing import Registry, Resource

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas" / "cyclonedx"


@cache
def _validator() -> Draft7Validator:
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in SCHEMAS.glob("*.schema.json")]
    resources = [Resource.from_contents(content) for content in contents]
    registry = Registry().with_resources([(str(resource.id()), resource) for resource in resources])
    (bom,) = (content for content in contents if content["$id"].endswith("/bom-1.6.schema.json"))
    return Draft7Validator(bom, registry=registry)


def complaints(document: dict[str, Any]) -> list[str]:
    """What is wrong with a bill, by place."""
    return [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(document)]
