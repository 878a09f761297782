"""What does a large prepared folder cost each process that trains on it? Memory per
document, time to open it, time to plan; and the same with many shards.

    python benchmarks/feed.py [--documents 1000000 10000000] [--shards 10000]

The folders are made up: columns of captions and pages (1.5 images a document), and
shards that hold no documents, since planning reads none.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mm1.data.image_processing import ImageProcessor
from mm1.data.prepared import shards
from mm1.data.prepared.lengths import DocumentLengths
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.loader.mixture import Mixture

FINGERPRINT = "0123456789abcdef"
TOKENS_PER_IMAGE = 144


class NoTokenizer:
    fingerprint = FINGERPRINT
    begin = None


def write_folder(folder: Path, documents: int, num_shards: int) -> None:
    """A folder of made-up columns and empty shards."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    images = rng.integers(1, 3, documents)
    columns = {
        "text_tokens": rng.integers(10, 1000, documents).astype(np.int32),
        "image_offsets": np.concatenate([[0], np.cumsum(images)]),
        "image_sizes": rng.integers(
            64, 1024, (int(images.sum()), 2), dtype=np.int32
        ),
        "batches": np.array([[documents], [0], [0]]),
    }
    entries = {}
    for name, column in columns.items():
        path = folder / "train" / f"{name}.npy"
        np.save(path, column)
        entries[name] = _entry(folder, path)
    listed = []
    for number in range(num_shards):
        path = folder / "train" / f"{number:05}-000.arrow"
        path.write_bytes(b"")
        listed.append(
            {"documents": 0, "tokens": 0, "images": 0} | _entry(folder, path)
        )
    split = {
        "documents": documents,
        "tokens": int(columns["text_tokens"].sum()),
        "images": int(images.sum()),
        "shards": listed,
        "columns": entries,
    }
    manifest = {
        "format": shards.FORMAT,
        "tokenizer": FINGERPRINT,
        "splits": {"train": split},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    return {"file": name, "bytes": path.stat().st_size, "sha256": "0" * 64}


def memory() -> dict[str, int]:
    """Bytes of this process: private (anonymous) and all, mapped files included."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines}
    names = {"private": "Anonymous", "mapped": "Rss"}
    return {name: 1024 * int(kilobytes[key]) for name, key in names.items()}


def measure(folder: str, max_tiles: int, windows: int, results: Any) -> None:
    """Opens the folder, plans some windows and reports what that took."""
    processor = ImageProcessor((336, 336), max_tiles=max_tiles)
    renderer = Renderer(NoTokenizer(), processor, TOKENS_PER_IMAGE)  # type: ignore[arg-type]
    before = memory()
    started = time.perf_counter()
    source = DocumentLengths(folder, renderer)
    source.describe()
    opened = time.perf_counter()
    mixture = Mixture(
        {"data": source},
        {"data": 1.0},
        sequence_length=4096,
        max_images=16,
        packing_window=512,
        seed=os.getpid(),
    )
    state = mixture.start()
    for _ in range(windows):
        state = mixture.window(state).after
    planned = time.perf_counter()
    after = memory()
    results.put(
        {
            "open": opened - started,
            "window": (planned - opened) / windows,
            "private": after["private"] - before["private"],
            "mapped": after["mapped"] - before["mapped"],
        }
    )


def run(folder: Path, documents: int, processes: int, max_tiles: int) -> None:
    """One line of the table; the worst of the processes."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    arguments = (str(folder), max_tiles, 4, results)
    children = [
        context.Process(target=measure, args=arguments)
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    rows = [results.get() for _ in children]
    for child in children:
        child.join()
    worst = {key: max(row[key] for row in rows) for key in rows[0]}
    print(
        f"| {documents:,} | {processes} | {max_tiles} |"
        f" {worst['private'] / 1e6:.1f} MB |"
        f" {worst['private'] / documents:.2f} B |"
        f" {worst['open']:.3f} s | {worst['window']:.3f} s |"
    )


def open_many(folder: Path, num_shards: int) -> None:
    """How long it takes to open a folder of many shards."""
    write_folder(folder, 1000, num_shards)
    before = memory()
    started = time.perf_counter()
    opened = Shards(folder)
    seconds = time.perf_counter() - started
    private = memory()["private"] - before["private"]
    print(
        f"\n{num_shards:,} shards: opened in {seconds:.3f} s,"
        f" {private / 1e6:.1f} MB private, {len(opened.mapped)} mapped"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of a feed.")
    parser.add_argument(
        "--documents", type=int, nargs="+", default=[1_000_000, 10_000_000]
    )
    parser.add_argument("--shards", type=int, default=10_000)
    options = parser.parse_args()
    print(
        "| documents | processes | max_tiles | private, each | a document |"
        " to open | a window of 512 |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for documents in options.documents:
            folder = Path(temporary, str(documents))
            write_folder(folder, documents, 1)
            for processes in (1, 4):
                for max_tiles in (1, 4):
                    run(folder, documents, processes, max_tiles)
        open_many(Path(temporary, "shards"), options.shards)


if __name__ == "__main__":
    main()
