"""The model repository that Triton reads: one configuration, and a folder for every version.

    csm/config.pbtxt          made from the protocol; the newest version is served
    csm/<version>/model.py    one line of Python
    csm/<version>/serving.json  settings of this version, where they differ from the server's environment: its bundle

`deploy/triton` is what `write_repository` writes; a test keeps them equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from csm_model.errors import ArtifactError
from csm_model.files import path_written, read_json, write_bytes, write_json
from csm_serving.settings import PATHS, ServingSettings, load_settings
from csm_serving.wire.tensors import INPUTS, MODEL_NAME, MODEL_VERSION, OUTPUTS, TensorSpec

SETTINGS_NAME: Final = "serving.json"

_HEAD = f"""\
# Made from csm_serving.wire.tensors by csm_serving.server.repository.
# The model's settings are the server's environment, CSM_SERVING_*, and serving.json in a version's folder.
name: "{MODEL_NAME}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
version_policy {{ latest {{ num_versions: 1 }} }}
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
"""

_MODEL = '''\
"""The model that Triton loads; all of it lives in csm_serving, where it is tested."""

from csm_serving.server.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def config_pbtxt() -> str:
    """Triton's configuration of the model. Nothing in it depends on the server's version."""
    return _HEAD + _tensors("input", INPUTS) + _tensors("output", OUTPUTS)


def _tensors(kind: str, specs: tuple[TensorSpec, ...]) -> str:
    rows = []
    for spec in specs:
        dims = ", ".join(str(size) for size in spec.shape)
        optional = ", optional: true" if spec.optional else ""
        rows.append(f'  {{ name: "{spec.name}", data_type: {spec.config_dtype}, dims: [ {dims} ]{optional} }}')
    return f"{kind} [\n" + ",\n".join(rows) + "\n]\n"


def write_repository(folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Writes `<folder>/csm/config.pbtxt` and the first version, with `settings` where they are given."""
    write_bytes(folder / MODEL_NAME / "config.pbtxt", config_pbtxt().encode())
    write_version(folder, MODEL_VERSION, settings)


def write_version(folder: Path, version: str, settings: Mapping[str, Any] | None = None) -> Path:
    """Writes `<folder>/csm/<version>`; returns it."""
    written = folder / MODEL_NAME / version
    if settings is not None:
        write_json(written / SETTINGS_NAME, dict(settings))
    write_bytes(written / "model.py", _MODEL.encode())
    return written


def versions_in(folder: Path) -> list[int]:
    """The versions in a repository, the newest last."""
    return sorted(int(path.name) for path in (folder / MODEL_NAME).glob("*") if path.name.isdecimal())


def stored_settings(version: Path) -> dict[str, Any]:
    """What stands in a version's serving.json; nothing where there is none. Raises `ArtifactError`."""
    path = version / SETTINGS_NAME
    if not path.exists():
        return {}
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise ArtifactError(f"{path} is no JSON object; write it again with csm serve or csm swap")
    return stored


def read_version_settings(version: Path) -> ServingSettings:
    """The environment's settings, under those of the version in this folder.

    Triton's stub takes names of files for ASCII, whatever the locale: their bytes are what counts.
    """
    stored = stored_settings(version)
    paths = {name: str(path_written(stored[name])) for name in PATHS if isinstance(stored.get(name), str)}
    return load_settings(**stored | paths)
