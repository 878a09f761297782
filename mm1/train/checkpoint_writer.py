"""How the files of a checkpoint are written: by `torch.distributed.checkpoint`, with
the checksum of each."""

import copy
import io
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from mm1.checksums import Checksum, checksum
from mm1.files import write_json

PROGRESS = "progress.json"
"""The step, the loader's state, and sums since the last line of metrics."""


class LocalFiles(FileSystem):
    """torch's file system, whose streams may be flushed once they are closed: torch
    does that, long after a write has failed, when it drops its wrapper of a stream, and
    Python prints the error from 3.13 on."""

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.IOBase]:
        with super().create_stream(path, mode) as stream:
            yield cast(io.IOBase, _Stream(stream))


class _Stream:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class CheckpointWriter(FileSystemWriter):
    """Writes one checkpoint; it works in the thread of `async_save`."""

    def __init__(self, folder: Path, progress: dict[str, Any]) -> None:
        super().__init__(folder)
        self.fs = LocalFiles()
        self.folder = folder
        # Training goes on, and counts, while this is written.
        self.progress = copy.deepcopy(progress)
        self.num_bytes = 0
        """Of this rank's tensors."""
        self.checksums: dict[str, Checksum] = {}
        """Of the files that this rank has written, by name."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        self.num_bytes = sum(
            item.tensor_storage_size() or 0 for item in plan.items
        )
        return super().prepare_local_plan(plan)

    def write_data(
        self, plan: SavePlan, planner: SavePlanner
    ) -> Future[list[WriteResult]]:
        try:
            written = super().write_data(plan, planner)
        except RuntimeError as error:
            # torch's archives say "unexpected pos" where a write has failed.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        for name in {
            result.storage_data.relative_path for result in written.wait()
        }:
            self._note(name)
        return written

    def finish(
        self, metadata: Metadata, results: list[list[WriteResult]]
    ) -> None:
        """Called on rank 0 alone, after all have written."""
        super().finish(metadata, results)
        write_json(self.folder / PROGRESS, self.progress)
        self._note(".metadata")
        self._note(PROGRESS)

    def _note(self, name: str) -> None:
        self.checksums[name] = checksum(self.folder / name)
