"""What an agent's pod says whoever schedules it: Pod Security "restricted", scratch folders, labels, stop time.

The root file system is read-only; what can be written are /tmp, where a job keeps its copy of tokens and checkpoints,
and /dev/shm. Agents need no rights, so no token of their service account is mounted where a backend lets us say so.
"""

from __future__ import annotations

from typing import Any

from csm_components.settings import Settings
from csm_components.targets import TrainTarget
from csm_model.errors import InputError

LABEL = "csm.foundry/training"
"""Label of a job and its pods; the value is the job's name."""
S3_KEYS = ("CSM_S3_ACCESS_KEY", "CSM_S3_SECRET_KEY")
TRACKING_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Keys of secrets that an agent reads, for a backend that cannot take the whole of a secret."""


def check_target(target: TrainTarget, settings: Settings) -> None:
    """Raises `InputError` for what no job could be made of: no image, one by its tag, no storage that pods reach."""
    if not target.image:
        raise InputError(f"train target {target.backend!r} has no image: set CSM_TRAIN_TARGET's image, by digest")
    if "@sha256:" not in target.image:
        raise InputError(f"image {target.image!r} of the train target may change: name it by digest, NAME@sha256:...")
    if not settings.storage.startswith("s3://"):
        raise InputError(
            f"CSM_STORAGE={settings.storage!r}: agents on other machines see only S3; set s3://bucket/prefix"
        )


def labels(job: str) -> dict[str, str]:
    """Labels of a job and of its pods."""
    return {LABEL: job, "app.kubernetes.io/part-of": "csm-foundry", "app.kubernetes.io/component": "training"}


def pod_fields(target: TrainTarget) -> dict[str, Any]:
    """Fields of a pod's spec that both backends may set."""
    optional = {
        "imagePullSecrets": [{"name": name} for name in target.image_pull_secrets],
        "nodeSelector": target.node_selector,
        "tolerations": target.tolerations,
    }
    return {name: value for name, value in optional.items() if value} | {
        "serviceAccountName": target.service_account,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": target.user,
            "runAsGroup": target.user,
            "fsGroup": target.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": target.grace_s,
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{target.shared_memory_mb}Mi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def container_fields() -> dict[str, Any]:
    """Fields of a container that both backends may set."""
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
