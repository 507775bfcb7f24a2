"""A rendered Deployment, run by `podman kube play`, and the part of a node that podman 4.3 leaves out.

What is changed of the pod, each for a reason:
- `restartPolicy`: podman starts init containers again under Always; a pod that fails is a failed test anyway.
- Probes: podman asks by a curl inside the container, which the image has not, and by systemd. `Played.ready` asks.
- `lifecycle.preStop.sleep` is unknown to podman. `Played.stop` waits as a kubelet does, and gives the rest of the
  grace.
- Ports are published on loopback under free numbers.
- The emptyDir in memory is podman's own /dev/shm, of the same size: podman keeps one on disk, and knows no fsGroup.
- Other volumes get names of their own, because podman keeps an emptyDir as a volume of all pods.
Init containers, commands, environment, secrets, security contexts, volumes, limits and images are the chart's.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ports import free_ports
from waiting import let_pass

CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
shm_size = "{shm}"
[engine]
runtime = "runc"
"""
NETWORK = "slirp4netns:allow_host_loopback=true"
HOST = "10.0.2.2"
"""This machine's loopback, as the pod sees it."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """A pod that podman runs."""

    pod: str
    spec: Mapping[str, Any]
    ports: Mapping[str, int]
    environment: Mapping[str, str]

    def podman(self, *words: str) -> str:
        """Standard output of podman; both outputs in the error."""
        done = subprocess.run(
            ["podman", *words], env=dict(self.environment), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"podman {' '.join(words)}: {done.stderr[-2000:]}\n{done.stdout[-2000:]}"
        return done.stdout

    @property
    def server(self) -> str:
        """Name of the first container."""
        return f"{self.pod}-{self.spec['containers'][0]['name']}"

    def logs(self) -> str:
        """What the server's container said."""
        command = ["podman", "logs", self.server]
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def status(self) -> int:
        """How the server's container ended."""
        return int(self.podman("inspect", "--format", "{{.State.ExitCode}}", self.server))

    def ask(self, probe: str) -> bool:
        """One answer to a probe of the server's container."""
        question = self.spec["containers"][0][probe]
        port = self.ports[question["httpGet"]["port"]]
        try:
            url = f"http://127.0.0.1:{port}{question['httpGet']['path']}"
            with urllib.request.urlopen(url, timeout=question["timeoutSeconds"]) as answer:
                return 200 <= answer.status < 400
        except (OSError, urllib.error.URLError):
            return False

    def ready(self) -> None:
        """Asks the startup probe as often as it says, then readiness and liveness."""
        startup = self.spec["containers"][0]["startupProbe"]
        for _ in range(startup["failureThreshold"]):
            if self.ask("startupProbe"):
                assert self.ask("readinessProbe")
                assert self.ask("livenessProbe")
                return
            assert self.podman("inspect", "--format", "{{.State.Running}}", self.server).strip() == "true", self.logs()
            let_pass(startup["periodSeconds"])
        raise AssertionError(f"the pod did not start in its time: {self.logs()[-3000:]}")

    def stop(self) -> None:
        """The end as a kubelet makes it: preStop, SIGTERM, and SIGKILL when the grace is over."""
        grace = self.spec["terminationGracePeriodSeconds"]
        pause = self.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        let_pass(pause)
        self.podman("pod", "stop", "--time", str(grace - pause), self.pod)


def playable(deployment: Mapping[str, Any], ports: Mapping[str, int]) -> dict[str, Any]:
    """The Deployment as podman is given it."""
    played = copy.deepcopy(dict(deployment))
    spec = played["spec"]["template"]["spec"]
    spec["restartPolicy"] = "OnFailure"
    for container in spec["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe)
        for port in container["ports"]:
            port |= {"hostPort": ports[port["name"]], "hostIP": "127.0.0.1"}
    in_memory = [volume["name"] for volume in spec["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] not in in_memory]
    for container in spec["initContainers"] + spec["containers"]:
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] not in in_memory]
        for mount in container["volumeMounts"]:
            mount["name"] = f"csm-test-{mount['name']}"
    for volume in spec["volumes"]:
        volume["name"] = f"csm-test-{volume['name']}"
    return played


@contextmanager
def play(deployment: Mapping[str, Any], secrets: Mapping[str, Mapping[str, str]], home: Path) -> Iterator[Played]:
    """Runs the Deployment's pod; `secrets` are the cluster's, by name. All is gone in the end."""
    names = [port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    configuration = home / "containers.conf"
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    (memory,) = (volume["emptyDir"] for volume in volumes if volume.get("emptyDir", {}).get("medium") == "Memory")
    configuration.write_text(CONFIGURATION.format(shm=memory["sizeLimit"].replace("Mi", "m").replace("Gi", "g")))
    environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
    file = home / "deployment.yaml"
    file.write_text(yaml.safe_dump(playable(deployment, ports)))
    played = Played(
        pod=f"{deployment['metadata']['name']}-pod-0",
        spec=deployment["spec"]["template"]["spec"],
        ports=ports,
        environment=environment,
    )
    try:
        for name, values in secrets.items():
            data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
            (home / "secret.json").write_text(json.dumps(data))  # podman keeps a secret's data as JSON
            played.podman("secret", "create", name, str(home / "secret.json"))
        played.podman("kube", "play", "--network", NETWORK, str(file))
        yield played
    finally:
        subprocess.run(
            ["podman", "pod", "rm", "--force", played.pod], env=environment, capture_output=True, check=False
        )
        for name in secrets:
            subprocess.run(["podman", "secret", "rm", name], capture_output=True, check=False)
