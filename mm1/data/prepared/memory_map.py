"""Detects changes of a memory-mapped file.

Writing to a mapped file changes the mapped bytes, and truncating it kills the process.
A file that is deleted or replaced stays readable, unchanged, for those who have it
open; one whose modification time alone changes is the same file.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from mm1.config import ConfigError


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
        if size != entry["bytes"]:
            has = "is missing" if size is None else f"has {size:,} bytes"
            raise ConfigError(
                f"{self.path} {has}; the manifest says {entry['bytes']:,} bytes: copy"
                " the folder again"
            )

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


def _stamp(path: str) -> tuple[int, int, int]:
    """(inode, bytes, time of modification)."""
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
