"""Paths at object stores, with the methods of `pathlib.Path`.

    as_path("data/captions")              pathlib.Path
    as_path("s3://bucket/captions")       RemotePath, which is a pathlib.Path, too

What is not the same there: a file is written aside and put whole when it is closed; a
folder is nothing but the beginning of names, so it need not be made, and is there while
something is in it; nothing can be renamed or appended to. What needs a file of this
machine, such as a memory map or a lock, raises StorageError (`os.fspath`).
"""

import io
import os
import stat
from collections.abc import Generator
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any

from mm1.storage.remote_file import RemoteReader, RemoteWriter, read_blocks
from mm1.storage.requests import (
    BLOCK_BYTES,
    STORES,
    EmptyRange,
    StorageError,
    request,
    split_url,
)

READ_BUFFER = 1 << 16


def as_path(name: str | Path) -> Path:
    """The path of a file or folder that a user names, here or at an object store.

    Raises:
        StorageError: it is a URL of another kind, or without a bucket.
    """
    if isinstance(name, Path):
        return RemotePath(name) if _names_a_store(name) else name
    if "://" not in name:
        return Path(name)
    split_url(name)
    return RemotePath(name)


def _names_a_store(path: Path) -> bool:
    """Does it begin with a store's scheme? `Path` takes one of its two slashes for too
    many; a folder may be called `s3`."""
    first = path.parts[0] if path.parts else ""
    return first.endswith(":") and first.removesuffix(":") in STORES


def check_local(path: Path) -> None:
    """Raises StorageError for what must be a file or folder of this machine."""
    if isinstance(as_path(path), RemotePath):
        raise StorageError(
            f"{path}: this needs a file or folder of this machine"
        )


class RemotePath(PosixPath):
    """A file or folder at an object store. One that `iterdir` or `rglob` has returned
    is as it was when it was listed."""

    listed: dict[str, Any] | None = None
    """What fsspec says of it, where a listing did."""

    def __str__(self) -> str:
        if not _names_a_store(self):  # relative to another one
            return "/".join(self.parts)
        scheme, *rest = self.parts
        return f"{scheme}//" + "/".join(rest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __fspath__(self) -> str:
        raise StorageError(
            f"{self}: this needs a file or folder of this machine"
        )

    def __reduce__(self) -> Any:
        return type(self), (str(self),)

    def absolute(self) -> "RemotePath":
        return self

    def resolve(self, strict: bool = False) -> "RemotePath":
        return self

    def expanduser(self) -> "RemotePath":
        return self

    def is_absolute(self) -> bool:
        return True

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Its kind, size and time of modification.

        Raises:
            FileNotFoundError: there is nothing.
            StorageError: as `request` does.
        """
        info = self.listed or self._ask()
        is_folder = info["type"] == "directory"
        kind = stat.S_IFDIR | 0o755 if is_folder else stat.S_IFREG | 0o644
        when = info.get("LastModified") or info.get("mtime")
        when = when or info.get("last_modified")
        if isinstance(when, str):
            when = datetime.fromisoformat(when.replace("Z", "+00:00"))
        seconds = when.timestamp() if isinstance(when, datetime) else 0
        times = dict.fromkeys(
            ("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), int(seconds * 1e9)
        )
        size = info["size"] or 0
        whole = int(seconds)
        return os.stat_result(
            (kind, 0, 0, 1, 0, 0, size, whole, whole, whole),
            {name.removesuffix("_ns"): seconds for name in times} | times,
        )

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind() is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind() == "file"

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        try:
            return (self.listed or self._ask())["type"]
        except FileNotFoundError:
            return None

    def _ask(self) -> dict[str, Any]:
        return request(str(self), lambda store, path: store._info(path))

    def iterdir(self) -> Generator["RemotePath"]:
        """Raises FileNotFoundError, NotADirectoryError, or StorageError."""
        entries = request(
            str(self), lambda store, path: store._ls(path, detail=True)
        )
        own = split_url(str(self))[1].rstrip("/")
        names = [each["name"].rstrip("/") for each in entries]
        if names == [own] and entries[0]["type"] == "file":
            raise NotADirectoryError(f"{self} is a file")
        for name, entry in sorted(
            zip(names, entries, strict=True), key=lambda each: each[0]
        ):
            if name != own:  # some tools put an empty object for a folder
                yield self._found(name, entry)

    def rglob(self, pattern: str, **options: Any) -> Generator["RemotePath"]:
        """All files and folders at any depth whose names match the pattern."""
        entries = request(
            str(self),
            lambda store, path: store._find(path, withdirs=True, detail=True),
        )
        own = split_url(str(self))[1].rstrip("/")
        for name in sorted(entries):
            path = self._found(name.rstrip("/"), entries[name])
            if name.rstrip("/") != own and fnmatchcase(path.name, pattern):
                yield path

    def glob(self, pattern: str, **options: Any) -> Generator["RemotePath"]:
        """Entries whose names match the pattern, which has no slash."""
        assert "/" not in pattern
        if self.is_dir():
            for path in self.iterdir():
                if fnmatchcase(path.name, pattern):
                    yield path

    def _found(self, name: str, entry: dict[str, Any]) -> "RemotePath":
        path = RemotePath(f"{split_url(str(self))[0]}://{name}")
        path.listed = entry
        return path

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """For reading, or for writing a new object (`w`).

        Raises:
            FileNotFoundError: there is nothing to read.
            IsADirectoryError: it is a folder.
            StorageError: as `request` does, or for another mode.
        """
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w"):
            raise StorageError(
                f"{self} cannot be opened for {mode!r}: an object is written whole"
            )
        file: Any
        if kind == "r":
            reader = RemoteReader(str(self), self._size())
            file = (
                reader
                if not buffering
                else io.BufferedReader(reader, READ_BUFFER)
            )
        else:
            file = RemoteWriter(str(self))
        if "b" in mode:
            return file
        return io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        if self.listed is None and len(self.parts) > 2:
            with suppress(FileNotFoundError, EmptyRange):
                # One request for a small file. One that is empty has no such range.
                data = request(
                    str(self),
                    lambda store, path: store._cat_file(
                        path, start=0, end=BLOCK_BYTES
                    ),
                    BLOCK_BYTES,
                )
                if len(data) < BLOCK_BYTES:
                    return data
        return b"".join(read_blocks(str(self), 0, self._size()))

    def _size(self) -> int:
        info = self.listed or self._ask()
        if info["type"] == "directory":
            raise IsADirectoryError(f"{self} is a folder")
        return info["size"]

    def write_bytes(self, data: Any) -> int:
        request(
            str(self),
            lambda store, path: store._pipe_file(path, bytes(data)),
            len(data),
        )
        return len(data)

    def mkdir(self, *arguments: Any, **options: Any) -> None:
        """Nothing: a folder is there once something is in it."""

    def rmdir(self) -> None:
        """Nothing: a folder is gone once nothing is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok:
            self._ask()
        request(str(self), lambda store, path: store._rm_file(path))

    def remove_tree(self) -> None:
        """Deletes all files of a folder below its bucket, many with one request."""
        if "/" not in split_url(str(self))[1].strip("/"):
            raise StorageError(
                f"{self} is a whole bucket, which is not deleted"
            )
        with suppress(FileNotFoundError):
            request(
                str(self), lambda store, path: store._rm(path, recursive=True)
            )

    def rename(self, target: Any) -> Any:
        raise StorageError(
            f"{self} is at an object store: it cannot be renamed"
        )

    replace = rename

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        if not self.exists():
            self.write_bytes(b"")
