"""The container image that every pipeline component runs in: the package with all its extras."""

from __future__ import annotations

from importlib.metadata import version

IMAGE = f"ghcr.io/csm-foundry/csm-foundry:{version('csm-foundry')}"
