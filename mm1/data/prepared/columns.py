"""What planning must know of all documents of a split, as columns on disk.

    train/text_tokens.npy     int32 [documents]: lengths without image tokens
          image_offsets.npy   int64 [documents + 1]: the images of document i are those
                              from image_offsets[i] to image_offsets[i + 1]
          image_sizes.npy     int32 [images, 2]: width and height in pixels
          batches.npy         int64 [3, record batches]: documents up to its end,
                              number of its shard, byte offset in the shard

They are mapped, not read: processes of a machine share the pages that they touch, and
the system drops these when it needs to. A preparation writes the arrays of each shard
aside (`write_shard_arrays`) and joins those of all shards at its end (`join_columns`).
"""

import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mm1.config import ConfigError
from mm1.data.prepared.hashing_file import HashingFile
from mm1.data.prepared.memory_map import mapped_files
from mm1.files import atomic_path

SCRATCH = "scratch"
"""Subfolder for what is needed only while a folder is incomplete."""
COLUMNS = {
    "text_tokens": np.dtype("<i4"),
    "image_offsets": np.dtype("<i8"),
    "image_sizes": np.dtype("<i4"),
    "batches": np.dtype("<i8"),
}


class Columns:
    """The columns of one split, mapped when first used. A pickle holds no data."""

    def __init__(
        self, folder: Path, entries: dict[str, dict[str, Any]]
    ) -> None:
        """`entries` are the manifest's.

        Raises:
            ConfigError: a file is missing, or its size is not that of the manifest.
        """
        files = mapped_files(folder, [entries[name] for name in COLUMNS])
        self.files = dict(zip(COLUMNS, files, strict=True))
        self.mapped: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mapped": {}}

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises ConfigError if the file has changed since the folder was opened."""
        file = self.files[name]
        file.check(mapped=name in self.mapped)
        if name not in self.mapped:
            try:
                column = file.map(lambda path: np.load(path, mmap_mode="r"))
            except ValueError as error:
                raise ConfigError(
                    f"{file.path} is damaged ({error}): copy the folder again"
                ) from error
            # the view is faster to index than a memmap
            self.mapped[name] = column.view(np.ndarray)
        return self.mapped[name]


def write_shard_arrays(
    folder: Path, shard: str, arrays: dict[str, np.ndarray]
) -> None:
    """Writes what a shard adds to the columns into the scratch folder."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    path = _arrays_path(folder, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = HashingFile(path)
    try:
        file.write(content.getbuffer())
    finally:
        file.close()


class ShardArrays:
    """What one shard adds to the columns, in order."""

    def __init__(self) -> None:
        # arrays, since a list of numbers takes nine times the memory
        self.text_tokens = array("i")
        self.num_images = array("i")
        self.image_sizes = array("i")
        self.batches: list[tuple[int, int]] = []
        """Documents and byte offset of each record batch."""

    def add_batch(self, rows: Sequence[dict[str, Any]], offset: int) -> None:
        """The rows of a record batch that begins at byte `offset` of the shard."""
        self.batches.append((len(rows), offset))
        for row in rows:
            self.text_tokens.append(row["num_text_tokens"])
            self.num_images.append(row["num_images"])
            for image, *size in zip(
                row["images"], row["widths"], row["heights"], strict=True
            ):
                if image is not None:
                    self.image_sizes.extend(size)

    def columns(self) -> dict[str, np.ndarray]:
        """By name, as `join_columns` reads them."""
        return {
            "text_tokens": np.array(self.text_tokens, "<i4"),
            "num_images": np.array(self.num_images, "<i4"),
            "image_sizes": np.array(self.image_sizes, "<i4").reshape(-1, 2),
            "batches": np.array(self.batches, "<i8").reshape(-1, 2),
        }


def join_columns(
    folder: Path, split: str, shards: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Writes a split's columns from the arrays of its shards; returns the columns'
    entries for the manifest.

    It holds the arrays of one shard at a time.
    """
    documents = sum(shard["documents"] for shard in shards)
    images = sum(shard["images"] for shard in shards)

    def each(name: str) -> Iterator[np.ndarray]:
        for shard in shards:
            with np.load(_arrays_path(folder, shard["file"])) as arrays:
                yield arrays[name]

    batches = _batches(each("batches"))
    blocks: dict[str, tuple[tuple[int, ...], Iterable[np.ndarray]]] = {
        "text_tokens": ((documents,), each("text_tokens")),
        "image_offsets": ((documents + 1,), _offsets(each("num_images"))),
        "image_sizes": ((images, 2), each("image_sizes")),
        "batches": (batches.shape, [batches]),
    }
    return {
        name: _write_column(folder, f"{split}/{name}.npy", dtype, *blocks[name])
        for name, dtype in COLUMNS.items()
    }


def _arrays_path(folder: Path, shard: str) -> Path:
    return folder / SCRATCH / "columns" / f"{shard}.npz"


def _offsets(counts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    last = 0
    yield np.zeros(1, np.int64)
    for each in counts:
        offsets = last + np.cumsum(each, dtype=np.int64)
        last = int(offsets[-1]) if len(offsets) else last
        yield offsets


def _batches(of_shards: Iterable[np.ndarray]) -> Int[np.ndarray, "3 batches"]:
    counts = [np.zeros(0, np.int64)]
    shards = [np.zeros(0, np.int64)]
    offsets = [np.zeros(0, np.int64)]
    for number, each in enumerate(of_shards):
        counts.append(each[:, 0])
        offsets.append(each[:, 1])
        shards.append(np.full(len(each), number))
    return np.stack(
        [
            np.cumsum(np.concatenate(counts)),
            np.concatenate(shards),
            np.concatenate(offsets),
        ]
    )


def _write_column(
    folder: Path,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    blocks: Iterable[np.ndarray],
) -> dict[str, Any]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype.str, "fortran_order": False, "shape": shape}
    )
    with atomic_path(folder / name) as path:
        file = HashingFile(path)
        try:
            file.write(header.getbuffer())
            for block in blocks:
                file.write(block.astype(dtype).tobytes())
        finally:
            file.close()
    return {"file": name} | file.facts()
