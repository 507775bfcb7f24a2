"""Makes `docs/settings.md` and `docs/steps.md`: environment variables from the settings' own fields, the steps from
their table.

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
from csm_components.spec import Knob, StepSpec
from csm_components.table import STEPS
from csm_components.targets import DeployTarget, TrainTarget
from csm_pipelines.settings import KfpSettings

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "settings.md"
STEPS_PAGE = DOCS / "steps.md"

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


STEPS_HEAD = """\
# Steps

Every step of a pipeline, and every setting that `--set SECTION.FIELD=VALUE` changes, made from the table of steps
(`csm_components.table`) by `tools/reference.py`. To add a step, or a setting, read [pipelines](pipelines.md).
"""


def _names(rows: Any) -> str:
    return ", ".join(f"`{row.name}`" for row in rows) or "nothing"


def _reuse(spec: StepSpec) -> str:
    return "yes" if spec.cacheable else f"no: {spec.effects}"


def _words(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    for before, after in (("typing.", ""), ("collections.abc.", ""), ("NoneType", "None"), ("|", "or")):
        text = text.replace(before, after)
    return text


def _setting(knob: Knob) -> str:
    steps = dict.fromkeys(spec.name for spec in STEPS if knob in spec.knobs)
    value = knob.default
    shown = "none" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"
    return f"| `{knob.dotted}` | {_words(knob.type)} | {shown} | {knob.description} | {', '.join(steps)} |"


def steps_page() -> str:
    """The page of steps. Raises `ValueError` for a setting that nothing describes."""
    knobs = dict.fromkeys(knob for spec in STEPS for knob in spec.knobs)
    silent = [knob for knob in knobs if not knob.description]
    if silent:
        raise ValueError(f"{silent[0].dotted}: say under it what it is")
    steps = [
        f"| `{spec.name}` | {spec.description} | {_names(spec.inputs)} | {_names(spec.outputs)} | "
        f"{'in shards' if spec.fan_out else 'one task'} | {spec.image} | {_reuse(spec)} |"
        for spec in STEPS
    ]
    return (
        f"{STEPS_HEAD}\n| step | what it does | reads | makes | on a cluster | image | reused |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(steps)
        + "\n\n## Settings\n\n| setting | type | default | meaning | read by |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(map(_setting, knobs))
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(write_or_check({PAGE: page(), STEPS_PAGE: steps_page()}, sys.argv[1:]))
