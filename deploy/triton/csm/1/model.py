"""The model that Triton loads; all of it lives in csm_serving, where it is tested."""

from csm_serving.server.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
