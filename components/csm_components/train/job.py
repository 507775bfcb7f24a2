"""A training as a job of a cluster: begun once however often its launcher is, followed, taken over, stopped.

The job's name is the same for every attempt of a step (`remote.job_name`), so an attempt finds what another one began:

| the job | what is done |
| --- | --- |
| is not there | it is made |
| waits or runs | it is followed from where it is |
| has ended well | it is taken as it is |
| has failed, or was stopped | it is removed and made again; it goes on from the checkpoints of its name |

The job belongs to no pod: a launcher that is killed leaves it running for the next. One that is asked to stop
(SIGTERM) stops the job too, whose workers save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from csm_components.cluster import Cluster, ClusterError
from csm_components.targets import TrainTarget
from csm_components.train.app import LaunchSpec
from csm_components.train.failures import LaunchError, cause, forget, left
from csm_components.train.follow import Follower
from csm_components.train.pod import LABEL
from csm_components.train.signals import kept_handlers, stop_on_signals
from csm_components.train.torchx_jobs import Scheduled, State
from csm_model.errors import CsmError, MissingDependencyError

_GONE_SECONDS = 120.0
_AWAY_SECONDS = 600.0
"""How long the API may be away."""
_STARTING = ("ContainerCreating", "PodInitializing")


@dataclass(kw_only=True)
class ClusterJob:
    """One training on a cluster.

    Args:
        spec: what to start; its name is the job's.
        target: where.
        has_result: whether what the job shall leave is there.
        errors: where its processes leave what they die of.
        say: called with lines of progress.
    """

    spec: LaunchSpec
    target: TrainTarget
    has_result: Callable[[], bool]
    errors: str = ""
    say: Callable[[str], None] = print
    _waiting: dict[str, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.target.namespace)
        self.scheduled = Scheduled(self.cluster, self.spec, self.target)

    def run(
        self,
        *,
        on_line: Callable[[str], None],
        on_tick: Callable[[], None],
        poll_seconds: float = 1.0,
    ) -> None:
        """Has the job run to its end; returns when it has ended well.

        Args:
            on_line: called with each line that rank 0 prints.
            on_tick: called at each look.
            poll_seconds: between looks.

        Raises:
            CsmError: of the trainer's own type where it raised one; `LaunchError` for anything else that ended it, or
                kept it from starting.
        """
        with kept_handlers():
            stop_on_signals()
            try:
                for again in range(1, self.scheduled.attempts + 1):
                    failed = self._attempt(on_line=on_line, on_tick=on_tick, poll_seconds=poll_seconds)
                    if failed is None:
                        return
                    if not isinstance(failed, LaunchError) or again == self.scheduled.attempts:
                        raise failed
                    self.say(f"{failed}; starting {self.spec.name} again")
            except (KeyboardInterrupt, SystemExit):
                self.say(f"stopping {self.spec.name}: its workers save")
                self._stop()
                raise

    def _attempt(
        self, *, on_line: Callable[[str], None], on_tick: Callable[[], None], poll_seconds: float
    ) -> CsmError | None:
        """Follows the job to its end; returns what it died of, None where it ended well."""
        if self._begin() == State.SUCCEEDED:
            return None
        follower = Follower(self.cluster, self.spec.log_dir)
        away_since: float | None = None
        try:
            while True:
                try:
                    state = self.scheduled.state()
                    pods = self.cluster.pods({LABEL: self.spec.name})
                    self._check_start(pods)
                    away_since = None
                except MissingDependencyError:
                    away_since = away_since or time.monotonic()
                    if time.monotonic() - away_since > _AWAY_SECONDS:
                        raise
                    time.sleep(poll_seconds)
                    continue
                follower.look(pods)
                if state != State.RUNNING:
                    follower.finish()
                for line in follower.new_lines():
                    on_line(line)
                on_tick()
                if state == State.SUCCEEDED and self.has_result():
                    return None
                if state == State.SUCCEEDED:
                    return self._error(
                        f"{self.spec.name} ended without a result; see what it printed in {follower.folder}"
                    )
                if state == State.FAILED:
                    return self._why(follower)
                if state != State.RUNNING:
                    raise self._error(
                        f"{self.spec.name} was {state.value} by somebody else; run the step again to go on"
                    )
                time.sleep(poll_seconds)
        finally:
            follower.close()

    def _begin(self) -> State:
        """Makes the job, or finds the one that an earlier attempt made; returns its state."""
        while True:
            state = self.scheduled.state()
            if state == State.SUCCEEDED and not self.has_result():
                state = State.FAILED
            if state in (State.RUNNING, State.SUCCEEDED):
                self.say(f"{self.spec.name} is there already: {state.value}")
                return state
            if state in (State.FAILED, State.STOPPED):
                self.say(f"{self.spec.name} had {state.value}; it begins again from its last checkpoint")
                self._remove()
            if self.errors:
                forget(self.errors)
            try:
                self.scheduled.create()
            except ClusterError as error:
                if error.code == 409:  # another attempt was faster
                    continue
                raise self._error(f"{self.spec.name} was refused: {error}") from None
            self.say(f"{self.spec.name} was made: {self.scheduled.where()}")
            return State.RUNNING

    def _remove(self) -> None:
        """Removes the job, and waits until it and its pods are gone."""
        self.scheduled.delete()
        until = time.monotonic() + self.target.grace_s + _GONE_SECONDS
        while self.scheduled.state() != State.GONE or self.cluster.pods({LABEL: self.spec.name}):
            if time.monotonic() > until:
                raise LaunchError(
                    f"{self.spec.name} does not go away; look with kubectl what holds it",
                    tail=[],
                    logs=self.spec.log_dir,
                )
            time.sleep(0.5)

    def _stop(self) -> None:
        """Stops the job, and waits while its workers save."""
        self.scheduled.cancel()
        until = time.monotonic() + self.target.grace_s
        while time.monotonic() < until:
            phases = [pod["status"].get("phase") for pod in self.cluster.pods({LABEL: self.spec.name})]
            if not {"Pending", "Running"} & set(phases):
                return
            time.sleep(0.5)

    def _check_start(self, pods: list[dict[str, Any]]) -> None:
        """Says what pods wait for; raises `LaunchError`, and stops the job, where one waits for too long."""
        now = time.monotonic()
        reasons = {str(pod["metadata"]["name"]): reason for pod in pods if (reason := waits_for(pod))}
        if not pods:
            reasons[self.spec.name] = self.cluster.warning(self.spec.name) or "it has no pods yet"
        for name in set(self._waiting) - set(reasons):
            del self._waiting[name]
        for name, reason in reasons.items():
            known, since = self._waiting.get(name, ("", now))
            if reason != known and pods:
                self.say(f"{name} waits: {reason}")
            self._waiting[name] = (reason, since)
            if now - since > self.target.start_timeout_s:
                self.scheduled.cancel()
                raise self._error(f"{name} has waited for {now - since:.0f} s: {reason}")

    def _error(self, message: str) -> LaunchError:
        return LaunchError(message, tail=[], logs=self.spec.log_dir)

    def _why(self, follower: Follower) -> CsmError:
        _, agents = follower.last_lines()
        said = self.scheduled.message() or next(reversed(agents), "")
        return cause(left(self.errors) if self.errors else [], follower.folder, said)


def waits_for(pod: Mapping[str, Any]) -> str:
    """Why a pod does not start; empty for one that has started, or is about to."""
    status = pod.get("status", {})
    if status.get("phase") not in (None, "Pending"):
        return ""
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in _STARTING:
            return f"{waiting.get('reason')}: {waiting.get('message', 'no message')}"
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', 'no message')}"
    return ""
