"""What a frame computes on a CPU, at the speed of memory: packed weights and the kernels that read them."""

from csm_model.kernels.attention import attend_slots
from csm_model.kernels.install import use_kernels
from csm_model.kernels.linear import KernelLinear
from csm_model.kernels.machine import Machine, this_machine

__all__ = ["KernelLinear", "Machine", "attend_slots", "this_machine", "use_kernels"]
