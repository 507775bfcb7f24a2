"""Checkpoints that a kill cannot spoil, written while training goes on (torch.distributed.checkpoint).

checkpoints/step-00000200/{.metadata, __0_0.distcp, ..., state.json}    appears by rename, every file named by digest

Every process writes its share, into a folder that all of them see; where machines have disks of their own, rank 0
writes the whole. `state.json` is written last, and holds what is no tensor: the step, its validation loss, the packs
consumed, what the guard remembers. A checkpoint that is damaged is reported and passed over for the one before it. A
mirror keeps copies elsewhere, made by a thread of its own while training goes on; a machine that has no checkpoint, or
an older one, fetches the newest that is whole there.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from csm_model.errors import CheckpointError, CsmError, DigestError, shown
from csm_model.files import digest_of, digest_of_file, read_json, sync, write_json
from csm_model.rules import finite
from csm_model.training.parallel import World

_log = logging.getLogger(__name__)
_STATE = "state.json"


_DAMAGE = (CsmError, OSError, KeyError, TypeError, ValueError, AttributeError)
"""What is raised where `state.json`, or what it names, is not what was written."""
_METADATA = {
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.metadata": (
        "_MEM_FORMAT_ENCODING", "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex",
        "StorageMeta", "TensorProperties", "TensorStorageMetadata",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "collections": ("OrderedDict",),
    "pathlib": ("PosixPath",),
}  # fmt: skip
"""What the metadata of a checkpoint is made of, beside dtypes: names by modules."""
_NO_MEMORY = "DefaultCPUAllocator"
"""Names torch's allocator where a RuntimeError is about memory; on a GPU that is an exception of its own."""


class Mirror(Protocol):
    """Where copies are kept; `csm_components.storage.Storage` is one. A tree is there whole or not at all."""

    def put_tree(self, folder: Path, key: str) -> Any:
        """Stores a folder."""
        ...

    def get_tree(self, key: str, folder: Path) -> Any:
        """Fetches a folder, which is then there whole; raises `DigestError` where its bytes are damaged."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Fetches a file."""
        ...

    def trees(self, prefix: str = "") -> list[str]:
        """Keys of the folders that begin with `prefix` and are there whole, in order."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """All keys of files that begin with `prefix`, in order."""
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
        shared: whether all processes see `root`; without, `save` and `load` are the leading process's alone.
    """

    def __init__(
        self, root: Path, world: World, *, keep: int, mirror: Mirror | None = None, shared: bool = True
    ) -> None:
        self.root, self.world, self.keep = root, world, keep
        self.shared = shared or world.size == 1
        self.copies = Copies(root, mirror) if mirror is not None and world.leads else None
        self._group = dist.new_group(backend="gloo") if world.size > 1 and self.shared else None
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
        if not (self.shared or self.world.leads):
            return
        partial = self.root / f".{_name(step)}.partial"
        if self.world.leads:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        if self.shared:
            self.world.barrier()
        written = async_save(tensors, checkpoint_id=partial, process_group=self._group, no_dist=self._group is None)
        assert isinstance(written, Future)
        self._pending = self._writer.submit(self._commit, written, partial, step, facts, validation)

    def wait(self) -> None:
        """Until what was begun is on the disk; raises `OSError` of the disk."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Waits for the disk and for the mirror, and ends the threads.

        Raises:
            CsmError: the newest checkpoint could not be copied to the mirror.
        """
        try:
            self.wait()
            if self.copies is not None:
                self.copies.finish(self._kept())
                self._prune()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends the threads after what they have begun; what goes wrong there is not raised."""
        self._writer.shutdown()
        if self.copies is not None:
            self.copies.abandon()

    def newest(self) -> tuple[int, dict[str, Any]]:
        """Step and facts of the newest checkpoint that is whole, the same for all processes; (0, {}) for none.

        Raises:
            CsmError: the mirror cannot be read; what it has is not known, so nothing may begin.
        """
        found: tuple[int, dict[str, Any]] = (0, {})
        if self.world.leads:
            for partial in self.root.glob(".step-*.partial"):  # of a write that was killed
                shutil.rmtree(partial)
            facts = self._newest_whole()
            if self.copies is not None and self.copies.fetch(facts["step"] if facts else 0):
                facts = self._newest_whole()
            found = (facts["step"], facts) if facts else found
        return self.world.agree(found)  # type: ignore[no-any-return]

    def best(self) -> int | None:
        """Step of the checkpoint that has the lowest validation loss and is whole; None where none has one."""
        ranked = _best_first(self._newest_first()) if self.world.leads else []
        whole = (step for step in ranked if _whole(self.root / _name(step)) is not None)
        step = self.world.agree(next(whole, None))
        return None if step is None else int(step)

    def load(self, step: int, tensors: dict[str, Any]) -> None:
        """Reads a step's checkpoint into `tensors`, in place."""
        if not (self.shared or self.world.leads):
            return
        folder = self.root / _name(step)
        try:
            _check_metadata(folder / ".metadata")
            load(tensors, checkpoint_id=folder, process_group=self._group, no_dist=self._group is None)
        except (CheckpointException, Exception) as error:  # what is stored decides what torch raises
            raise not_loaded(folder, error) from None

    def _commit(
        self, written: Future[Any], partial: Path, step: int, facts: dict[str, Any], validation: float | None
    ) -> None:
        written.result()
        if not self.world.leads:
            return
        files = {path.name: digest_of_file(path) for path in sorted(partial.iterdir())}
        whole = {**facts, "step": step, "validation": validation, "files": files}
        write_json(partial / _STATE, {**whole, "digest": digest_of(whole)})
        folder = self.root / _name(step)
        if folder.exists():  # damaged, or it would have been resumed from
            shutil.rmtree(folder)
        partial.rename(folder)
        sync(self.root)
        self._prune()
        if self.copies is not None:
            self.copies.begin(self._kept())

    def _prune(self) -> None:
        """Removes what is not to be kept, but for what is being copied, which has to wait."""
        kept = self._kept()
        for old in self._newest_first():
            if old not in kept and (self.copies is None or old != self.copies.copying):
                shutil.rmtree(old)

    def _kept(self) -> list[Path]:
        """The newest, and the best."""
        folders = self._newest_first()
        best = _best(folders)
        return [folder for place, folder in enumerate(folders) if place < self.keep or folder.name == _name(best or 0)]

    def _newest_whole(self) -> dict[str, Any] | None:
        """The facts of the newest that is whole."""
        return next((facts for folder in self._newest_first() if (facts := _whole(folder)) is not None), None)

    def _newest_first(self) -> list[Path]:
        return sorted(self.root.glob("step-*"), reverse=True) if self.root.is_dir() else []


class Copies:
    """Copies of the checkpoints in a mirror, made one after another in a thread; training does not wait for them.

    Args:
        root: folder of the checkpoints.
        mirror: where the copies go.
    """

    def __init__(self, root: Path, mirror: Mirror) -> None:
        self.root, self.mirror = root, mirror
        self.copying: Path | None = None
        """The checkpoint that is being copied, which must stay."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._pending: Future[None] | None = None
        self._damaged: set[str] = set()

    def fetch(self, newest: int) -> bool:
        """Brings the newest copy that is whole there, where it is newer than step `newest`, and the best one.

        Copies that are damaged are reported and passed over. Returns whether anything was brought.
        """
        there = self.mirror.trees("step-")
        brought = False
        for name in reversed(there):
            if name <= _name(newest):
                break
            if brought := self._fetched(name):
                break
        if not brought:
            return False
        best = _best([self._state_of(name) for name in there])
        if best is not None and not (self.root / _name(best)).exists():
            self._fetched(_name(best))
        shutil.rmtree(self.root / ".mirror", ignore_errors=True)
        return True

    def begin(self, kept: list[Path]) -> None:
        """Copies these, unless the copies of earlier ones are still being made: then the next call will."""
        if self._pending is None or self._pending.done():
            self._pending = self._thread.submit(self._copy_or_warn, kept)

    def finish(self, kept: list[Path]) -> None:
        """Waits for what was begun, and copies what is missing; raises the `CsmError` of the mirror."""
        self._thread.submit(self._copy, kept).result()

    def abandon(self) -> None:
        """Ends the thread after what it has begun."""
        self._thread.shutdown()

    def _copy_or_warn(self, kept: list[Path]) -> None:
        try:
            self._copy(kept)
        except (CsmError, OSError) as error:  # it may be back for the next one; training is worth more than a copy
            _log.warning("%s could not be copied to the mirror (%s); the next checkpoint tries again", kept[0], error)

    def _copy(self, kept: list[Path]) -> None:
        """Copies what is not there yet, the newest first; then removes what is there and not to be kept."""
        try:
            for folder in kept:
                self.copying = folder
                if not folder.is_dir():  # newer ones have taken its place
                    continue
                if folder.name in self._damaged:
                    self._remove(f"{folder.name}/")
                    self._damaged.remove(folder.name)
                self.mirror.put_tree(folder, folder.name)
        finally:
            self.copying = None
        names = {folder.name for folder in kept}
        for name in {key.partition("/")[0] for key in self.mirror.list("step-")} - names:
            self._remove(f"{name}/")

    def _remove(self, prefix: str) -> None:
        for key in self.mirror.list(prefix):  # a tree's list is the first, so that no half of a tree is taken for one
            self.mirror.delete(key)

    def _fetched(self, name: str) -> bool:
        """Fetches a checkpoint; False, and a warning, where it is damaged."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self.mirror.get_tree(name, self.root / name)
        except DigestError as error:
            _log.warning("%s is damaged in the mirror (%s); using the checkpoint before it", name, error)
            self._damaged.add(name)
            return False
        return _whole(self.root / name) is not None

    def _state_of(self, name: str) -> Path:
        """A folder that holds only what the mirror's checkpoint of that name says of itself."""
        folder = self.root / ".mirror" / name
        self.mirror.get_file(f"{name}/{_STATE}", folder / _STATE)
        return folder


def _name(step: int) -> str:
    return f"step-{step:08}"


def not_loaded(folder: Path, error: BaseException) -> CsmError:
    """Why a checkpoint was not loaded: the machine's memory, its disk, or that it is another training's."""
    causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    reason = (str(causes[0]).splitlines() or [type(causes[0]).__name__])[-1]
    if any(isinstance(cause, OSError) for cause in causes):
        return CsmError(f"{folder}: cannot be read ({reason}); see to the disk or the share, and start again")
    if any(isinstance(cause, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY in str(cause) for cause in causes):
        return CsmError(
            f"{folder}: there is no memory to load it into ({reason}); give the process more, or share the model out "
            "over more processes (strategy fsdp)"
        )
    return CheckpointError(
        f"{folder}: does not fit this training ({reason}); "
        "give another out folder, or the settings that it was written with"
    )


def _best(folders: list[Path]) -> int | None:
    """The step whose validation loss is the lowest, the earliest of equals; None where none was validated."""
    return next(iter(_best_first(folders)), None)


def _best_first(folders: list[Path]) -> list[int]:
    """Steps that were validated, by their loss and then by themselves; of what is damaged, `newest` speaks."""
    found = []
    for folder in folders:
        try:
            facts = _stated(folder)
            if finite(facts["validation"]):
                found.append((float(facts["validation"]), int(facts["step"])))
        except _DAMAGE:
            continue
    return [step for _, step in sorted(found)]


def _stated(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; raises one of `_DAMAGE` where that was changed since it was written."""
    facts: dict[str, Any] = read_json(folder / _STATE)
    stated = {name: value for name, value in facts.items() if name != "digest"}
    if facts.get("digest", digest_of(stated)) != digest_of(stated):  # those of earlier versions have none
        raise DigestError(f"{_STATE} does not have its digest")
    if _name(facts["step"]) != folder.name:
        raise DigestError(f"{_STATE} is of step {shown(facts['step'])}")
    return facts


def _whole(folder: Path) -> dict[str, Any] | None:
    """The facts of a checkpoint all of whose files have their digests; None, and a warning, for another."""
    try:
        facts = _stated(folder)
        files: dict[str, str] = facts["files"]
        damaged = next((name for name, digest in files.items() if digest_of_file(folder / name) != digest), None)
    except _DAMAGE as error:
        damaged = shown(error)
    if damaged is None:
        return facts
    _log.warning("%s is damaged (%s); using the checkpoint before it", folder, damaged)
    return None


class _Metadata(pickle.Unpickler):
    """Reads what torch writes of a checkpoint, and nothing that calls anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _METADATA.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is in it, which no checkpoint needs")


def _check_metadata(path: Path) -> None:
    """Raises what is wrong with the pickle that torch will read without looking: it may come from a mirror."""
    with path.open("rb") as file:
        _Metadata(file).load()


def quiet_torch() -> None:
    """Silences, for the whole process, what torch's checkpoint writer says of itself in a thread of its own."""
    warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
