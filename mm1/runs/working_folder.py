"""Where a run writes what grows by lines while it trains.

That is the run folder itself, or, where the run is at an object store, whose objects
cannot be appended to, a temporary folder of this process. Its files are put with each
checkpoint and at the end, so a run that is killed loses the lines after its last
checkpoint, which its next attempt writes again.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mm1.storage.remote_file import put_file
from mm1.storage.remote_path import RemotePath
from mm1.storage.requests import StorageError

_folders: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Run -> its folder here, which is deleted when the process ends."""
_put: dict[Path, tuple[int, int]] = {}
"""File -> its size and time of modification when it was put."""


def start_working_folder(run: Path) -> Path:
    """An empty one, where the run is at an object store."""
    old = _folders.pop(str(run), None)
    if old is not None:
        old.cleanup()
        _put.clear()
    return working_folder(run)


def working_folder(run: Path) -> Path:
    if not isinstance(run, RemotePath):
        return run
    if str(run) not in _folders:
        _folders[str(run)] = tempfile.TemporaryDirectory(prefix="mm1-run-")
    return Path(_folders[str(run)].name)


def put_working_files(run: Path) -> None:
    """Puts what has changed in the working folder of a run at an object store.

    Raises:
        StorageError: the store does not answer, or refuses.
    """
    if not isinstance(run, RemotePath):
        return
    folder = working_folder(run)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            state = stat.st_size, stat.st_mtime_ns
            if _put.get(path) != state:
                put_file(path, str(run / path.relative_to(folder)))
                _put[path] = state


@contextmanager
def storage_as_os_errors() -> Iterator[None]:
    """Around what may fail for a while, as where a disk is full: training goes on.

    Raises:
        OSError: for a StorageError, in its words.
    """
    try:
        yield
    except StorageError as error:
        raise OSError(None, str(error)) from error
