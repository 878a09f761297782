"""Prepared documents on disk: memory-mapped Arrow files, read in any order.

    <folder>/manifest.json      what was prepared from what, and the list of shards
             drops.jsonl        what was dropped, and why
             tokenizer.json     the tokenizer of the text
             train/00000-000.arrow ...     validation/00000-000.arrow ...
             train/text_tokens.npy ...     lengths of all documents (`columns`)

A shard is an Arrow stream as `datasets.Dataset.from_file` opens it. A document's parts
are parallel lists: text is null where the part is an image and vice versa. Images stay
encoded.
"""

import shlex
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mm1.config import ConfigError, nearest
from mm1.data.document import Document
from mm1.data.prepared.columns import Columns
from mm1.data.prepared.memory_map import (
    CachedFile,
    fetch_ahead,
    mapped_files,
)
from mm1.data.prepared.record_batch import (
    MappedShard,
    RecordBatchReader,
)
from mm1.files import path_within, read_object
from mm1.storage.remote_path import RemotePath, as_path

FORMAT = 2
"""Changes whenever shards written before cannot be read any more."""
MAX_MAPPED = 256
"""Shards of a split that a process has mapped at a time. The kernel allows a process
65,530 maps in all."""


class NotPrepared(FileNotFoundError):
    """A folder is not there, or not one that has been prepared to its end."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest that `mm1 prepare` wrote to a finished folder.

    Raises:
        NotPrepared: there is no such folder, or it was not prepared, or not completely.
        ConfigError: another version of mm1 prepared it, or a shard lies elsewhere.
    """
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is no such folder"
        raise NotPrepared(f"no prepared data at {folder}: {what}")
    path = folder / "manifest.json"
    if not path.is_file():
        raise NotPrepared(
            f"no prepared data at {folder}: it has no manifest.json, which `mm1 prepare"
            f" SOURCE RAW_FILES --out {shlex.quote(str(folder))} --tokenizer PATH`"
            " writes at its end"
        )
    manifest = read_object(path, "prepare the data again")
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            f"{path} is not of format {FORMAT}, which this version reads; prepare the"
            " data again"
        )
    for split in manifest["splits"].values():
        for entry in (*split["shards"], *split["columns"].values()):
            path_within(folder, entry["file"], f"{path}: the shard")
    return manifest


def prepared_folder(name: str) -> str:
    """The name of a prepared folder, once it is known to be one: where it is not there,
    what is to be made is not a tokenizer.

    Raises:
        NotPrepared: as `read_manifest`.
    """
    read_manifest(as_path(name))
    return name


def read_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """(key, document) of each document of a shard, in order; the key is its origin,
    "file#record"."""
    import pyarrow as pa

    opened: Any = (
        path.open("rb")
        if isinstance(path, RemotePath)
        else pa.memory_map(str(path))
    )
    with opened as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            reader = RecordBatchReader(batch)
            yield from (
                (reader.key(number), reader.document(number))
                for number in range(batch.num_rows)
            )


class Shards:
    """Random access to the documents of one split of a prepared folder, numbered from
    0."""

    def __init__(
        self, folder: Path, split: str = "train", *, prefetch: bool = False
    ) -> None:
        """`prefetch`: all documents will be read, so files at an object store are
        fetched before they are asked for.

        Raises:
            ConfigError: the split is empty or its files do not match the manifest.
        """
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
        entry = splits[split]
        self.num_documents: int = entry["documents"]
        self.columns = Columns(folder, entry["columns"])
        self.files = mapped_files(folder, entry["shards"])
        self.prefetch = prefetch
        self.mapped: OrderedDict[int, MappedShard] = OrderedDict()
        """By number, the one that was read last at the end."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mapped": OrderedDict()}

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
        return self.num_documents

    def document(self, number: int) -> Document:
        """A document; its texts carry their tokens."""
        return self.read(number)[1]

    def key(self, number: int) -> str:
        """A document's origin: "file#record"."""
        return self.read(number)[0]

    def read(self, number: int) -> tuple[str, Document]:
        """(key, document).

        Raises:
            ConfigError: its shard has changed since the folder was opened.
        """
        ends, shards, offsets = self.columns["batches"]
        batch = ends.searchsorted(number, side="right")
        first = int(ends[batch - 1]) if batch else 0
        reader = self._shard(int(shards[batch])).batch(int(offsets[batch]))
        return reader.key(number - first), reader.document(number - first)

    def _shard(self, number: int) -> MappedShard:
        file = self.files[number]
        shard = self.mapped.get(number)
        file.check(mapped=shard is not None)
        if shard is None:
            # documents that were read stay valid: they are copies
            if len(self.mapped) >= MAX_MAPPED:
                self.mapped.popitem(last=False)
            if isinstance(file, CachedFile):
                self._before_fetching()
            shard = self.mapped[number] = file.map(MappedShard)
        self.mapped.move_to_end(number)
        return shard

    def _before_fetching(self) -> None:
        """Unmaps what has left the cache, whose room is free only then; the first time,
        also begins to fetch ahead."""
        if self.prefetch:
            fetch_ahead([f for f in self.files if isinstance(f, CachedFile)])
            self.prefetch = False
        for number in [*self.mapped]:
            file = self.files[number]
            if isinstance(file, CachedFile) and not file.object.is_cached():
                del self.mapped[number]

    @property
    def text_tokens(self) -> Int[np.ndarray, " documents"]:
        """Length of each rendered document without its image tokens; int32."""
        return self.columns["text_tokens"]

    @property
    def image_offsets(self) -> Int[np.ndarray, " offsets"]:
        """The images of document i are those from `image_offsets[i]` to
        `image_offsets[i + 1]`; int64."""
        return self.columns["image_offsets"]

    @property
    def image_sizes(self) -> Int[np.ndarray, "images 2"]:
        """Width and height in pixels; int32."""
        return self.columns["image_sizes"]

    def totals(self) -> tuple[int, int, int]:
        """Documents, text tokens and images, from the manifest."""
        entry = self.manifest["splits"][self.split]
        return entry["documents"], entry["tokens"], entry["images"]
