"""Where a job's things are in the storage: all that the launcher and agents on other machines share.

| key | what | by whom |
| --- | --- | --- |
| `tokens/DIGEST/`, `bases/DIGEST/` | token shards, and the bundle to begin from, by content | the launcher |
| `jobs/JOB/config.json` | the trainer's configuration | the launcher |
| `checkpoints/JOB/step-.../` | copies of the checkpoints | rank 0 |
| `checkpoints/JOB/metrics.jsonl` | the metrics so far, a few seconds old | rank 0 |
| `trained/JOB/` | the float bundle in `final/`, and all metrics; there whole or not at all | rank 0, at its end |
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_components.storage import Storage
from csm_model.files import digest_of, read_json


def job_name(run: str, step: str, inputs: str) -> str:
    """The name of a step's job: the same for every attempt of the step, another for another run.

    26 characters, which leaves 37 of the 63 of a pod's name for what schedulers add.
    """
    return f"csm-{step}-{digest_of({'run': run, 'step': step, 'inputs': inputs})[:16]}"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """The things of one job."""

    storage: Storage
    url: str
    """Address of the storage."""
    job: str

    @property
    def metrics(self) -> str:
        """Key of the metrics so far."""
        return f"checkpoints/{self.job}/metrics.jsonl"

    @property
    def trained(self) -> str:
        """Key of the result."""
        return f"trained/{self.job}"

    @property
    def config(self) -> str:
        """Key of the configuration."""
        return f"jobs/{self.job}/config.json"

    def put_inputs(self, recipe: Mapping[str, Any], *, tokens: Path | str, digest: str, base: Path | None) -> None:
        """Puts everything there that agents need; what is there by its digest is not sent again.

        Args:
            recipe: the trainer's settings.
            tokens: folder of the shards, or where they are stored already.
            digest: of the tokens.
            base: bundle to begin from.
        """
        source = str(tokens)
        if "://" not in source:
            self._put_once(Path(source), f"tokens/{digest}")
            source = self._address(f"tokens/{digest}")
        base_key = ""
        if base is not None:
            base_key = f"bases/{read_json(base / 'manifest.json')['digest']}"
            self._put_once(base, base_key)
        config = {
            **recipe,
            "tokens": source,
            "base": base_key or None,
            "mirror": self._address(f"checkpoints/{self.job}"),
            "disks": "own",
        }
        self.storage.put_json(config, self.config)

    def fetch_config(self) -> dict[str, Any]:
        """The configuration."""
        config: dict[str, Any] = self.storage.get_json(self.config)
        return config

    def fetch_base(self, config: Mapping[str, Any], folder: Path) -> str | None:
        """Fetches the bundle that the configuration names; None where it names none."""
        if not config["base"]:
            return None
        self.storage.get_tree(config["base"], folder)
        return str(folder)

    def fetch_metrics(self, path: Path) -> None:
        """Fetches the metrics so far, where there are any and the file has others."""
        if self.storage.exists(self.metrics):
            self.storage.get_file(self.metrics, path)

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that are there whole, in order."""
        prefix = f"checkpoints/{self.job}/"
        return [key.removeprefix(prefix) for key in self.storage.trees(f"{prefix}step-")]

    def has_result(self) -> bool:
        """Whether the job has left what it learnt."""
        return self.storage.has_tree(self.trained)

    def fetch_result(self, out: Path) -> bool:
        """Puts bundle and metrics into `out`; False where the job has left none."""
        if not self.has_result():
            return False
        self.storage.get_tree(self.trained, out / "trained")
        shutil.rmtree(out / "final", ignore_errors=True)
        (out / "trained" / "metrics.jsonl").replace(out / "metrics.jsonl")
        (out / "trained" / "final").rename(out / "final")
        (out / "trained").rmdir()
        return True

    def _put_once(self, folder: Path, key: str) -> None:
        if not self.storage.has_tree(key):
            self.storage.put_tree(folder, key)

    def _address(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}"
