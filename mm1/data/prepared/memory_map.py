"""A memory-mapped file that must not change under its mapping.

One that is written to gives other bytes, or ends the process where it has become
shorter. One that is deleted or replaced stays readable, as it was, to those who have it
open; one that is only touched is no other.
"""

import hashlib
import os
from pathlib import Path

from mm1.config import ConfigError


class Mapped:
    """A file as it was when it was opened."""

    def __init__(self, path: Path, sha256: str | None) -> None:
        """`sha256` is that of its bytes, where it is known."""
        self.path = path
        self.sha256 = sha256
        self.then = path.stat()

    def check(self) -> None:
        """Looks at the file's entry alone, some microseconds, unless that has changed.

        Raises:
            ConfigError: it holds something else by now.
        """
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return
        if now.st_ino != self.then.st_ino or _stamp(now) == _stamp(self.then):
            return
        if now.st_size != self.then.st_size or _hash(self.path) != self.sha256:
            raise ConfigError(
                f"{self.path} was changed while it is in use: copy the folder again,"
                " then resume"
            )
        self.then = now


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
