"""Checks Kubernetes objects strictly: the built-in kinds by the schemas of a minor version, the others by their CRD.

Schemas of CRDs lie in `tests/schemas/crds`, one file a kind and version, named `<kind>_<group>_<version>.json` in small
letters; its README names where each is from. A kind without a schema is an error, so that nothing passes unseen. A
schema may say `"podTemplate": true` of a field: it is then checked as Kubernetes' own PodTemplateSpec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator, ValidationError, validators
from kubernetes_validate import utils

CRDS = Path(__file__).parent.parent / "schemas" / "crds"
VERSIONS = ("1.33", "1.35", "1.37")
"""Minor versions of Kubernetes that every built-in object is checked against."""


def _pod_template(validator: Any, wanted: bool, template: Any, schema: Any) -> Iterator[ValidationError]:
    whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "of-a-job"}, "template": template}
    yield from (ValidationError(problem) for problem in problems(whole, VERSIONS[-1]))


_Validator: Any = validators.extend(Draft202012Validator, {"podTemplate": _pod_template})

utils.schema_contents = cache(utils.schema_contents)  # it reads megabytes again for every object


class UnknownKindError(Exception):
    """No schema knows an object of this kind."""


def crd_path(api_version: str, kind: str) -> Path:
    """Where the schema of a custom kind lies."""
    group, _, version = api_version.rpartition("/")
    return CRDS / f"{kind}_{group}_{version}.json".lower()


@cache
def _crd(path: Path) -> Any:
    schema = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return _Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """The schema with unknown fields refused wherever an object names its fields and does not keep unknown ones."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        strict["additionalProperties"] = False
    return strict


def problems(thing: dict[str, Any], version: str) -> list[str]:
    """One line for each rule that an object breaks under a minor version of Kubernetes; empty for a right one."""
    api_version, kind = thing["apiVersion"], thing["kind"]
    path = crd_path(api_version, kind)
    if path.exists():
        found = _crd(path).iter_errors(thing)
        return [f"{kind} {error.json_path}: {error.message}" for error in found]
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{kind} {'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        raise UnknownKindError(f"{api_version} {kind}: no schema; put one at {path}") from None
    return []


def check(thing: dict[str, Any]) -> None:
    """Raises an AssertionError that names every broken rule, under any of `VERSIONS`."""
    for version in VERSIONS:
        found = problems(thing, version)
        assert not found, f"Kubernetes {version}: " + "; ".join(found)
