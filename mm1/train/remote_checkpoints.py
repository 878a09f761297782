"""Checkpoints at an object store: as in a run folder, but where nothing can be renamed,
one counts once its `checksums.json` is there, which is put last and names all others.

The files are those of `torch.distributed.checkpoint` (its own `FsspecReader` reads
them), and so is the writer, over requests that have a deadline and are repeated. Its
`FsspecWriter` does neither, and puts half a file where a write fails.

A copy of the objects is a run folder, and the other way round.
"""

import errno
import io
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import xxhash
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from mm1.checksums import CHECKSUMS, Checksum, checksum, write_checksums
from mm1.files import remove
from mm1.runs.layout import CHECKPOINTS
from mm1.runs.working_folder import put_working_files, storage_as_os_errors
from mm1.storage.remote_path import RemotePath
from mm1.storage.requests import StorageError
from mm1.train.checkpoint_files import CheckpointFiles, CheckpointFolder
from mm1.train.checkpoint_writer import CheckpointWriter, LocalFiles

ASIDE = "checksums.damaged.json"
"""Those of a checkpoint that was found damaged, which does not count any more."""


def checkpoint_files(run: Path) -> CheckpointFiles:
    """The checkpoints of a run, wherever it is."""
    if isinstance(run, RemotePath):
        return RemoteCheckpoints(run)
    return CheckpointFolder(run)


class RemoteCheckpoints(CheckpointFolder):
    """The checkpoints of a run at an object store."""

    MAKE_ROOM = "see to the object store"

    def clean(self) -> None:
        whole = {self.path(step) for step in self.steps()}
        kept = whole | {
            path.parent for path in (self.run / CHECKPOINTS).rglob(ASIDE)
        }
        for path in (self.run / CHECKPOINTS).glob("step-*"):
            if path not in kept:
                remove(path)

    def clear(self, step: int) -> None:
        with storage_as_os_errors():
            self._delete(step)

    def writer(self, step: int, progress: dict[str, Any]) -> CheckpointWriter:
        return RemoteCheckpointWriter(self.path(step), progress)

    def publish(self, step: int, checksums: Mapping[str, Checksum]) -> None:
        path = self.path(step)
        with storage_as_os_errors():
            put_working_files(self.run)
            there = {each.name for each in path.iterdir()}
            missing = sorted(checksums.keys() - there)
            if missing:
                raise FileNotFoundError(
                    errno.ENOENT,
                    f"{missing[0]}, which a rank has put, is not there: does something"
                    " else write there?",
                )
            write_checksums(path, checksums)

    def drop(self, step: int) -> None:
        with storage_as_os_errors():
            self._delete(step)

    def abandon(self, step: int) -> str:
        # It does not count, and is deleted at the latest when the run is resumed.
        with suppress(StorageError, OSError):
            self._delete(step)
        return ""

    def set_aside(self, step: int) -> str:
        path = self.path(step)
        (path / ASIDE).write_bytes((path / CHECKSUMS).read_bytes())
        (path / CHECKSUMS).unlink()
        return ASIDE

    def _delete(self, step: int) -> None:
        """What makes it count first."""
        path = cast(RemotePath, self.path(step))
        names = {each.name for each in path.rglob("*")}
        if CHECKSUMS in names:
            (path / CHECKSUMS).unlink(missing_ok=True)
        if names - {CHECKSUMS}:
            path.remove_tree()


class RemoteCheckpointWriter(CheckpointWriter):
    """Each file is written on this machine, in the folder for temporary files, and put
    whole: a broken connection costs the time of one file."""

    def __init__(self, folder: Path, progress: dict[str, Any]) -> None:
        super().__init__(folder, progress)
        self.objects = _Objects()
        self.fs = self.objects
        self.sync_files = False

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        with storage_as_os_errors():
            return super().prepare_local_plan(plan)

    def write_data(
        self, plan: SavePlan, planner: SavePlanner
    ) -> Future[list[WriteResult]]:
        with storage_as_os_errors():
            return super().write_data(plan, planner)

    def finish(
        self, metadata: Metadata, results: list[list[WriteResult]]
    ) -> None:
        with storage_as_os_errors():
            super().finish(metadata, results)

    def storage_meta(self) -> StorageMeta:
        # A path of ours would be pickled.
        return StorageMeta(str(self.folder), self.save_id)

    def _note(self, name: str) -> None:
        self.checksums[name] = self.objects.checksums.get(name) or checksum(
            self.folder / name
        )


class _Objects(LocalFiles):
    """torch's file system with the checksums of the files that it has written."""

    def __init__(self) -> None:
        self.checksums: dict[str, Checksum] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.IOBase]:
        with super().create_stream(path, mode) as stream:
            if "w" not in mode:
                yield stream
                return
            hashed = _HashedStream(stream)
            yield cast(io.IOBase, hashed)
        self.checksums[path.name] = {
            "bytes": hashed.num_bytes,
            "xxh3_128": hashed.hasher.hexdigest(),
        }

    def rename(self, path: Any, new_path: Any) -> None:
        """Of the list of shards, which is small."""
        new_path.write_bytes(path.read_bytes())
        path.unlink()
        self.checksums[new_path.name] = self.checksums.pop(path.name)


class _HashedStream:
    """A file that is written from its start to its end."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.hasher = xxhash.xxh3_128()
        self.num_bytes = 0

    def write(self, data: Any) -> int:
        written = self.stream.write(data)
        self.hasher.update(memoryview(data)[:written])
        self.num_bytes += written
        return written

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def close(self) -> None:
        self.stream.close()
