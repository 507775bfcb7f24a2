"""Trained bundles, found in the storage by what they were made from: a night without new data trains nothing.

Where Kubeflow has a cache key for the step, that decides, and nothing is looked for here.

| key | what | by whom |
| --- | --- | --- |
| `ledger/trained/KEY.json` | what a training made of these inputs, with its digest | train, at its end |
| `trained/DIGEST/` | the bundle | the step keep |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from csm_components.settings import load_settings
from csm_components.steps import ledger_key
from csm_components.storage import Storage, open_storage
from csm_components.trees.step import KEPT
from csm_model.files import digest_of


@dataclass(frozen=True, kw_only=True)
class KeptTraining:
    """Where the storage notes what was trained of some inputs."""

    storage: Storage
    key: str

    def fetch(self, out: Path) -> dict[str, Any] | None:
        """Puts the bundle into `final/` of `out`; its note, or None where no run has made and kept it.

        Raises:
            DigestError: a file is not the one that was kept.
        """
        if not self.storage.exists(self.key):
            return None
        note: dict[str, Any] = self.storage.get_json(self.key)
        bundle = f"{KEPT}/{note['result']['digest']}"
        if not self.storage.has_tree(bundle):
            return None
        self.storage.get_tree(bundle, out / "final")
        return note

    def note(self, result: Mapping[str, Any], run: str) -> None:
        """Notes what the pipeline run `run` has trained."""
        self.storage.put_json({"run": run, "result": dict(result)}, self.key)


def kept_training(inputs: str, code_version: str) -> KeptTraining | None:
    """The place of what is trained of `inputs` by this program and this torch; None without a storage, or with a key
    of Kubeflow's cache.

    Args:
        inputs: digest of tokens, base and recipe.
        code_version: of the program.
    """
    settings = load_settings()
    if not settings.storage or settings.cache_key:
        return None
    key = digest_of({"inputs": inputs, "code": code_version, "torch": version("torch")})
    return KeptTraining(storage=open_storage(), key=ledger_key("trained", key))
