"""Objects of a store as open files: read in blocks that are asked for ahead, written
aside and put whole."""

import io
import os
import tempfile
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

from mm1.storage.requests import (
    BLOCK_BYTES,
    request,
    result,
    retried,
    submit,
)

BLOCKS_AHEAD = 4
"""On their way at a time where a whole object is read."""
MAX_BLOCKS = 8
"""That a reader holds: columns of a table are read by turns."""


class RemoteReader(io.RawIOBase):
    """An object, read from any place in blocks of `BLOCK_BYTES`. While blocks are read
    in order, the next one is on its way."""

    mode = "rb"

    def __init__(self, url: str, num_bytes: int) -> None:
        self.name = url
        self.num_bytes = num_bytes
        self.position = 0
        self.blocks: OrderedDict[int, bytes] = OrderedDict()
        """By number, the one that was read last at the end."""
        self.coming: dict[int, Future[bytes]] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self.position,
            os.SEEK_END: self.num_bytes,
        }[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self.position = start + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Raises StorageError as `request` does."""
        if self.position >= self.num_bytes:
            return 0
        number, offset = divmod(self.position, BLOCK_BYTES)
        data = memoryview(self._block(number))[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def _block(self, number: int) -> bytes:
        if number not in self.blocks:
            if number - 1 in self.blocks or number in self.coming:
                self._ask_for(number)
                self._ask_for(number + 1)
            while len(self.blocks) >= MAX_BLOCKS:
                self.blocks.popitem(last=False)
            self.blocks[number] = self._receive(number)
        self.blocks.move_to_end(number)
        return self.blocks[number]

    def _ask_for(self, number: int) -> None:
        if (
            number not in self.coming
            and number not in self.blocks
            and number * BLOCK_BYTES < self.num_bytes
        ):
            self.coming[number] = _submit_range(self.name, *self._range(number))

    def _receive(self, number: int) -> bytes:
        start, end = self._range(number)
        return read_range(self.name, start, end, self.coming.pop(number, None))

    def _range(self, number: int) -> tuple[int, int]:
        start = number * BLOCK_BYTES
        return start, min(start + BLOCK_BYTES, self.num_bytes)

    def close(self) -> None:
        for future in self.coming.values():
            future.cancel()
        self.coming = {}
        self.blocks.clear()
        super().close()


class RemoteWriter(io.RawIOBase):
    """A new object, written to a file of this machine, and put when closed; nothing is
    put if the block that it is opened for fails."""

    mode = "wb"

    def __init__(self, url: str) -> None:
        self.name = url
        self.file = tempfile.NamedTemporaryFile(prefix="mm1-")  # noqa: SIM115

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        if self.closed:
            return
        try:
            self.file.flush()
            put_file(Path(self.file.name), self.name)
        finally:
            self.discard()

    def discard(self) -> None:
        """Closes the file without putting it."""
        self.file.close()
        super().close()

    def __exit__(self, *error: Any) -> None:
        self.discard() if error[0] else self.close()

    def __del__(self) -> None:
        self.file.close()  # not `close`, which would put what may be half of a file


def read_range(
    url: str, start: int, end: int, first: "Future[bytes] | None" = None
) -> bytes:
    """The bytes of an object from `start` up to `end`; `first` is an attempt at it that
    is already under way.

    Raises:
        StorageUnavailable: it has become shorter, or as `request` does.
    """
    waiting = [first] if first else []

    def attempt() -> bytes:
        future = waiting.pop() if waiting else _submit_range(url, start, end)
        data = result(future, end - start)
        if len(data) < end - start:  # as where a connection breaks early
            raise ConnectionError(
                f"{len(data):,} bytes came where {end - start:,} were asked for"
            )
        return data

    return retried(url, attempt) if end > start else b""


def read_blocks(url: str, start: int, end: int) -> Iterator[bytes]:
    """The bytes of an object from `start` up to `end`, in order, a few blocks of
    `BLOCK_BYTES` being on their way at a time. Raises as `read_range` does."""
    coming: deque[tuple[int, int, Future[bytes]]] = deque()
    places = iter(range(start, end, BLOCK_BYTES))
    while True:
        for place in islice(places, BLOCKS_AHEAD - len(coming)):
            stop = min(place + BLOCK_BYTES, end)
            coming.append((place, stop, _submit_range(url, place, stop)))
        if not coming:
            return
        yield read_range(url, *coming.popleft())


def put_file(file: Path, url: str) -> None:
    """Puts a file of this machine under a URL. A reader sees the old object or the
    whole new one.

    Raises:
        StorageError: as `request` does.
    """
    request(
        url,
        lambda store, path: store._put_file(str(file), path),
        file.stat().st_size,
    )


def _submit_range(url: str, start: int, end: int) -> "Future[bytes]":
    return submit(
        url,
        lambda store, path: store._cat_file(path, start=start, end=end),
        end - start,
    )
