"""Prepared documents on disk: memory-mapped Arrow files, read in any order.

    <folder>/manifest.json      what was prepared from what, and the list of shards
             drops.jsonl        what was dropped, and why
             tokenizer.json     the tokenizer of the text
             train/00000-000.arrow ...     validation/00000-000.arrow ...

A shard is an Arrow stream as `datasets.Dataset.from_file` opens it. A document's parts
are parallel lists: text is null where the part is an image and vice versa. Images stay
encoded.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mm1.config import ConfigError, nearest
from mm1.data.document import Document, Image, Text
from mm1.data.prepared.memory_map import MappedFile
from mm1.data.prepared.record_batch import RecordBatchReader
from mm1.data.render import text_length
from mm1.files import path_within, read_object

FORMAT = 1
"""Changes whenever shards written before cannot be read any more."""

BATCH_BYTES = 32 << 20
SHARD_BYTES = 1 << 30


def _schema() -> Any:
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


class _HashingFile:
    """A new file that hashes what is written to it; its errors name it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self.closed = False
        self.hash = hashlib.sha256()
        self.file = path.open("wb", buffering=0)

    def write(self, data: Any) -> int:
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


class ShardWriter:
    """Writes the documents of one raw file and one split, in shards of about
    `SHARD_BYTES`.

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
            self.file = _HashingFile(self.folder / name)
            self.stream = pa.ipc.new_stream(
                pa.PythonFile(self.file, "w"), _schema()
            )
        self.stream.write_batch(
            pa.RecordBatch.from_pylist(self.rows, _schema())
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
        self.shards[-1] |= {
            "bytes": self.file.num_bytes,
            "sha256": self.file.hash.hexdigest(),
        }

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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest that `mm1 prepare` wrote to a finished folder.

    Raises:
        FileNotFoundError: there is no such folder, or it was not prepared, or not
            completely.
        ConfigError: another version of mm1 prepared it, or a shard lies elsewhere.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no prepared data at {folder}: the folder does not exist"
        )
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no prepared data at {folder}: it has no manifest.json; `mm1 prepare`"
            " makes one"
        )
    manifest = read_object(path, "prepare the data again")
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            f"{path} is not of format {FORMAT}, which this version reads; prepare the"
            " data again"
        )
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            path_within(folder, shard["file"], f"{path}: the shard")
    return manifest


def read_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """(key, document) of each document of a shard, in order; the key is its origin,
    "file#record"."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            reader = RecordBatchReader(batch)
            yield from (
                (reader.key(number), reader.document(number))
                for number in range(batch.num_rows)
            )


class Shards:
    """Random access to the documents of one split of a prepared folder, numbered from
    0."""

    def __init__(self, folder: Path, split: str = "train") -> None:
        """Raises ConfigError if the split is empty or its files do not match the
        manifest."""
        self.folder = folder
        self.split = split
        self.manifest = read_manifest(folder)
        splits = self.manifest["splits"]
        if split not in splits:
            raise ConfigError(
                f"{folder} has no split {split!r}{nearest(split, splits)}"
            )
        if not splits[split]["documents"]:
            raise ConfigError(
                f"{folder} has no documents in its split {split!r}"
            )
        self.dataset = self._open(splits[split]["shards"])

    def _open(self, shards: list[dict[str, Any]]) -> Any:
        from datasets import Dataset, concatenate_datasets

        for shard in shards:
            path = self.folder / shard["file"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                has = "is missing" if size is None else f"has {size:,} bytes"
                raise ConfigError(
                    f"{path} {has}; the manifest says {shard['bytes']:,} bytes: copy"
                    " the folder again"
                )
        self.files = [
            MappedFile(self.folder / shard["file"], shard.get("sha256"))
            for shard in shards
        ]
        self.ends = list(accumulate(shard["documents"] for shard in shards))
        dataset = concatenate_datasets(
            [
                Dataset.from_file(str(self.folder / shard["file"]))
                for shard in shards
            ]
        )
        batches = dataset.data.table.to_batches()
        self.batches = batches
        self.readers: list[RecordBatchReader | None] = [None] * len(batches)
        """One per record batch, made when it is first read."""
        self.batch_ends = list(accumulate(batch.num_rows for batch in batches))
        return dataset

    @staticmethod
    def has_split(folder: Path, split: str) -> bool:
        """Does the folder have documents in this split?"""
        return bool(
            read_manifest(folder)["splits"].get(split, {}).get("documents")
        )

    def check_tokenizer(self, fingerprint: str) -> None:
        """Raises ConfigError if the text was tokenised with a tokenizer of another
        fingerprint."""
        if self.manifest["tokenizer"] != fingerprint:
            raise ConfigError(
                f"{self.folder} was tokenised with {self.manifest['tokenizer']}, the"
                f" run has {fingerprint}: use {self.folder / 'tokenizer.json'}, or"
                " prepare the data again"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def document(self, number: int) -> Document:
        """A document; its texts carry their tokens."""
        return self.read(number)[1]

    def read(self, number: int) -> tuple[str, Document]:
        """(key, document).

        Raises:
            ConfigError: its shard has changed since it was opened.
        """
        self.files[bisect_right(self.ends, number)].check()
        b = bisect_right(self.batch_ends, number)
        reader = self.readers[b]
        if reader is None:
            reader = self.readers[b] = RecordBatchReader(self.batches[b])
        within = number - self.batch_ends[b] + self.batches[b].num_rows
        return reader.key(within), reader.document(within)

    def key(self, number: int) -> str:
        """A document's origin: "file#record"."""
        return self.dataset.data.column("key")[number].as_py()

    @cached_property
    def text_tokens(self) -> Int[np.ndarray, " documents"]:
        """Length of each rendered document without its image tokens; int32."""
        return self.dataset.data.column("num_text_tokens").to_numpy()

    @cached_property
    def image_offsets(self) -> Int[np.ndarray, " offsets"]:
        """The images of document i are those from `image_offsets[i]` to
        `image_offsets[i + 1]`; int64."""
        counts = self.dataset.data.column("num_images").to_numpy()
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @cached_property
    def image_widths(self) -> Int[np.ndarray, " images"]:
        """Pixels; int32."""
        return self._sizes("widths")

    @cached_property
    def image_heights(self) -> Int[np.ndarray, " images"]:
        """Pixels; int32."""
        return self._sizes("heights")

    def _sizes(self, column: str) -> Int[np.ndarray, " images"]:
        """Of images alone: texts are stored with size 0."""
        import pyarrow.compute as pc

        sizes = pc.list_flatten(self.dataset.data.column(column)).to_numpy()  # type: ignore[attr-defined]
        return sizes[sizes > 0]
