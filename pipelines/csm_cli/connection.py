"""Kubeflow Pipelines for a command that may name a profile, or leave all to the environment."""

from __future__ import annotations

from csm_pipelines.kfp_client import KfpClient
from csm_pipelines.profile import ClusterProfile, load_profile
from csm_pipelines.settings import load_settings

_ANY = "example/image@sha256:" + "0" * 64
"""Images play no part in asking for runs, and a profile may leave them to the one who submits."""


def connect(profile: str | None) -> KfpClient:
    """The API that a profile, the environment, or both name."""
    return KfpClient(load_settings(_read(profile).kfp if profile else None))


def namespace_of(profile: str | None) -> str:
    """Namespace of the pods of runs."""
    if profile:
        return _read(profile).namespace
    return load_settings().namespace or "kubeflow"


def _read(profile: str) -> ClusterProfile:
    return load_profile(profile, {"data": _ANY, "train": _ANY})
