"""Files of a prepared folder that are memory-mapped, here or in the cache.

Writing to a mapped file changes the mapped bytes, and truncating it kills the process.
A file that is deleted or replaced stays readable, unchanged, for those who have it
open; one whose modification time alone changes is the same file. What lies at an object
store is mapped where it is cached, under the hash of its content, so it never changes.
"""

import hashlib
import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mm1.config import ConfigError, UserError
from mm1.storage.cache import CachedObject
from mm1.storage.remote_path import RemotePath

Mapped = TypeVar("Mapped")

MAX_EVICTED = 10
"""Times that a file may leave the cache between being fetched and being mapped."""


def mapped_files(
    folder: Path, entries: Sequence[dict[str, Any]]
) -> "list[MappedFile | CachedFile]":
    """The files of a prepared folder, by their entries in the manifest.

    Raises:
        ConfigError: one is missing, or its size is not that of the manifest.
    """
    if not isinstance(folder, RemotePath):
        return [MappedFile(folder, entry) for entry in entries]
    # A request for each folder, not for each file.
    parents = {(folder / entry["file"]).parent for entry in entries}
    there = {
        str(path): path.stat().st_size
        for parent in parents
        if parent.exists()
        for path in parent.iterdir()
    }
    for entry in entries:
        path = str(folder / entry["file"])
        _check_size(path, there.get(path), entry["bytes"])
    return [CachedFile(folder, entry) for entry in entries]


class MappedFile:
    """A file of a prepared folder as it was when the folder was opened. It may be
    mapped later, or again."""

    __slots__ = ("path", "sha256", "stamp")

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        """`entry` is the file's in the manifest.

        Raises:
            ConfigError: it is missing, or its size is not that of the manifest.
        """
        self.path = os.path.join(folder, entry["file"])
        self.sha256: str | None = entry.get("sha256")
        try:
            self.stamp = _stamp(self.path)
        except OSError:
            self.stamp = None
        size = self.stamp and self.stamp[1]
        _check_size(self.path, size, entry["bytes"])

    def map(self, function: Callable[[str], Mapped]) -> Mapped:
        """What `function` returns, given the path of the file."""
        return function(self.path)

    def check(self, *, mapped: bool) -> None:
        """Costs one `stat`, some microseconds, unless the file has changed. `mapped`:
        does this process have it mapped, whatever now lies at its path?

        Raises:
            ConfigError: its content has changed, or it is gone and not mapped.
        """
        try:
            now = _stamp(self.path)
        except FileNotFoundError:
            if mapped:
                return
            raise ConfigError(
                f"{self.path} was deleted while it is in use: copy the folder again,"
                " then resume"
            ) from None
        if now == self.stamp:
            return
        assert self.stamp is not None
        inode, size, _ = self.stamp
        if mapped and now[0] != inode:
            return
        if now[1] != size or _hash(self.path) != self.sha256:
            raise ConfigError(
                f"{self.path} was changed while it is in use: copy the folder again,"
                " then resume"
            )
        self.stamp = now


class CachedFile:
    """A file of a prepared folder at an object store."""

    __slots__ = ("object", "path")

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        """`entry` is the file's in the manifest."""
        self.path = str(folder / entry["file"])
        self.object = CachedObject(self.path, entry["bytes"], entry["sha256"])

    def check(self, *, mapped: bool) -> None:
        """Notes that it is in use."""
        if mapped:
            self.object.is_cached()

    def map(self, function: Callable[[str], Mapped]) -> Mapped:
        """What `function` returns, given the path of the copy, which is fetched if
        there is none.

        Raises:
            ConfigError: the object is gone.
            StorageError: it cannot be fetched, or is not what the manifest says.
        """
        for _ in range(MAX_EVICTED):
            try:
                copy = self.object.fetch()
            except FileNotFoundError as error:
                raise ConfigError(
                    f"{self.path} is gone, which the manifest names: upload the folder"
                    " again, then resume"
                ) from error
            try:
                return function(str(copy))
            except FileNotFoundError:  # others needed the room at once
                continue
        raise ConfigError(
            f"{self.path} leaves the cache before it is read: let that hold more"
            " (MM1_CACHE_GB)"
        )


def fetch_ahead(files: Sequence[CachedFile]) -> None:
    """Fetches files in the background, as long as the cache has room. Other processes
    do so, too, and begin elsewhere."""
    first = random.Random(os.getpid()).randrange(len(files))

    def fetch() -> None:
        # Whoever reads a file is told what is wrong with it.
        with suppress(UserError, OSError):
            all(f.object.prefetch() for f in (*files[first:], *files[:first]))

    threading.Thread(target=fetch, daemon=True).start()


def _check_size(path: str, size: int | None, expected: int) -> None:
    if size != expected:
        has = "is missing" if size is None else f"has {size:,} bytes"
        raise ConfigError(
            f"{path} {has}; the manifest says {expected:,} bytes: copy the folder again"
        )


def _stamp(path: str) -> tuple[int, int, int]:
    """(inode, bytes, time of modification)."""
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
