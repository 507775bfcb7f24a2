"""GPUs by name: what their vendor's data sheets say, for planning.

Peaks are dense (without sparsity), bf16 with float32 accumulation. Memory is the GB that the vendor names, taken as
10^9 bytes: what a card shows is a little more. Links are a GPU's bandwidth to the others of its node in one direction:
half of what is said of NVLink and PCIe, which count both. The network is a GPU's share of its node's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from csm_model.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU and its ways to others."""

    name: str
    tflops: float
    """Peak of dense bf16 matrix products, in 10^12 operations a second."""
    fp32_tflops: float
    """Peak of float32 products outside the tensor cores: the trainer asks for no TF32."""
    memory_gb: float
    """Memory, in 10^9 bytes."""
    memory_gbs: float
    """Bandwidth of the memory, in 10^9 bytes a second."""
    link_gbs: float
    """To the GPUs of its node, one way, in 10^9 bytes a second."""
    network_gbs: float
    """To other nodes, one way, in 10^9 bytes a second; of one GPU."""
    source: str
    """Where the figures stand."""

    def __post_init__(self) -> None:
        for name in ("tflops", "fp32_tflops", "memory_gb", "memory_gbs", "link_gbs", "network_gbs"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"gpu {self.name}: {name} {getattr(self, name)} must be more than 0, and finite")

    @property
    def memory(self) -> float:
        """Bytes."""
        return self.memory_gb * 1e9


_CLOUD = "network: 100 Gbit/s a node of four, an assumption"
_TABLE = (
    Gpu(
        name="b200", tflops=2250, fp32_tflops=75, memory_gb=180, memory_gbs=8000, link_gbs=900, network_gbs=50,
        source="NVIDIA DGX B200 Datasheet (72 PFLOPS FP8 and 1,440 GB for eight; NVLink 1.8 TB/s; ConnectX-7 400 Gb/s)",
    ),
    Gpu(
        name="h200", tflops=989, fp32_tflops=67, memory_gb=141, memory_gbs=4800, link_gbs=450, network_gbs=50,
        source="NVIDIA H200 Tensor Core GPU Datasheet (SXM); NVIDIA DGX H200 Datasheet (ConnectX-7 400 Gb/s a GPU)",
    ),
    Gpu(
        name="h100", tflops=989, fp32_tflops=67, memory_gb=80, memory_gbs=3350, link_gbs=450, network_gbs=50,
        source="NVIDIA H100 Tensor Core GPU Datasheet (SXM5); NVIDIA DGX H100 Datasheet (ConnectX-7 400 Gb/s a GPU)",
    ),
    Gpu(
        name="h100-pcie", tflops=756, fp32_tflops=51, memory_gb=80, memory_gbs=2000, link_gbs=64, network_gbs=3.125,
        source=f"NVIDIA H100 PCIe GPU Product Brief (PCIe 5.0 x16, without bridges); {_CLOUD}",
    ),
    Gpu(
        name="a100-80", tflops=312, fp32_tflops=19.5, memory_gb=80, memory_gbs=2039, link_gbs=300, network_gbs=25,
        source="NVIDIA A100 Tensor Core GPU Datasheet (80GB SXM); NVIDIA DGX A100 Datasheet (200 Gb/s a GPU)",
    ),
    Gpu(
        name="a100-40", tflops=312, fp32_tflops=19.5, memory_gb=40, memory_gbs=1555, link_gbs=300, network_gbs=25,
        source="NVIDIA A100 Tensor Core GPU Datasheet (40GB SXM); NVIDIA DGX A100 Datasheet (200 Gb/s a GPU)",
    ),
    Gpu(
        name="l40s", tflops=362, fp32_tflops=91.6, memory_gb=48, memory_gbs=864, link_gbs=32, network_gbs=3.125,
        source=f"NVIDIA L40S Datasheet (PCIe 4.0 x16: 64 GB/s both ways); {_CLOUD}",
    ),
    Gpu(
        name="l4", tflops=121, fp32_tflops=30.3, memory_gb=24, memory_gbs=300, link_gbs=32, network_gbs=3.125,
        source=f"NVIDIA L4 Tensor Core GPU Datasheet (242 TFLOPS with sparsity; PCIe 4.0 x16); {_CLOUD}",
    ),
    Gpu(
        name="4090", tflops=165.2, fp32_tflops=82.6, memory_gb=24, memory_gbs=1008, link_gbs=32, network_gbs=3.125,
        source=f"NVIDIA Ada GPU Architecture whitepaper (GeForce RTX 4090; PCIe 4.0 x16); {_CLOUD}",
    ),
)  # fmt: skip
GPUS = {gpu.name: gpu for gpu in _TABLE}
"""By the name that `csm plan --gpu` takes."""


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        InputError: there is none of that name.
    """
    if name not in GPUS:
        raise InputError(
            f"gpu {name!r} is unknown; there are {', '.join(GPUS)}; for another take one of"
            " them and change its figures, such as --memory-gb"
        )
    return GPUS[name]
