"""Makes the schemas of KEDA, the Prometheus operator, the Gateway API and Argo CD again; needs pip and npm.

python tests/schemas/crds/recreate.py

KEDA's and the operator's CRDs come as pydantic models in packages of PyPI that name the project's version in their own;
the Gateway API's and Argo CD's come as TypeScript interfaces in packages of npm.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = {
    "cloudcoil-models-keda==2.20.2.1": ("keda.v1alpha1", "keda.sh/v1alpha1", ["ScaledObject", "TriggerAuthentication"]),
    "cloudcoil-models-prometheus-operator==0.93.1.1": (
        "prometheus_operator.v1",
        "monitoring.coreos.com/v1",
        ["PodMonitor", "ServiceMonitor", "PrometheusRule"],
    ),
}
INTERFACES = {
    "@kubernetes-models/argo-cd@4.0.0": ("argoproj.io/v1alpha1", ["Application", "AppProject"]),
    "@kubernetes-models/gateway-api@2.0.0": ("gateway.networking.k8s.io/v1", ["GRPCRoute"]),
}
GENERATOR = "ts-json-schema-generator@2.4.0"

BASE_CLASSES = {
    "pydantic.py": """
import typing
import pydantic
Self, Never, UNSET = typing.Self, typing.Never, None
class BaseModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
T = typing.TypeVar("T")
U = typing.TypeVar("U")
class BaseBuilder: pass
class BaseModelBuilder: pass
class BuilderContextBase(typing.Generic[T]): pass
class ListBuilderContext(typing.Generic[T]): pass
class GenericListBuilder(typing.Generic[T, U]): pass
""",
    "apimachinery.py": """
import pydantic
class ObjectMeta(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    class Builder: pass
""",
    "resources.py": "from .pydantic import BaseModel as Resource\n",
}
"""What the models are built on; they need no more of it to say their schema."""

DUMP = """
import importlib, json, sys
module = importlib.import_module("cloudcoil.models." + sys.argv[1])
print(json.dumps({kind: getattr(module, kind).model_json_schema() for kind in sys.argv[2:]}))
"""


def plain(schema: Any) -> Any:
    """A schema without words and defaults, and without the null that stands for a field left out."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return plain({**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]})
    kept = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions"):
            kept[key] = {name: plain(item) for name, item in value.items()}
        elif key == "$ref":
            kept[key] = value.replace("#/definitions/", "#/$defs/")
        elif key == "pattern":
            kept[key] = value.replace("^(?i)", "(?i)^")  # Go takes a flag anywhere, Python only in front
        elif key not in ("title", "description", "default"):
            kept[key] = plain(value)
    if "definitions" in kept:
        kept["$defs"] = kept.pop("definitions")
    return kept


def used(schema: dict[str, Any]) -> set[str]:
    """Names of the definitions that a schema needs."""
    names: set[str] = set()
    waiting = [{key: value for key, value in schema.items() if key != "$defs"}]
    while waiting:
        found = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(waiting.pop()))) - names
        names |= found
        waiting += [schema["$defs"][name] for name in found]
    return names


def write(api_version: str, kind: str, schema: dict[str, Any]) -> None:
    """Puts one kind's schema in its place."""
    group, _, version = api_version.rpartition("/")
    target = HERE / f"{kind}_{group}_{version}.json".lower()
    schema["required"] = sorted({"apiVersion", "kind", *schema.get("required", ())})
    schema["properties"]["metadata"] = {"type": "object"}
    if "$defs" in schema:
        schema["$defs"] = {name: schema["$defs"][name] for name in used(schema)}
    target.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(target.name)


def from_models(package: str, folder: Path) -> None:
    """The schemas of a package of pydantic models."""
    module, api_version, kinds = MODELS[package]
    download = ["pip", "download", "--quiet", "--no-deps", "--ignore-requires-python", "--dest", str(folder), package]
    subprocess.run([sys.executable, "-m", *download], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    root = folder / "cloudcoil"
    for name, text in BASE_CLASSES.items():
        (root / name).write_text(text, encoding="utf-8")
    source = root / "models" / f"{module.replace('.', '/')}.py"
    source.write_text("from __future__ import annotations\n" + source.read_text(encoding="utf-8"), encoding="utf-8")
    (source.parent / "__init__.py").write_text("", encoding="utf-8")
    command = [sys.executable, "-c", DUMP, module, *kinds]
    said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    for kind, schema in json.loads(said).items():
        write(api_version, kind, plain(schema))


def from_interfaces(package: str, folder: Path) -> None:
    """The schemas of a package of TypeScript interfaces."""
    api_version, kinds = INTERFACES[package]
    name = package.rpartition("@")[0]
    (folder / "package.json").write_text("{}", encoding="utf-8")
    subprocess.run(["npm", "install", "--silent", GENERATOR, package], cwd=folder, check=True)
    for kind in kinds:
        program = f'import type {{ I{kind} }} from "{name}/{api_version}/{kind}";\nexport type Wanted = I{kind};\n'
        (folder / "wanted.ts").write_text(program, encoding="utf-8")
        options = {"module": "nodenext", "moduleResolution": "nodenext", "skipLibCheck": True, "strict": True}
        (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["wanted.ts"]}))
        command = ["npx", "ts-json-schema-generator", "--path", "wanted.ts", "--tsconfig", "tsconfig.json"]
        command += ["--type", "Wanted", "--no-type-check", "--expose", "all", "--no-top-ref"]
        said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        made = plain(json.loads(said))
        whole = made["$defs"].pop(f"I{kind}")
        made["$defs"].pop("Wanted", None)
        for definition in made["$defs"].values():
            if definition.get("additionalProperties") is False and not definition.get("properties"):
                del definition["additionalProperties"]  # an interface without members stands for any object
        write(api_version, kind, {**whole, "$defs": made["$defs"]})


def main() -> None:
    """All of them."""
    for package in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            from_models(package, Path(folder))
    for package in INTERFACES:
        with tempfile.TemporaryDirectory() as folder:
            from_interfaces(package, Path(folder))


if __name__ == "__main__":
    main()
