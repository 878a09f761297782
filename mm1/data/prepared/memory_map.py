"""Detects changes of a memory-mapped file.

Writing to a mapped file changes the mapped bytes, and truncating it kills the process.
A file that is deleted or replaced stays readable, unchanged, for those who have it
open; one whose modification time alone changes is the same file.
"""

import hashlib
import os
from pathlib import Path

from mm1.config import ConfigError


class MappedFile:
    """A file as it was when it was opened."""

    def __init__(self, path: Path, sha256: str | None) -> None:
        """`sha256` is that of its content, if known."""
        self.path = path
        self.sha256 = sha256
        self.opened: os.stat_result = path.stat()

    def check(self) -> None:
        """Costs one `stat`, some microseconds, unless the file's size or time has
        changed.

        Raises:
            ConfigError: its content has changed.
        """
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return
        if now.st_ino != self.opened.st_ino or _stamp(now) == _stamp(
            self.opened
        ):
            return
        if (
            now.st_size != self.opened.st_size
            or _hash(self.path) != self.sha256
        ):
            raise ConfigError(
                f"{self.path} was changed while it is in use: copy the folder again,"
                " then resume"
            )
        self.opened = now


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
