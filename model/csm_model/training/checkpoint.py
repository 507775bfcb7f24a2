"""Checkpoints that a kill cannot spoil, written while training goes on (torch.distributed.checkpoint).

checkpoints/step-00000200/{.metadata, __0_0.distcp, ..., state.json}    appears by rename, every file named by digest
checkpoints/best.json                                                   the step of the lowest validation loss

Every process writes its share, so the folder must be one that all of them see. `state.json` is written last, and holds
what is no tensor: the step, the packs consumed, the losses that the guard remembers. A checkpoint that is damaged is
reported and passed over for the one before it. A mirror keeps copies elsewhere; a machine that has none fetches them.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from csm_model.errors import ArtifactError, CheckpointError, CsmError
from csm_model.files import digest_of_file, read_json, write_json
from csm_model.training.parallel import World

_log = logging.getLogger(__name__)
_STATE = "state.json"
_BEST = "best.json"


class Mirror(Protocol):
    """Where copies are kept; `csm_components.storage.Storage` is one."""

    def put_tree(self, folder: Path, key: str) -> Any:
        """Stores a folder."""
        ...

    def get_tree(self, key: str, folder: Path) -> Any:
        """Fetches a folder, which is then there whole."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """All keys of files that begin with `prefix`."""
        ...

    def delete(self, key: str) -> None:
        """Removes a file."""
        ...


class Checkpoints:
    """The checkpoints of one training.

    Args:
        root: folder for them, the same for all processes.
        world: the processes.
        keep: so many of the newest are kept, and the best.
        mirror: where copies go.
    """

    def __init__(self, root: Path, world: World, *, keep: int, mirror: Mirror | None = None) -> None:
        self.root, self.world, self.keep, self.mirror = root, world, keep, mirror
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Any], facts: dict[str, Any], *, validation: float | None) -> None:
        """Begins to write the checkpoint of a finished step; waits only for the one before it, and for the copy.

        Args:
            step: steps done.
            tensors: what torch.distributed.checkpoint shall write.
            facts: what else is to be known, as JSON values.
            validation: validation loss at this very step, where there is one.
        """
        self.wait()
        partial = self.root / f".step-{step:08}.partial"
        if self.world.leads:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.world.barrier()
        written = async_save(tensors, checkpoint_id=partial, process_group=self._group, no_dist=self._group is None)
        assert isinstance(written, Future)
        self._pending = self._writer.submit(self._commit, written, partial, step, facts, validation)

    def wait(self) -> None:
        """Until what was begun is there.

        Raises:
            CsmError: of the mirror; OSError of the disk.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Waits, and ends the thread that writes."""
        self.wait()
        self._writer.shutdown()

    def newest(self) -> tuple[int, dict[str, Any]]:
        """Step and facts of the newest checkpoint that is whole, the same for all processes; (0, {}) for none."""
        found: tuple[int, dict[str, Any]] = (0, {})
        if self.world.leads:
            if self.mirror is not None:
                self._fetch(self.mirror)
            for folder in self._newest_first():
                if (facts := _whole(folder)) is not None:
                    found = facts["step"], facts
                    break
        return self.world.agree(found)  # type: ignore[no-any-return]

    def best(self) -> int | None:
        """Step of the checkpoint with the lowest validation loss."""
        path = self.root / _BEST
        step = self.world.agree(read_json(path)["step"] if self.world.leads and path.exists() else None)
        return None if step is None else int(step)

    def load(self, step: int, tensors: dict[str, Any]) -> None:
        """Reads a step's checkpoint into `tensors`, in place."""
        try:
            load(
                tensors,
                checkpoint_id=self.root / f"step-{step:08}",
                process_group=self._group,
                no_dist=self._group is None,
            )
        except (CheckpointException, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.root / f'step-{step:08}'}: does not fit this training ({str(error).splitlines()[-1]}); "
                "give another out folder, or the settings that it was written with"
            ) from None

    def _commit(
        self, written: Future[Any], partial: Path, step: int, facts: dict[str, Any], validation: float | None
    ) -> None:
        written.result()
        if not self.world.leads:
            return
        files = {path.name: digest_of_file(path) for path in sorted(partial.iterdir())}
        write_json(partial / _STATE, {**facts, "step": step, "validation": validation, "files": files})
        folder = self.root / f"step-{step:08}"
        if folder.exists():  # damaged, or it would have been resumed from
            shutil.rmtree(folder)
        partial.rename(folder)
        _sync(self.root)
        best = read_json(self.root / _BEST) if (self.root / _BEST).exists() else None
        if validation is not None and (best is None or validation < best["validation"]):
            best = {"step": step, "validation": validation}
            write_json(self.root / _BEST, best)
        if self.mirror is not None:
            self.mirror.put_tree(folder, folder.name)
        kept = self._newest_first()[: self.keep]
        for old in self._newest_first()[self.keep :]:
            if best is None or old.name != f"step-{best['step']:08}":
                shutil.rmtree(old)
            else:
                kept.append(old)
        if self.mirror is not None:
            names = {folder.name for folder in kept}
            for key in self.mirror.list("step-"):
                if key.partition("/")[0] not in names:
                    self.mirror.delete(key)

    def _fetch(self, mirror: Mirror) -> None:
        """Brings the newest copies that are not here; one that is damaged there is reported and left."""
        here = {folder.name for folder in self._newest_first() if _whole(folder) is not None}
        there = sorted({key.partition("/")[0] for key in mirror.list("step-")}, reverse=True)
        for name in there:
            if name in here:
                return
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                mirror.get_tree(name, self.root / name)
            except CsmError as error:
                _log.warning("%s cannot be had from the mirror (%s)", name, error)
                continue
            return

    def _newest_first(self) -> list[Path]:
        return sorted(self.root.glob("step-*"), reverse=True) if self.root.is_dir() else []


def _whole(folder: Path) -> dict[str, Any] | None:
    """The facts of a checkpoint all of whose files have their digests; None, and a warning, for another."""
    try:
        facts: dict[str, Any] = read_json(folder / _STATE)
        files: dict[str, str] = facts["files"]
        damaged = next((name for name, digest in files.items() if digest_of_file(folder / name) != digest), None)
    except (ArtifactError, OSError, KeyError, TypeError, AttributeError) as error:
        damaged = str(error)
    if damaged is None:
        return facts
    _log.warning("%s is damaged (%s); using the checkpoint before it", folder, damaged)
    return None


def _sync(folder: Path) -> None:
    """Makes renames in a folder outlive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def quiet_torch() -> None:
    """Silences, for the whole process, what torch's checkpoint writer says of itself in a thread of its own."""
    warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
