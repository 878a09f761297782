"""Compressed files, read as a stream: .gz, .bz2, .xz and .zst.

pyarrow reads all but xz. Of zstd it refuses frames that need more than 128 MiB of
earlier output (`zstd --long=28` and more, as some dumps of the web are compressed);
the package `zstandard` reads these.
"""

import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mm1.extras import needs_extra

BUFFER = 1 << 13
CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""Suffix -> codec."""
COMPRESSED_LINES = tuple(f"*.jsonl{suffix}" for suffix in CODECS)
COMPRESSED_JSON = (*COMPRESSED_LINES, *(f"*.json{suffix}" for suffix in CODECS))
"""Patterns of file names."""
LONG_WINDOW = 1 << 27
MAX_WINDOW = 1 << 31
COMPRESSED_AT_ONCE = 1 << 10
"""Bytes given to zstandard: what they expand to is held in memory, at most some 32
MiB."""


@contextmanager
def open_decompressed(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed if its name ends in one of `CODECS`.

    Raises:
        OSError: it cannot be opened; while reading: the compressed data is damaged or
            truncated.
    """
    with path.open("rb") as file:
        codec = CODECS.get(path.suffix)
        if codec is None:
            yield file
        elif codec == "xz":
            with lzma.LZMAFile(file) as stream:
                yield io.BufferedReader(_Stream(stream), BUFFER)
        elif codec == "zstd" and (window := _window(file)) > LONG_WINDOW:
            yield io.BufferedReader(
                _Stream(_LongZstd(path, file, window)), BUFFER
            )
        else:
            import pyarrow as pa

            compressed: Any = pa.CompressedInputStream(file, codec)
            yield io.BufferedReader(compressed, BUFFER)


class _Stream(io.RawIOBase):
    """A stream whose errors are all OSErrors."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except (EOFError, lzma.LZMAError, ValueError) as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)


class _LongZstd:
    """Frames of zstd with a long window.

    Not `zstandard`'s own reader of streams, to which a truncated file is a whole one.
    """

    def __init__(self, path: Path, file: BinaryIO, window: int) -> None:
        large = (
            f"{path}, with a window of {window:,} bytes, which pyarrow lacks,"
        )
        with needs_extra("zstd", large):
            import zstandard  # type: ignore[import-not-found]
        self.file = file
        self.decompressor = zstandard.ZstdDecompressor(
            max_window_size=MAX_WINDOW
        )
        self.error = zstandard.ZstdError
        self.frame = self.decompressor.decompressobj()
        self.waiting = b""

    def read(self, size: int) -> bytes:
        while not self.waiting:
            data = self.frame.unused_data if self.frame.eof else b""
            data = data or self.file.read(COMPRESSED_AT_ONCE)
            if not data and not self.frame.eof:
                raise EOFError("the file ends within a zstd frame")
            if not data:
                return b""
            if self.frame.eof:
                self.frame = self.decompressor.decompressobj()
            try:
                self.waiting = self.frame.decompress(data)
            except self.error as error:
                raise ValueError(str(error)) from error
        data = self.waiting[:size]
        self.waiting = self.waiting[size:]
        return data


def _window(file: BinaryIO) -> int:
    """What a file's first frame of zstd needs of its earlier output, in bytes, by its
    header (RFC 8878, section 3.1.1.1); 0 if it is none."""
    header = file.read(18)
    file.seek(0)
    if header[:4] != b"\x28\xb5\x2f\xfd" or len(header) < 6:
        return 0
    if not header[4] & 0x20:
        exponent, mantissa = divmod(header[5], 8)
        base = 1 << (10 + exponent)
        return base + base // 8 * mantissa
    # A single segment: its window is its content, whose size follows.
    start = 5 + (0, 1, 2, 4)[header[4] & 3]
    size = (1, 2, 4, 8)[header[4] >> 6]
    return int.from_bytes(header[start : start + size], "little")
