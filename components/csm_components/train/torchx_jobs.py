"""Jobs of a cluster through torchx's schedulers: made from one `AppDef`, described, stopped, removed."""

from __future__ import annotations

from enum import Enum

from torchx.schedulers.api import Scheduler
from torchx.specs import AppState

from csm_components.cluster import TRAIN_JOB, VOLCANO_JOB, Cluster, plain_errors
from csm_components.targets import TrainTarget
from csm_components.train.app import LaunchSpec, build_app
from csm_components.train.torchx_trainjob import TrainJobScheduler
from csm_components.train.torchx_volcano import VolcanoScheduler


class State(Enum):
    """What a job does; the value is how a line says it."""

    GONE = "removed"
    RUNNING = "running"
    SUCCEEDED = "ended well"
    FAILED = "failed"
    STOPPED = "stopped"


_NO_MESSAGE = "<NONE>"  # torchx's own
_STATES = {
    AppState.SUCCEEDED: State.SUCCEEDED,
    AppState.FAILED: State.FAILED,
    AppState.CANCELLED: State.STOPPED,
}


class Scheduled:
    """The one job of a training.

    Args:
        cluster: where.
        spec: what; its name is the job's.
        target: how.
    """

    def __init__(self, cluster: Cluster, spec: LaunchSpec, target: TrainTarget) -> None:
        self._cluster, self._target, self._spec = cluster, target, spec
        self._id = f"{target.namespace}:{spec.name}"
        volcano = target.backend == "volcano"
        self._kind = VOLCANO_JOB if volcano else TRAIN_JOB
        self._scheduler: Scheduler = (VolcanoScheduler if volcano else TrainJobScheduler)(cluster, target)
        self.attempts = 1 if volcano else target.max_retries + 1
        """How often the launcher starts a job that fails; Volcano does that itself."""

    def state(self) -> State:
        """What the job does now."""
        with plain_errors(self._spec.name, self._target.namespace):
            found = self._scheduler.describe(self._id)
        return State.GONE if found is None else _STATES.get(found.state, State.RUNNING)

    def message(self) -> str:
        """What the scheduler says of the job's end."""
        with plain_errors(self._spec.name, self._target.namespace):
            found = self._scheduler.describe(self._id)
        return found.msg if found is not None and found.msg != _NO_MESSAGE else ""

    def create(self) -> None:
        """Makes the job; raises `ClusterError`, 409 where it is there."""
        app = build_app(self._spec, rendezvous_port=self._target.rendezvous_port, target=self._target)
        self._scheduler.schedule(self._scheduler.submit_dryrun(app, self._scheduler.options()))

    def cancel(self) -> None:
        """Stops the job; it stays, so that it can be looked at."""
        with plain_errors(self._spec.name, self._target.namespace):
            self._scheduler.cancel(self._id)

    def delete(self) -> None:
        """Removes the job and its pods."""
        self._cluster.delete(self._kind, self._spec.name)

    def where(self) -> str:
        """The command that shows the job."""
        return f"kubectl get {self._kind.plural}.{self._kind.group} {self._spec.name} -n {self._target.namespace}"
