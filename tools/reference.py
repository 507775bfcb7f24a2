"""Makes `docs/settings.md`: every environment variable of steps and of Kubeflow, from the settings' own fields.

python tools/reference.py            writes it
python tools/reference.py --check    says whether it differs, changes nothing, and exits 1 if it does
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from made_files import write_or_check
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from csm_components.settings import Settings
from csm_components.targets import DeployTarget, TrainTarget
from csm_pipelines.settings import KfpSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

Every environment variable of the steps and of the commands that speak to Kubeflow, made from the packages'
`settings.py` by `tools/reference.py`. A cluster's [profile](pipelines.md) sets those of the steps. A value that breaks
its rule is refused with one line that names the variable. The server's and the client's settings, `CSM_SERVING_*`, are
on the page of [serving](serving.md); the values of the chart csm-serving set them.
"""

TABLES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    (
        "Steps",
        "Read by every pipeline step (`csm_components.settings`); secrets come from Kubernetes secrets.",
        Settings,
    ),
    (
        "CSM_TRAIN_TARGET",
        "One JSON object (`csm_components.targets.TrainTarget`); a profile's `train`.",
        TrainTarget,
    ),
    (
        "CSM_DEPLOY_TARGET",
        "One JSON object (`csm_components.targets.DeployTarget`); a profile's `deploy`.",
        DeployTarget,
    ),
    (
        "Kubeflow Pipelines",
        "Read by `csm submit`, `csm runs` and `csm schedule` (`csm_pipelines.settings`); they go before the profile.",
        KfpSettings,
    ),
)


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """What stands under each field of a class, in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[statement.target.id] = " ".join(str(after.value.value).split())
    return found


def variable(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    """What the field is called outside: its environment variable, or its key in a JSON object."""
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return str(model.model_config.get("env_prefix", "")) + (
        name.upper() if "env_prefix" in model.model_config else name
    )


def default(field: FieldInfo) -> str:
    """The default as the environment would give it."""
    value: Any = field.default
    if isinstance(value, BaseModel):
        return "`{}`"
    if value is None or value == "":
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def page() -> str:
    """The whole page. Raises `ValueError` for a field that nothing describes."""
    parts = [HEAD]
    for title, about, model in TABLES:
        said = descriptions(model)
        undescribed = [name for name in model.model_fields if name not in said]
        if undescribed:
            raise ValueError(f"{model.__module__}.{model.__name__}.{undescribed[0]}: say under it what it is")
        rows = [
            f"| `{variable(model, name, field)}` | {default(field)} | {said[name]} |".replace("\\|", "|")
            for name, field in model.model_fields.items()
        ]
        parts.append(
            f"\n## {title}\n\n{about}\n\n| setting | default | meaning |\n| --- | --- | --- |\n"
            + "\n".join(rows)
            + "\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check({PAGE: page()}, sys.argv[1:]))
