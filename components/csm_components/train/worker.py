"""One training process with a storage for its tokens and for copies of its checkpoints; what torchx starts.

    python -m csm_components.train.worker --config CONFIG.json     the trainer's configuration lies on this machine
    python -m csm_components.train.worker --job NAME               everything lies in CSM_STORAGE, as `remote.py` says

Rank 0 of a job that was asked to stop ends with 75 (EX_TEMPFAIL), so that nobody takes the job for done.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csm_components.lifeline import sole_user
from csm_components.settings import load_settings
from csm_components.storage import Storage, open_storage
from csm_components.tracking import machine_metrics
from csm_components.train.progress import METRICS
from csm_components.train.remote import Remote
from csm_model.errors import CsmError
from csm_model.files import write_json
from csm_model.training.main import main

_COPY_EVERY_SECONDS = 2.0
_FETCH_SECONDS = 3600.0


def work_on(job: str) -> int:
    """Trains as the storage says of a job, and puts there what rank 0 learnt."""
    storage = open_storage()
    remote = Remote(storage=storage, url=load_settings().storage, job=job)
    leads = load_settings().rank == 0
    here = Path(tempfile.gettempdir()) / job
    out = here / "out"
    with sole_user(here, wait_seconds=_FETCH_SECONDS):  # the first process of a machine fetches for all of it
        config = remote.fetch_config()
        base = remote.fetch_base(config, here / "base")
        write_json(here / "config.json", config | {"out": str(out), "cache_dir": str(here / "cache"), "base": base})
    arguments = ["--config", str(here / "config.json")]
    if not leads:
        return main(arguments, open_storage=open_storage, raising=True)
    metrics = out / METRICS
    remote.fetch_metrics(metrics)
    with machine_metrics(), _copied(metrics, storage, remote.metrics):
        code = main(arguments, open_storage=open_storage, raising=True)
    if code == 0 and not (out / "final" / "manifest.json").exists():
        return os.EX_TEMPFAIL
    if code == 0:
        remote.put_result(out / "final", metrics)
    return code


@contextmanager
def _copied(path: Path, storage: Storage, key: str) -> Iterator[None]:
    """Keeps a copy of a file that grows in the storage, a few seconds old; at the end it is the file as it is."""
    ended = threading.Event()
    seen: list[tuple[int, int]] = []

    def look() -> None:
        if not path.exists():
            return
        stat = path.stat()
        now = (stat.st_mtime_ns, stat.st_size)
        if now in seen[-1:]:
            return
        try:
            storage.put_file(path, key)
        except (CsmError, OSError) as error:  # the training is worth more than what is seen of it
            sys.stderr.write(f"warning: {key} could not be copied ({error})\n")
        else:
            seen.append(now)

    def run() -> None:
        while not ended.wait(_COPY_EVERY_SECONDS):
            look()

    thread = threading.Thread(target=run, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        sys.exit(work_on(sys.argv[2]))
    sys.exit(main(open_storage=open_storage, raising=True))
