"""Writes shards: documents as record batches of Arrow streams."""

from pathlib import Path
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.data.prepared.columns import ShardArrays, write_shard_arrays
from mm1.data.prepared.hashing_file import HashingFile
from mm1.data.prepared.record_batch import shard_schema
from mm1.data.render import text_length

BATCH_BYTES = 32 << 20
SHARD_BYTES = 1 << 30


def _row(key: str, document: Document, begin: bool) -> dict[str, Any]:
    """A document as a row of the schema; its texts must carry their tokens."""
    texts = [
        part if isinstance(part, Text) else None for part in document.parts
    ]
    images = [
        part if isinstance(part, Image) else None for part in document.parts
    ]
    counts = [len(text.tokens or ()) for text in texts if text]
    return {
        "key": key,
        "texts": [text and text.content for text in texts],
        "tokens": [text and list(text.tokens or ()) for text in texts],
        "loss": [text is not None and text.loss for text in texts],
        "ends": [text is not None and text.end for text in texts],
        "images": [image and image.data for image in images],
        "widths": [image.width if image else 0 for image in images],
        "heights": [image.height if image else 0 for image in images],
        "num_text_tokens": text_length(document, counts, begin=begin),
        "num_images": len(document.images),
    }


class ShardWriter:
    """Writes the documents of one raw file and one split, in shards of about
    `SHARD_BYTES`, and what each adds to the columns of its split.

    Files are created when there is something to write: no documents, no file.
    """

    def __init__(
        self, folder: Path, split: str, number: int, *, begin: bool = False
    ) -> None:
        """`begin`: does the tokenizer have a begin token?"""
        self.folder = folder
        self.split = split
        self.number = number
        self.begin = begin
        self.shards: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.num_bytes = 0
        self.stream: Any = None

    def add(self, key: str, document: Document) -> dict[str, Any]:
        """Adds a tokenised document; returns its row."""
        row = _row(key, document, self.begin)
        self.rows.append(row)
        self.num_bytes += sum(
            len(p.data) if isinstance(p, Image) else 9 * len(p.content)
            for p in document.parts
        )
        if self.num_bytes >= BATCH_BYTES:
            self._write()
        return row

    def _write(self) -> None:
        import pyarrow as pa

        if self.stream is None:
            name = f"{self.split}/{self.number:05}-{len(self.shards):03}.arrow"
            (self.folder / self.split).mkdir(parents=True, exist_ok=True)
            self.shards.append(
                {
                    "file": name,
                    "documents": 0,
                    "tokens": 0,
                    "images": 0,
                    "bytes": 0,
                }
            )
            self.file = HashingFile(self.folder / name)
            self.arrays = ShardArrays()
            self.stream = pa.ipc.new_stream(
                pa.PythonFile(self.file, "w"), shard_schema()
            )
        # the first batch is preceded by the schema, written together with it
        offset = self.file.num_bytes or len(shard_schema().serialize())
        self.arrays.add_batch(self.rows, offset)
        self.stream.write_batch(
            pa.RecordBatch.from_pylist(self.rows, shard_schema())
        )
        shard = self.shards[-1]
        shard["documents"] += len(self.rows)
        shard["tokens"] += sum(row["num_text_tokens"] for row in self.rows)
        shard["images"] += sum(row["num_images"] for row in self.rows)
        shard["bytes"] += self.num_bytes
        self.rows = []
        self.num_bytes = 0
        if shard["bytes"] >= SHARD_BYTES:
            self._finish()

    def _finish(self) -> None:
        self.stream.close()
        self.file.close()
        self.stream = None
        self.shards[-1] |= self.file.facts()
        write_shard_arrays(
            self.folder, self.shards[-1]["file"], self.arrays.columns()
        )

    def close(self) -> list[dict[str, Any]]:
        """Writes what is left; returns the shards' entries for the manifest."""
        if self.rows:
            self._write()
        if self.stream is not None:
            self._finish()
        return self.shards

    def abandon(self) -> None:
        """Closes the open file without finishing it."""
        if self.stream is not None:
            self.file.close()
