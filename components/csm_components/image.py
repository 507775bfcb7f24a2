"""The container images that pipeline components name; a cluster's profile puts its own, by digest, in their place."""

from __future__ import annotations

from importlib.metadata import version

IMAGE = f"ghcr.io/csm-foundry/data:{version('csm-foundry')}"
"""Of every step but train."""
TRAIN_IMAGE = f"ghcr.io/csm-foundry/train:{version('csm-foundry')}"
"""Of the step train."""
