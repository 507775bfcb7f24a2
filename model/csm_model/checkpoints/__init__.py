"""Weights as other programs write them: Sesame's layout, Hugging Face's, and this program's own."""

from csm_model.checkpoints.convert import Converted, convert
from csm_model.checkpoints.inspection import Description, describe
from csm_model.checkpoints.loading import load_model, read_sizes
from csm_model.checkpoints.names import LAYOUTS, Layout
from csm_model.checkpoints.sizes import Rope
from csm_model.checkpoints.source import Checkpoint, open_checkpoint
from csm_model.checkpoints.verify import Verification, verify, weights_digest

__all__ = [
    "LAYOUTS",
    "Checkpoint",
    "Converted",
    "Description",
    "Layout",
    "Rope",
    "Verification",
    "convert",
    "describe",
    "load_model",
    "open_checkpoint",
    "read_sizes",
    "verify",
    "weights_digest",
]
