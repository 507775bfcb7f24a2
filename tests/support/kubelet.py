"""A node of `kube_api.KubeApi`: runs the first container of each pod as a process of this machine.

A pod gets its command and arguments with `$(NAME)` filled in, its environment (values, fields of the pod, secrets), a
temporary folder of its own as TMPDIR and HOME, and nothing else of the process that runs the tests but PATH and what
`Kubelet(env=...)` says that every image has. Its phase follows its process; when it is deleted, the process gets
SIGTERM, and SIGKILL after its grace period. Its log has the time of each line.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from kube_api import KubeApi, RefusedError, Thing, now


class Kubelet:
    """Runs the pods of a cluster on this machine.

    Args:
        api: the cluster.
        home: folder for the pods' temporary folders.
        env: environment that each image has.
    """

    def __init__(self, api: KubeApi, home: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.api, self.home, self.env = api, home, dict(env or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lines: dict[tuple[str, str], list[tuple[datetime, bytes]]] = {}
        self._pumps: dict[str, threading.Thread] = {}
        self._deadlines: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="kubelet")
        api.logs = self

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pump in self._pumps.values():
            pump.join(timeout=5)

    def pid(self, name: str, namespace: str = "default") -> int:
        """Process id of a pod's container."""
        return self._processes[self.api.get("", "pods", namespace, name)["metadata"]["uid"]].pid

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            for pod in self.api.find("", "pods"):
                with suppress(RefusedError):  # it has just been removed
                    self._look_after(pod)

    def _look_after(self, pod: Thing) -> None:
        meta, phase = pod["metadata"], pod.get("status", {}).get("phase", "Pending")
        process = self._processes.get(meta["uid"])
        if phase == "Pending" and process is None and not pod.get("status", {}).get("held"):
            self._start(pod)
        elif process is not None and phase == "Running":
            if "deletionTimestamp" in meta:
                self._end(meta, process)
            if (code := process.poll()) is not None:
                self._pumps[meta["uid"]].join(timeout=5)
                self._finish(pod, code)

    def _start(self, pod: Thing) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        (container, *_) = spec["containers"]
        try:
            env = self._environment(pod, container)
        except RefusedError as refused:
            self._waiting(pod, "CreateContainerConfigError", str(refused))
            return
        home = self.home / meta["uid"]
        home.mkdir(parents=True)
        env |= {"TMPDIR": str(home), "HOME": str(home), "HOSTNAME": meta["name"]}
        command = [_filled(word, env) for word in [*container.get("command", []), *container.get("args", [])]]
        try:
            process = subprocess.Popen(
                command, env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._waiting(pod, "RunContainerError", str(error))
            return
        self._processes[meta["uid"]] = process
        lines = self._lines[meta["namespace"], meta["name"]] = []
        pump = threading.Thread(target=_pump, args=(process, lines), daemon=True, name=f"log of {meta['name']}")
        self._pumps[meta["uid"]] = pump
        pump.start()
        state = {"running": {"startedAt": now()}}
        self._status(pod, "Running", [_container_status(container, state, ready=True)], podIP="127.0.0.1")

    def _environment(self, pod: Thing, container: Thing) -> dict[str, str]:
        """PATH, what the image has, what the container names; raises `RefusedError` where a secret is missing."""
        env = {"PATH": os.environ["PATH"], **self.env}
        for source in container.get("envFrom", []):
            reference = source["secretRef"]
            try:
                secret = self.api.get("", "secrets", pod["metadata"]["namespace"], reference["name"])
            except RefusedError:
                if not reference.get("optional"):
                    raise
                continue
            env |= {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
        for row in container.get("env", []):
            if "valueFrom" in row:
                try:
                    env[row["name"]] = self._value_from(pod, row["valueFrom"])
                except RefusedError:
                    if not row["valueFrom"].get("secretKeyRef", {}).get("optional"):
                        raise
            else:
                env[row["name"]] = _filled(row.get("value") or "", env)
        return env

    def _value_from(self, pod: Thing, source: Thing) -> str:
        if "secretKeyRef" in source:
            name, key = source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
            secret = self.api.get("", "secrets", pod["metadata"]["namespace"], name)
            if key not in secret.get("data", {}):
                raise RefusedError(404, f"couldn't find key {key} in Secret {pod['metadata']['namespace']}/{name}")
            return base64.b64decode(secret["data"][key]).decode()
        path = source["fieldRef"]["fieldPath"]
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
        value: Any = pod
        for part in path.split("."):
            value = value.get(part, {})
        return str(value or "")

    def _end(self, meta: Thing, process: subprocess.Popen[bytes]) -> None:
        """Asks a process to end, once; kills it after its grace period."""
        if meta["uid"] not in self._deadlines:
            self._deadlines[meta["uid"]] = time.monotonic() + meta["deletionGracePeriodSeconds"]
            with suppress(ProcessLookupError):
                process.terminate()
        elif time.monotonic() > self._deadlines[meta["uid"]]:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _finish(self, pod: Thing, code: int) -> None:
        meta, (container, *_) = pod["metadata"], pod["spec"]["containers"]
        with suppress(ProcessLookupError):  # a container ends with its first process
            os.killpg(self._processes[meta["uid"]].pid, signal.SIGKILL)
        shutil.rmtree(self.home / meta["uid"], ignore_errors=True)
        exit_code = code if code >= 0 else 128 - code
        state = {"terminated": {"exitCode": exit_code, "reason": "Error" if code else "Completed", "finishedAt": now()}}
        self._status(pod, "Failed" if code else "Succeeded", [_container_status(container, state, ready=False)])
        if "deletionTimestamp" in meta:
            self.api.delete("", "pods", meta["namespace"], meta["name"], grace=0)

    def _waiting(self, pod: Thing, reason: str, message: str) -> None:
        state = {"waiting": {"reason": reason, "message": message}}
        if pod.get("status", {}).get("containerStatuses", [{}])[0].get("state") != state:
            self._status(pod, "Pending", [_container_status(pod["spec"]["containers"][0], state, ready=False)])

    def _status(self, pod: Thing, phase: str, containers: list[Thing], **more: str) -> None:
        meta = pod["metadata"]
        status = {"phase": phase, "containerStatuses": containers, "hostIP": "127.0.0.1", **more}
        with suppress(RefusedError):
            self.api.patch("", "pods", meta["namespace"], meta["name"], {"status": status}, status=True)

    def log(self, namespace: str, name: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """A pod's log as the API gives it: whole, or followed until the container ends."""
        if (namespace, name) not in self._lines:
            raise RefusedError(400, f'container in pod "{name}" is waiting to start: ContainerCreating')
        return self._log(namespace, name, query)

    def _log(self, namespace: str, name: str, query: Mapping[str, str]) -> Iterator[bytes]:
        lines, sent = self._lines[namespace, name], 0
        since = datetime.fromisoformat(query["sinceTime"]) if "sinceTime" in query else None
        if "tailLines" in query:
            sent = max(0, len(lines) - int(query["tailLines"]))
        while True:
            ended = self._ended(namespace, name)
            for moment, line in lines[sent:]:
                sent += 1
                if since is None or moment.replace(microsecond=0) >= since.replace(microsecond=0):
                    stamp = moment.isoformat().replace("+00:00", "Z").encode() + b" "
                    yield (stamp if _says(query, "timestamps") else b"") + line
            if not _says(query, "follow") or (ended and sent == len(lines)) or self._stopped.is_set():
                return
            self._stopped.wait(0.05)

    def _ended(self, namespace: str, name: str) -> bool:
        try:
            return self.api.get("", "pods", namespace, name).get("status", {}).get("phase") in ("Succeeded", "Failed")
        except RefusedError:
            return True


def _says(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "t", "true")


def _pump(process: subprocess.Popen[bytes], lines: list[tuple[datetime, bytes]]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.append((datetime.now(UTC), line))  # noqa: PERF401 - others read it as it grows


def _filled(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where the variable is there, `$$(NAME)` left as `$(NAME)`."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_][\w.-]*)\)",
        lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]),
        text,
    )


def _container_status(container: Thing, state: Thing, *, ready: bool) -> Thing:
    image = container.get("image", "")
    return {
        "name": container["name"],
        "image": image,
        "imageID": image,
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }
