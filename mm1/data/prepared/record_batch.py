"""One record batch of a shard, read through memory views of its columns.

Arrow keeps a list as offsets into the values of all lists. Taking documents from there
costs a tenth of pyarrow's way to Python, which makes an object of each value on the
way.
"""

from array import array
from typing import Any

import numpy as np

from mm1.data.document import Document, Image, Text


class Records:
    """The documents of a record batch, numbered from 0."""

    def __init__(self, batch: Any) -> None:
        """`batch` is a `pyarrow.RecordBatch` as `mm1.data.prepared.shards` writes them:
        whole, without empty rows."""
        self.keys = _Chunks(batch.column("key"))
        self.parts = batch.column("texts").offsets.to_numpy()
        texts = batch.column("texts").values
        tokens = batch.column("tokens").values
        self.texts = _Chunks(texts)
        self.images = _Chunks(batch.column("images").values)
        self.is_text = _bits(texts.buffers()[0])
        self.token_ends = tokens.offsets.to_numpy()
        self.tokens = memoryview(tokens.values.to_numpy())
        self.loss, self.ends = (
            _bits(batch.column(name).values.buffers()[1]) for name in ("loss", "ends")
        )
        self.widths, self.heights = (
            batch.column(name).values.to_numpy() for name in ("widths", "heights")
        )

    def key(self, number: int) -> str:
        return str(self.keys[number], "utf-8")

    def document(self, number: int) -> Document:
        """Its texts carry their tokens."""
        first, last = self.parts[number : number + 2].tolist()
        return Document(tuple(self._part(place) for place in range(first, last)))

    def _part(self, place: int) -> Text | Image:
        if self.is_text is not None and not _bit(self.is_text, place):
            return Image(
                bytes(self.images[place]),
                int(self.widths[place]),
                int(self.heights[place]),
            )
        start, stop = self.token_ends[place : place + 2].tolist()
        tokens = array("i", self.tokens[start:stop].tobytes())
        return Text(
            str(self.texts[place], "utf-8"),
            _bit(self.loss, place),
            _bit(self.ends, place),
            tokens,
        )


class _Chunks:
    """The strings of a column of bytes or text."""

    def __init__(self, column: Any) -> None:
        _, offsets, data = column.buffers()
        self.offsets = np.frombuffer(offsets or b"\0\0\0\0", np.int32)
        self.data = memoryview(data or b"")

    def __getitem__(self, place: int) -> memoryview:
        start, stop = self.offsets[place : place + 2].tolist()
        return self.data[start:stop]


def _bits(buffer: Any) -> memoryview | None:
    """Eight truths a byte, the lowest bit first; None where Arrow left out that all are
    true."""
    return None if buffer is None else memoryview(buffer)


def _bit(bits: memoryview | None, place: int) -> bool:
    return bits is None or bool(bits[place >> 3] >> (place & 7) & 1)
