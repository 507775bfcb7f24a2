"""Which bundle, and which server's folder, is meant where none is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from csm_model.errors import InputError
from csm_model.files import read_json

if TYPE_CHECKING:
    from csm_serving.settings import ServingSettings


def find_bundle(given: Path | None, runs: Path) -> Path:
    """The bundle `given`, else what the last run left: the champion of all runs there, or its own candidate where none
    of them passed the gate.

    Raises:
        InputError: there is no bundle, or no run yet.
    """
    if given is not None:
        if not (given / "manifest.json").is_file():
            raise InputError(f"{given}: not a bundle (no manifest.json); give the folder that the export step wrote")
        return given
    latest = (runs / "latest").resolve()
    registered = latest / "register" / "result.json"
    if registered.is_file():
        result = read_json(registered)
        for folder in (result["champion_bundle"], result["bundle"]):
            if folder and (Path(folder) / "manifest.json").is_file():
                return Path(folder)
    if (latest / "bundle" / "manifest.json").is_file():
        return latest / "bundle"
    raise InputError(f"{runs / 'latest'}: no run has released a bundle yet; start one with: csm run, or name a bundle")


def serving_folder(given: Path | None, runs: Path, settings: ServingSettings) -> Path:
    """The folder `given`, else the one named by the port of the streams: a server's repository and its log."""
    return given if given is not None else runs / "serving" / str(settings.grpc_port)
