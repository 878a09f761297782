"""Copies of objects on this machine's disk, shared by all processes on it.

    MM1_CACHE       the folder (default: ~/.cache/mm1)
    MM1_CACHE_GB    how much it may hold (default: 100)

    <folder>/<hash of the content>          an object, whole and checked
             <hash of the content>.part     what has come of it so far
             <hash of the content>.lock     held by the process that fetches it

One process fetches an object, and the others wait for it. What a killed one has left is
gone on with. Those that were not used for longest go first; a process that has mapped
one keeps what it has.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm1.storage.remote_file import read_blocks
from mm1.storage.requests import StorageError, positive_number

POLL_SECONDS = 0.05
"""Between two questions whether another process is done."""
TOUCH_SECONDS = 5.0
"""Between two notes that a file is in use."""


class DamagedObject(StorageError):
    """An object has not the content that is noted of it."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MM1_CACHE") or Path(base, "mm1"))


def cache_bytes() -> int:
    """How much the cache may hold."""
    return int(positive_number("MM1_CACHE_GB", 100.0) * 1e9)


class CachedObject:
    """An object whose content is known by its hash: by default SHA-256."""

    __slots__ = ("digest", "num_bytes", "path", "touched", "url")

    def __init__(self, url: str, num_bytes: int, digest: str) -> None:
        self.url = url
        self.num_bytes = num_bytes
        self.digest = digest
        self.path = cache_folder() / digest
        """Where the copy is, if there is one."""
        self.touched = 0.0

    def is_cached(self) -> bool:
        """Costs one `stat`. A file that is in use is kept from being the next to
        go."""
        try:
            if time.monotonic() - self.touched > TOUCH_SECONDS:
                os.utime(self.path)
                self.touched = time.monotonic()
            return os.stat(self.path).st_size == self.num_bytes
        except (FileNotFoundError, NotADirectoryError):
            return False

    def fetch(self) -> Path:
        """The path of the copy, which is made if there is none. It may go again any
        time, unless the file is open or mapped.

        Raises:
            FileNotFoundError: there is no such object.
            DamagedObject: it is another one.
            StorageError: as a request does, or the cache cannot be written.
        """
        if not self.is_cached():
            with disk_errors_named(), _lock(self.path, wait=True):
                self._fetch_locked()
        return self.path

    def prefetch(self) -> bool:
        """Fetches it unless another process does. Returns False, and fetches nothing,
        if others would have to go for it."""
        if self.is_cached():
            return True
        with disk_errors_named():
            if used_bytes() + self.num_bytes > cache_bytes():
                return False
            with _lock(self.path, wait=False) as is_held:
                if is_held:
                    self._fetch_locked()
        return True

    def _fetch_locked(self) -> None:
        if self.is_cached():  # another process was first
            return
        part = self.path.with_name(self.digest + ".part")
        _make_room(self.num_bytes, part)
        try:
            self._download(part)
        except DamagedObject:  # it may be what an earlier process has left
            self._download(part)
        part.replace(self.path)
        self.touched = time.monotonic()

    def new_hasher(self) -> Any:
        return hashlib.sha256()

    def _download(self, part: Path) -> None:
        """Adds what is missing to the file, and checks the whole."""
        hasher = self.new_hasher()
        with part.open("a+b") as file:
            file.seek(0)
            while block := file.read(1 << 20):
                hasher.update(block)
            if file.tell() > self.num_bytes:
                file.truncate(0)
                hasher = self.new_hasher()
            start = file.seek(0, os.SEEK_END)
            for block in read_blocks(self.url, start, self.num_bytes):
                hasher.update(block)
                file.write(block)
        if hasher.hexdigest() != self.digest:
            part.unlink()
            raise DamagedObject(
                f"{self.url} is not what its folder says of it (its hash is another):"
                " upload the whole folder again"
            )


@contextmanager
def disk_errors_named() -> Iterator[None]:
    """Turns errors of the cache's disk into one line.

    Raises:
        StorageError: that.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"the cache {cache_folder()} cannot be written ({error.strerror}):"
            + (" let it hold less (MM1_CACHE_GB), or" if full else "")
            + " choose another folder (MM1_CACHE)"
        ) from error


def used_bytes() -> int:
    return sum(size for _, size, _ in _copies())


def _copies() -> list[tuple[float, int, Path]]:
    """(last use, bytes, path) of all files but locks, the oldest first."""
    found = []
    cache_folder().mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(cache_folder()):
        try:
            status = entry.stat()
        except FileNotFoundError:  # another process has deleted it
            continue
        if entry.is_file() and not entry.name.endswith(".lock"):
            path = Path(entry.path)
            found.append((status.st_mtime, status.st_size, path))
    return sorted(found)


def _make_room(num_bytes: int, part: Path) -> None:
    """Deletes the oldest copies until there is room for one more."""
    left = cache_bytes() - num_bytes
    copies = [each for each in _copies() if each[2] != part]
    used = sum(size for _, size, _ in copies)
    for _, size, path in copies:
        if used <= left:
            break
        if path.suffix != ".part" or _is_abandoned(path):
            path.unlink(missing_ok=True)
            used -= size


def _is_abandoned(part: Path) -> bool:
    """Is nobody fetching it any more?"""
    with _lock(part.with_suffix(""), wait=False) as is_held:
        return is_held


@contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Held by one process at a time; the system releases it however that dies. Gives
    False where another one holds it, and `wait` is False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        while not (is_held := _try_lock(lock)) and wait:
            time.sleep(POLL_SECONDS)
        yield is_held


def _try_lock(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
