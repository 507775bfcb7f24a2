"""The model repository that Triton reads: one configuration and one line of Python, both made from the protocol.

`deploy/triton` is what `write_repository` writes; a test keeps them equal.
"""

from __future__ import annotations

from pathlib import Path

from csm_model.files import write_bytes
from csm_serving.tensors import INPUTS, MODEL_NAME, MODEL_VERSION, OUTPUTS, TensorSpec

_HEAD = f"""\
# Made from csm_serving.tensors by csm_serving.repository.
# The model's settings are the server's environment: CSM_SERVING_*.
name: "{MODEL_NAME}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
"""

_MODEL = '''\
"""The model that Triton loads; all of it lives in csm_serving, where it is tested."""

from csm_serving.triton_model import TritonPythonModel

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


def write_repository(folder: Path) -> None:
    """Writes `<folder>/csm/config.pbtxt` and `<folder>/csm/1/model.py`."""
    write_bytes(folder / MODEL_NAME / "config.pbtxt", config_pbtxt().encode())
    write_bytes(folder / MODEL_NAME / MODEL_VERSION / "model.py", _MODEL.encode())
