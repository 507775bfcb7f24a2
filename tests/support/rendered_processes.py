"""Runs containers of rendered objects as processes of this machine: their own command, environment, secrets and files.

What differs from a pod is named by the caller: `places` says what stands for a path or an address of the cluster. There
is no image: programs are those of this environment.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from waiting import HANG_S, eventually

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
Thing = dict[str, Any]


class Machine:
    """One folder that stands for a cluster's secrets, configurations and volumes, and the processes started in it."""

    def __init__(self, home: Path, *, secrets: Mapping[str, Mapping[str, str]], places: Mapping[str, str]) -> None:
        self.home = home
        self.secrets = secrets
        self.places = dict(places)
        self._servers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def place(self, text: str) -> str:
        """A text in which everything that has its place here has been exchanged; the longest first, in one go."""
        wanted = [
            rf"(?<![\w/.-]){re.escape(there)}(?![\w.-])" if there.startswith("/") else re.escape(there)
            for there in sorted(self.places, key=len, reverse=True)
        ]
        return re.sub("|".join(wanted), lambda found: self.places[found[0]], text) if wanted else text

    def mount(self, workload: Thing, container: Thing, objects: Sequence[Thing]) -> None:
        """Lays what the container mounts into folders of its workload here, which its paths then stand for."""
        pod = workload["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        for mounted in container.get("volumeMounts", ()):
            volume = volumes.get(mounted["name"], {})
            folder = self.home / workload["metadata"]["name"] / mounted["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self._files_of(volume, objects).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(self.place(text), encoding="utf-8")
            self.places[mounted["mountPath"]] = str(folder)

    def _files_of(self, volume: Thing, objects: Sequence[Thing]) -> Mapping[str, str]:
        if "secret" in volume:
            return self.secrets[volume["secret"]["secretName"]]
        if "projected" in volume:
            secrets = [source["secret"] for source in volume["projected"]["sources"]]
            return {
                item["path"]: self.secrets[secret["name"]][item["key"]]
                for secret in secrets
                for item in secret["items"]
            }
        if "configMap" in volume:
            name = volume["configMap"]["name"]
            maps = {thing["metadata"]["name"]: thing["data"] for thing in objects if thing["kind"] == "ConfigMap"}
            data: Mapping[str, str] = maps[name]
            return data
        return {}

    def environment(self, container: Thing) -> dict[str, str]:
        """The container's environment and nothing of this one's but the way to its programs."""
        env = {"PATH": PATH, **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}}
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {}).get("secretKeyRef")
            text = variable["value"] if source is None else self.secrets[source["name"]][source["key"]]
            env[variable["name"]] = self.place(text)
        return env

    def command(self, container: Thing, *more: str) -> list[str]:
        """The container's command line, and what is added to it here."""
        words = [self.place(word) for word in (*container["command"], *container.get("args", ()), *more)]
        found = shutil.which(words[0], path=PATH)
        assert found is not None, f"{words[0]}: no such program in this environment"
        return [found, *words[1:]]

    def run(self, container: Thing, *more: str) -> str:
        """Runs a container that ends; gives what it printed. An AssertionError says what it printed if it failed."""
        (done,) = self.run_together(container, *more, times=1)
        return done

    def run_together(self, container: Thing, *more: str, times: int) -> list[str]:
        """Runs a container several times at once."""
        command, env = self.command(container, *more), self.environment(container)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running = [subprocess.Popen(command, env=env, cwd=self.home, **pipes) for _ in range(times)]
        printed = [process.communicate(timeout=HANG_S)[0] for process in running]
        failed = [text for process, text in zip(running, printed, strict=True) if process.returncode != 0]
        assert failed == [], f"{' '.join(command)}:\n{failed[0][-3000:]}"
        return printed

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Starts a server; `stop` ends it."""
        log = self.home / f"{name}.log"
        with log.open("wb") as out:
            pipes: dict[str, Any] = {"stdout": out, "stderr": subprocess.STDOUT}
            server = subprocess.Popen(command, env=dict(env), cwd=cwd or self.home, start_new_session=True, **pipes)
        self._servers.append((server, log))

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Waits until something answers; fails with the servers' last words."""

        def up() -> bool:
            if ready():
                return True
            dead = [log for server, log in self._servers if server.poll() is not None]
            assert not dead, f"{dead[0].name} ended:\n{dead[0].read_text(errors='replace')[-3000:]}"
            return False

        try:
            eventually(up, what, every_s=0.2)
        except AssertionError as error:
            words = "\n".join(log.read_text(errors="replace")[-2000:] for _, log in self._servers)
            raise AssertionError(f"{what} did not come up: {error}\n{words}") from None

    def stop(self) -> None:
        """Ends every server at once; nothing of them is kept."""
        for server, _ in self._servers:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def container_of(things: Sequence[Thing], kind: str, name: str, container: str) -> tuple[Thing, Thing]:
    """A workload by the beginning of its name, and its container."""
    for thing in things:
        if thing["kind"] == kind and thing["metadata"]["name"].startswith(name):
            pod = thing["spec"]["template"]["spec"]
            for found in (*pod.get("initContainers", ()), *pod["containers"]):
                if found["name"] == container:
                    return thing, found
    raise AssertionError(f"no container {container} of a {kind} {name}")
