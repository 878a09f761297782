"""Reads documents from a record batch of a shard, through memory views of its columns.

Arrow stores a list column as offsets into the concatenated values. Slicing those
directly takes a tenth of the time of pyarrow's conversion, which makes a Python object
of each value.
"""

from array import array
from typing import Any

import numpy as np

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text


def shard_schema() -> Any:
    """The `pyarrow.Schema` of a shard."""
    import pyarrow as pa

    return pa.schema(
        {
            "key": pa.string(),  # "file#record"
            "texts": pa.list_(pa.string()),
            "tokens": pa.list_(pa.list_(pa.int32())),
            "loss": pa.list_(pa.bool_()),
            "ends": pa.list_(pa.bool_()),
            "images": pa.list_(pa.binary()),
            "widths": pa.list_(pa.int32()),
            "heights": pa.list_(pa.int32()),
            # of all texts, with the begin and end tokens that rendering adds
            "num_text_tokens": pa.int32(),
            "num_images": pa.int32(),
        }
    )


class RecordBatchReader:
    """The documents of a record batch, numbered from 0."""

    def __init__(self, batch: Any) -> None:
        """`batch` is a `pyarrow.RecordBatch` as a shard holds it:
        not sliced, without null rows."""
        texts = batch.column("texts")
        tokens = batch.column("tokens").values
        self.keys = _Strings(batch.column("key"))
        self.part_offsets = texts.offsets.to_numpy()
        self.texts = _Strings(texts.values)
        self.images = _Strings(batch.column("images").values)
        self.is_text = _bits(texts.values.buffers()[0])
        self.token_offsets = tokens.offsets.to_numpy()
        self.tokens = memoryview(tokens.values.to_numpy())
        self.loss = _bits(batch.column("loss").values.buffers()[1])
        self.ends = _bits(batch.column("ends").values.buffers()[1])
        self.widths = batch.column("widths").values.to_numpy()
        self.heights = batch.column("heights").values.to_numpy()

    def key(self, number: int) -> str:
        return str(self.keys[number], "utf-8")

    def document(self, number: int) -> Document:
        """The document; its texts carry their tokens."""
        first, last = self.part_offsets[number : number + 2].tolist()
        return Document(
            tuple(self._part(index) for index in range(first, last))
        )

    def _part(self, index: int) -> Text | Image:
        if self.is_text is not None and not _bit(self.is_text, index):
            return Image(
                bytes(self.images[index]),
                int(self.widths[index]),
                int(self.heights[index]),
            )
        start, stop = self.token_offsets[index : index + 2].tolist()
        tokens = array("i", self.tokens[start:stop].tobytes())
        return Text(
            str(self.texts[index], "utf-8"),
            _bit(self.loss, index),
            _bit(self.ends, index),
            tokens,
        )


class MappedShard:
    """A memory-mapped shard, unmapped when this and all views of it are gone. Opening
    one reads nothing."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa

        self.path = path
        # closing the file keeps the map, which its buffers hold
        with pa.memory_map(path) as file:
            self.content = file.read_buffer()
        self.readers: dict[int, RecordBatchReader] = {}

    def batch(self, offset: int) -> RecordBatchReader:
        """The record batch that begins at this byte.

        Raises:
            ConfigError: there is none.
        """
        if offset not in self.readers:
            import pyarrow as pa

            try:
                message = pa.ipc.read_message(self.content.slice(offset))
                batch = pa.ipc.read_record_batch(message, shard_schema())
            except (pa.ArrowInvalid, EOFError, OSError) as error:
                raise ConfigError(
                    f"{self.path} is damaged ({error}): copy the folder again"
                ) from error
            self.readers[offset] = RecordBatchReader(batch)
        return self.readers[offset]


class _Strings:
    """The values of a column of bytes or text."""

    def __init__(self, column: Any) -> None:
        _, offsets, data = column.buffers()
        self.offsets = np.frombuffer(offsets or b"\0\0\0\0", np.int32)
        self.data = memoryview(data or b"")

    def __getitem__(self, index: int) -> memoryview:
        start, stop = self.offsets[index : index + 2].tolist()
        return self.data[start:stop]


def _bits(buffer: Any) -> memoryview | None:
    """A bitmap, lowest bit first; None where Arrow omits it because all are true."""
    return None if buffer is None else memoryview(buffer)


def _bit(bits: memoryview | None, index: int) -> bool:
    return bits is None or bool(bits[index >> 3] >> (index & 7) & 1)
