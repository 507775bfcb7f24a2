"""Conversion and verification of a checkpoint take no more memory for a larger model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from csm_model.checkpoints.names import entries_of, halves_to_pairs, pairs_to_halves
from csm_model.checkpoints.sizes import to_sesame
from csm_model.checkpoints.stored import read_tensors
from csm_model.config import CONFIGS
from csm_model.files import write_json
from csm_model.tensor_files import BLOCK_BYTES

MEMORY = """
import sys
from pathlib import Path
from csm_model.checkpoints import convert, verify
folder, shard = Path(sys.argv[1]), int(sys.argv[2])
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
def run(source, to, shard):
    convert(folder / source, folder / f"{source}-{to}", to=to, shard_bytes=shard)
    verify(folder / source, folder / f"{source}-{to}")
run("warm.pt", "hf", None)
for source, to, cut in (("large", "hf", shard), ("large.pt", "csm", None)):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    run(source, to, cut)
    print(status("VmHWM") - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """210 MB are converted and verified in the largest shard and a margin of 64 MiB; without shards, in the margin."""
    config, shard_bytes, margin = CONFIGS["csm-30m"](text_vocab_size=85_000), 30_000_000, 64 * 2**20
    state = {entry.name: torch.ones(entry.shape) for entry in entries_of("sesame", config)}
    nbytes = sum(tensor.nbytes for tensor in state.values())
    assert nbytes > 2 * (shard_bytes + margin)
    few = CONFIGS["csm-30m"](text_vocab_size=50, num_codebooks=3, codebook_size=16)
    small = {entry.name: torch.ones(entry.shape) for entry in entries_of("sesame", few)}
    for name, sizes, tensors in (
        ("large", config, state),
        ("large.pt", config, state),
        ("warm.pt", few, small),
    ):
        write_json(tmp_path / name / "config.json", to_sesame(sizes))
        if name.endswith(".pt"):
            torch.save({"model": tensors}, tmp_path / name / "ckpt.pt")
        else:
            save_file(tensors, tmp_path / name / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(shard_bytes)],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with_shards, without = map(int, done.stdout.split())
    assert with_shards < shard_bytes + margin
    assert without < margin


def test_a_tensor_is_read_in_blocks_of_whole_heads(tmp_path: Path) -> None:
    """One matrix of three blocks: the pieces of the permuted form are the whole's."""
    rows, head = 640, 128
    matrix = torch.randn(rows, 3 * BLOCK_BYTES // 4 // rows)
    save_file({"w": matrix}, tmp_path / "w.safetensors")
    blocks = list(read_tensors([tmp_path / "w.safetensors"])["w"].blocks(head))
    assert len(blocks) > 2
    assert all(len(block) % head == 0 for block in blocks)
    assert torch.equal(torch.cat([pairs_to_halves(block, head) for block in blocks]), pairs_to_halves(matrix, head))
    assert torch.equal(halves_to_pairs(pairs_to_halves(matrix, head), head), matrix)
