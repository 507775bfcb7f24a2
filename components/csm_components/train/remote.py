"""Where a job's things are in the storage: all that the launcher and agents on other machines share.

| key | what | by whom |
| --- | --- | --- |
| `tokens/DIGEST/`, `bases/DIGEST/` | token shards, replayed ones too, and the bundle to begin from | the launcher |
| `jobs/JOB/config.json` | the trainer's configuration | the launcher |
| `jobs/JOB/errors/` | what its processes died of | each of them |
| `checkpoints/JOB/step-.../` | copies of the checkpoints | rank 0 |
| `checkpoints/JOB/metrics.jsonl` | the metrics so far, a few seconds old | rank 0 |
| `trained/DIGEST/` | the float bundle, with a copy of the metrics; there whole or not at all | rank 0, at its end |
| `ledger/train-job/JOB.json` | that it is there, and which | rank 0, last |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_components.artefacts import Artefact
from csm_components.kinds import TRAINED
from csm_components.made import Record, enter, entered
from csm_components.storage import Storage
from csm_components.train.progress import METRICS
from csm_model.files import copy_file, digest_of, read_json

_STEP = "train-job"
"""What a job's result is entered as in the ledger."""


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

    def trained(self, digest: str) -> str:
        """Key of a float bundle."""
        return f"{TRAINED.name}/{digest}"

    @property
    def errors(self) -> str:
        """Address of what its processes died of."""
        return self.address(f"jobs/{self.job}/errors")

    @property
    def config(self) -> str:
        """Key of the configuration."""
        return f"jobs/{self.job}/config.json"

    def put_inputs(
        self, recipe: Mapping[str, Any], *, tokens: Path | str, base: Path | str | None, replay: Path | str | None
    ) -> None:
        """Puts everything there that agents need; what is there by its digest is not sent again.

        Args:
            recipe: the trainer's settings.
            tokens: folder of the shards, or where they are stored already.
            base: bundle to begin from, or where it is stored already.
            replay: folder of the shards that are replayed, or where they are stored already.
        """
        config = {
            **recipe,
            "tokens": self._stored("tokens", tokens),
            "base": self._stored("bases", base) if base else None,
            "replay": self._stored("tokens", replay) if replay else None,
            "mirror": self.address(f"checkpoints/{self.job}"),
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
        Artefact(url=config["base"]).fetch(folder)
        return str(folder)

    def fetch_metrics(self, path: Path) -> None:
        """Fetches the metrics so far, where there are any and the file has others."""
        if self.storage.exists(self.metrics):
            self.storage.get_file(self.metrics, path)

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that are there whole, in order."""
        prefix = f"checkpoints/{self.job}/"
        return [key.removeprefix(prefix) for key in self.storage.trees(f"{prefix}step-")]

    def result(self) -> str | None:
        """Digest of the bundle that the job has left; None where it has left none."""
        record = entered(self.storage, _STEP, self.job)
        if record is None or not self.storage.has_tree(self.trained(record.result["digest"])):
            return None
        return str(record.result["digest"])

    def put_result(self, bundle: Path, metrics: Path) -> None:
        """Puts what was learnt there, and last that it is there."""
        digest = str(read_json(bundle / "manifest.json")["digest"])
        copy_file(metrics, bundle / METRICS)
        self._put_once(bundle, self.trained(digest))
        enter(self.storage, Record(step=_STEP, key=self.job, result={"digest": digest}))

    def _stored(self, kind: str, place: Path | str) -> str:
        """The address of tokens or of a bundle, which are put there by their digest where they are not stored."""
        if "://" in str(place):
            return str(place)
        key = f"{kind}/{read_json(Path(place) / 'manifest.json')['digest']}"
        self._put_once(Path(place), key)
        return self.address(key)

    def _put_once(self, folder: Path, key: str) -> None:
        if not self.storage.has_tree(key):
            self.storage.put_tree(folder, key)

    def address(self, key: str) -> str:
        """The address of a key."""
        return f"{self.url.rstrip('/')}/{key}"
