"""A new file that hashes what is written to it."""

import hashlib
from pathlib import Path
from typing import Any


class HashingFile:
    """Write-only; its errors name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self.closed = False
        self.hash = hashlib.sha256()
        self.file = path.open("wb", buffering=0)

    def write(self, data: Any) -> int:
        """`data` is bytes, or a buffer of bytes."""
        try:
            written = 0
            # an unbuffered file may write less than it is given
            while written < len(data):
                written += self.file.write(memoryview(data)[written:])
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, str(self.path)
            ) from error
        self.hash.update(data)
        self.num_bytes += written
        return written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.file.close()
        self.closed = True

    def facts(self) -> dict[str, Any]:
        """Its size and hash as a manifest has them."""
        return {"bytes": self.num_bytes, "sha256": self.hash.hexdigest()}
