"""What a frame computes on a CPU, at the speed of memory: packed weights and the kernels that read them."""

from csm_model.kernels.attention import attend_slots
from csm_model.kernels.linear import PackedLinear
from csm_model.kernels.machine import Machine, this_machine
from csm_model.kernels.pack import pack

__all__ = ["Machine", "PackedLinear", "attend_slots", "pack", "this_machine"]
