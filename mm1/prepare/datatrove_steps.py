"""The steps of a de-duplication, as steps of datatrove pipelines (`datatrove_stages`).

A step writes each file under another name and renames it, so a task that was killed
runs again.
"""

import pickle
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document as Item  # type: ignore[import-not-found]
from datatrove.pipeline.base import PipelineStep  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import MinhashDedupSignature  # type: ignore[import-not-found]
from jaxtyping import UInt32, UInt64
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from mm1.config import ConfigError
from mm1.files import atomic_path, write_json, write_jsonl
from mm1.prepare.convert import document_key
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_files import file_identity
from mm1.prepare.process_pool import Report
from mm1.prepare.sources import Unusable
from mm1.prepare.verdicts import verdict_path

BATCH = 4096
"""Rows of a batch of a table."""
WORK = "work.pickle"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all stages share."""

    scratch: Path
    preparation: Preparation.Config
    files: tuple[Path, ...]
    inputs: tuple[dict[str, Any], ...]
    """What each file was when the work began, by `file_identity`."""
    blocks: tuple[range, ...]
    """Numbers of the files that a task reads, consecutive from block to block."""

    def save(self) -> None:
        """For tasks in other processes to load."""
        with atomic_path(self.scratch / WORK) as temporary:
            temporary.write_bytes(pickle.dumps(self))

    @staticmethod
    def load(scratch: Path) -> "Work":
        return pickle.loads((scratch / WORK).read_bytes())

    def clusters(self, block: int) -> Path:
        """Of a block's documents in clusters: their places, and their clusters."""
        return self.scratch / "clusters" / f"{block:05}.npy"

    @property
    def largest_cluster(self) -> Path:
        """Where its number of documents is noted."""
        return self.scratch / "largest_cluster.json"

    def table(self, stage: str, task: int) -> Path:
        return self.scratch / stage / f"{task:05}.arrow"


class Step(PipelineStep):
    """A step of ours."""

    type = "mm1"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.work = work
        self.report: Report = _silent
        """Told of (records read, records dropped)."""


class Fingerprints(Step):
    """Reads a block of raw files as a preparation would, and writes the fingerprints of
    the documents that it would keep."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        schema = pa.schema(
            [
                ("file", pa.int32()),
                ("record", pa.int64()),
                *self.work.preparation.filters.duplicates.build().schema(),
            ]
        )
        drops: Counter[str] = Counter()
        with _table(self.work.table("fingerprints", rank), schema) as stream:
            rows: list[dict[str, Any]] = []
            for row in self._rows(self.work.blocks[rank], drops):
                rows.append(row)
                if len(rows) == BATCH:
                    stream.write(pa.RecordBatch.from_pylist(rows, schema))
                    rows = []
            stream.write(pa.RecordBatch.from_pylist(rows, schema))
        write_json(self.work.scratch / "unusable" / f"{rank:05}.json", drops)

    def _rows(
        self, numbers: range, drops: Counter[str]
    ) -> Iterator[dict[str, Any]]:
        """Counts in `drops`, by reason, the records that a preparation would drop."""
        preparation = self.work.preparation.build()
        duplicates = preparation.filters.duplicates
        read = 0
        for number in numbers:
            file = self.work.files[number]
            for place, record in enumerate(preparation.source.read(file)):
                read += 1
                self.report(read, drops.total())
                try:
                    document, _ = preparation.checked(record, file)
                except Unusable as why:
                    drops[why.reason] += 1
                    continue
                key = document_key(file, record.key)
                yield {
                    "file": number,
                    "record": place,
                    **duplicates.fingerprint(key, document),
                }
            if file_identity(file) != self.work.inputs[number]:
                raise ConfigError(
                    f"{file} changed while it was read: start again, in another folder,"
                    " when the file is complete"
                )


class BandKeys(Step):
    """Yields the keys of each document of a block."""

    def run(
        self, data: Any = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Item]:
        duplicates = self.work.preparation.filters.duplicates.build()
        with _reader(self.work.table("fingerprints", rank)) as reader:
            for batch in reader:
                for keys in duplicates.band_keys(batch):
                    # The text goes to `get_shingles`, and nowhere else.
                    yield Item(text=keys, id="")  # type: ignore[arg-type]


class Signatures(MinhashDedupSignature):
    """Writes the keys of `BandKeys` where datatrove would write its own signatures."""

    def get_shingles(self, text: Any) -> UInt32[np.ndarray, "bands 2"]:
        return text

    def get_signature(
        self, shingles: UInt32[np.ndarray, "bands 2"]
    ) -> list[list[int]]:
        return shingles.tolist()


class Clusters(Step):
    """Numbers the clusters of documents that pairs join, in one task.

    datatrove's own step keeps a dict of tuples, of some 200 bytes for each document of
    a cluster, and keeps no order; the same in arrays takes a tenth of it.
    """

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        paths = sorted((self.work.scratch / "buckets").glob("*.dups"))
        documents = np.empty(0, np.uint64)
        for path in paths:
            documents = np.union1d(documents, _pairs(path))
        labels = np.arange(len(documents))
        count = len(documents)
        for path in paths:
            ends = labels[np.searchsorted(documents, _pairs(path))]
            edges = np.ones(len(ends), bool)
            graph = coo_array((edges, tuple(ends.T)), shape=(count, count))
            count, joined = connected_components(graph, directed=False)
            labels = joined[labels]
        largest = int(np.bincount(labels).max(initial=0))
        write_json(self.work.largest_cluster, {"documents": largest})
        for block in range(len(self.work.blocks)):
            low, high = np.searchsorted(
                documents, np.array([block, block + 1], np.uint64) << 32
            )
            places = documents[low:high] & 0xFFFFFFFF
            found = np.stack([places, labels[low:high]]).astype(np.uint32)
            with (
                atomic_path(self.work.clusters(block)) as temporary,
                temporary.open("wb") as file,
            ):
                np.save(file, found)


def _pairs(path: Path) -> UInt64[np.ndarray, "pairs 2"]:
    """Pairs of documents, each as block << 32 | place in the block."""
    ends = np.fromfile(path, "<u4").reshape(-1, 2, 2).astype(np.uint64)
    return ends[..., 0] << 32 | ends[..., 1]


class Members(Step):
    """Writes the fingerprints of a block's documents that are in a cluster, by part."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        # In the order of documents.
        places, clusters = np.load(self.work.clusters(rank))
        parts = (clusters % world_size).astype(np.uint32)
        with _reader(self.work.table("fingerprints", rank)) as reader:
            schema = reader.schema
            taken = [schema.empty_table()]
            start = 0
            for batch in reader:
                end = start + len(batch)
                here = places[(places >= start) & (places < end)] - start
                taken.append(pa.Table.from_batches([batch.take(here)]))
                start = end
        table = pa.concat_tables(taken).append_column("part", pa.array(parts))
        # Stable: within a part, the documents stay in their order.
        table = table.take(np.argsort(parts, kind="stable"))
        with _table(self.work.table("members", rank), table.schema) as stream:
            stream.write_table(table, max_chunksize=BATCH)


class Comparison(Step):
    """Compares the documents of a part, in the order of files and records."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        tables = []
        for task in range(len(self.work.blocks)):
            with _reader(self.work.table("members", task)) as reader:
                table = reader.read_all()
            low, high = np.searchsorted(
                table.column("part").to_numpy(), [rank, rank + 1]
            )
            tables.append(table.slice(low, high - low))
        table = pa.concat_tables(tables)
        duplicates = self.work.preparation.filters.duplicates.build()
        (lost,) = duplicates.find_removals(
            [table], lambda count: None, images_required=False
        )
        numbers = sorted(lost.documents)
        removed = table.select(["file", "record", "key"]).take(
            np.array(numbers, np.int64)
        )
        for column, values in enumerate(("reason", "detail")):
            removed = removed.append_column(
                values,
                pa.array(
                    [lost.documents[n][column] for n in numbers], pa.string()
                ),
            )
        with _table(
            self.work.table("removals", rank), removed.schema
        ) as stream:
            stream.write_table(removed, max_chunksize=BATCH)


class Verdicts(Step):
    """Writes what each raw file of a block loses."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        block = self.work.blocks[rank]
        lost: dict[int, list[dict[str, Any]]] = {number: [] for number in block}
        for part in range(world_size):
            with _reader(self.work.table("removals", part)) as reader:
                table = reader.read_all()
            low, high = np.searchsorted(
                table.column("file").to_numpy(), [block.start, block.stop]
            )
            for row in table.slice(low, high - low).to_pylist():
                number = row.pop("file")
                prefix = document_key(self.work.files[number], "")
                row["key"] = row["key"].removeprefix(prefix)
                lost[number].append(row)
        for number, rows in lost.items():
            rows.sort(key=lambda row: row["record"])
            write_jsonl(verdict_path(self.work.scratch.parent, number), rows)
        with _reader(self.work.table("fingerprints", rank)) as reader:
            documents = sum(len(batch) for batch in reader)
        drops = Counter(row["reason"] for rows in lost.values() for row in rows)
        write_json(
            self.work.scratch / "counts" / f"{rank:05}.json",
            {"documents": documents, "drops": drops},
        )


def _silent(records: int, dropped: int) -> None:
    """Elsewhere than in our own processes nobody asks."""


@contextmanager
def _table(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """A table to write batch by batch, which is there when it is whole."""
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_stream(file, schema) as stream,
    ):
        yield stream


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    with (
        pa.memory_map(str(path)) as file,
        pa.ipc.open_stream(file) as reader,
    ):
        yield reader
