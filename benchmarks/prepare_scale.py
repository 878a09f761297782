"""Seconds of one core and memory for each record, at several numbers of records:
preparing texts and captions, and de-duplication in one process and in stages.

    python benchmarks/prepare_scale.py text captions --records 1e4 1e5
    python benchmarks/prepare_scale.py exact near stages --records 1e5 1e6
    python benchmarks/prepare_scale.py copies relatives --records 1e4 3e4

Records are synthetic, so that any number of them can be had: texts of 100 words,
captions of 96 x 72 pixels. `exact`, `near` and `stages` compare random fingerprints, of
which one in ten copies the content and one in five the hashes of an earlier document;
what it costs to take fingerprints is `fingerprints`. In `copies` and `relatives` all
documents are in one cluster, of copies or of none (similarity 0.95 and 0.7 where 0.8
makes a copy); the latter takes the square of its size. Each line is a process of its
own. Processor time is measured, which depends less than a clock on what else runs.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mm1.data.tokenizer import train_tokenizer
from mm1.overrides import default_config
from mm1.prepare.convert import document_key
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source

GOAL = 2_000_000_000
WORDS = 100
RECORDS_IN_FILE = 10_000
RECORDS_IN_BLOCK = 100_000
Cost = tuple[str, float, float]
"""What, seconds of a core, peak of memory above the start in bytes."""


def reset_peak() -> float:
    """Bytes resident now; the peak is counted anew from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * float(line.split()[1])


def measure(what: str, call: Callable[[], object]) -> Cost:
    before = reset_peak()
    start = time.process_time()
    call()
    return what, time.process_time() - start, resident("VmHWM") - before


def config_of(source: str, duplicates: Duplicates.Config) -> Preparation.Config:
    return Preparation.Config(
        source=default_config(Source, source),
        filters=Filters.Config(duplicates=duplicates),
    )


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(f"word{draw.randrange(20_000)}" for _ in range(words))


def write_texts(folder: Path, records: int) -> None:
    draw = random.Random(0)
    for first in range(0, records, RECORDS_IN_FILE):
        with (folder / f"{first:010}.jsonl").open("w") as file:
            for _ in range(min(RECORDS_IN_FILE, records - first)):
                file.write(json.dumps({"text": sentence(draw, WORDS)}) + "\n")


def write_captions(folder: Path, records: int) -> None:
    draw = random.Random(0)
    noise = np.random.default_rng(0)
    images = []
    for _ in range(100):
        coarse = noise.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((96, 72)).save(buffer, "JPEG")
        images.append(buffer.getvalue())
    for first in range(0, records, RECORDS_IN_FILE):
        with tarfile.open(folder / f"{first:010}.tar", "w") as tar:
            for n in range(first, min(first + RECORDS_IN_FILE, records)):
                for name, data in (
                    (f"{n:010}.jpg", images[n % 100]),
                    (f"{n:010}.txt", sentence(draw, 10).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def prepare_records(source: str, records: int, folder: Path) -> list[Cost]:
    (raw := folder / "raw").mkdir()
    (write_texts if source == "text" else write_captions)(raw, records)
    words = [sentence(random.Random(1), 1000)]
    train_tokenizer(words, folder / "tokenizer.json", vocab_size=2000)

    def run() -> None:
        prepare(source, [raw], folder / "out", folder / "tokenizer.json")

    return [measure(f"prepare {source}", run)]


def take_fingerprints(records: int, folder: Path) -> list[Cost]:
    (raw := folder / "raw").mkdir()
    write_texts(raw, records)
    costs = []
    for what, duplicates in (
        ("fingerprints, exact", Duplicates.Config(exact=True)),
        (
            "fingerprints, exact and near",
            Duplicates.Config(exact=True, near=0.8),
        ),
    ):
        scratch = folder / what
        costs.append(
            measure(
                what, lambda s=scratch, d=duplicates: first_stage(raw, s, d)
            )
        )
    return costs


def first_stage(
    raw: Path, scratch: Path, duplicates: Duplicates.Config
) -> None:
    from mm1.prepare.datatrove_stages import run_pipeline, stages
    from mm1.prepare.datatrove_steps import Work
    from mm1.prepare.process_files import file_identity

    files = sorted(raw.iterdir())
    work = Work(
        scratch=scratch,
        preparation=config_of("text", duplicates),
        files=tuple(files),
        inputs=tuple(file_identity(file) for file in files),
        blocks=tuple(range(n, n + 1) for n in range(len(files))),
    )
    for task in range(len(files)):
        run_pipeline(stages(work)[0], task, lambda *_: None)


def fingerprints(
    records: int, duplicates: Duplicates, first: int, known: np.ndarray
) -> pa.Table:
    """Those of documents from `first` on; copies are of `known` signatures."""
    rng = np.random.default_rng(first)
    schema = duplicates.schema()
    numbers = np.arange(first, first + records, dtype=np.uint64)
    copies = rng.random(records) < 0.1
    numbers[copies] = rng.integers(0, first + 1, copies.sum(), np.uint64)
    hashes = numbers * np.uint64(0x9E3779B97F4A7C15)
    columns: dict[str, Any] = {
        "key": [
            document_key(Path("file.jsonl"), str(n)) for n in range(records)
        ],
        "document": hashes,
        "images": pa.array([[]] * records, schema.field("images").type),
        "signature": pa.nulls(records),
    }
    if duplicates.config.near is not None:
        size = duplicates.config.near_hashes
        values = rng.integers(0, 2**32, (records, size), dtype=np.uint32)
        near = rng.random(records) < 0.2
        changed = rng.random((records, size)) < 0.05
        source = known[rng.integers(0, len(known), records)]
        values = np.where(near[:, None] & ~changed, source, values)
        columns["signature"] = pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), size
        )
    return pa.table(columns, schema=schema)


def blocks_of_fingerprints(
    records: int, config: Duplicates.Config
) -> tuple[Duplicates, Any]:
    duplicates = config.build()
    known = np.random.default_rng(7).integers(
        0, 2**32, (20_000, config.near_hashes), dtype=np.uint32
    )
    tables = (
        fingerprints(
            min(RECORDS_IN_BLOCK, records - first), duplicates, first, known
        )
        for first in range(0, records, RECORDS_IN_BLOCK)
    )
    return duplicates, tables


def compare(what: str, records: int, folder: Path) -> list[Cost]:
    """The comparison in one process; fingerprints are mapped, as `prepare` does."""
    config = Duplicates.Config(
        exact=what == "exact", near=0.8 if what == "near" else None
    )
    duplicates, tables = blocks_of_fingerprints(records, config)
    paths = []
    for number, table in enumerate(tables):
        paths.append(folder / f"{number}.arrow")
        with pa.ipc.new_stream(str(paths[-1]), table.schema) as stream:
            stream.write_table(table)
    del table

    def run() -> None:
        mapped = [
            pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            for path in paths
        ]
        duplicates.find_removals(mapped, lambda _: None, images_required=False)

    return [measure(f"compare {what}", run)]


def in_stages(records: int, folder: Path) -> list[Cost]:
    from mm1.prepare.datatrove_stages import run_pipeline, stages
    from mm1.prepare.datatrove_steps import Work

    config = Duplicates.Config(exact=True, near=0.8)
    _, tables = blocks_of_fingerprints(records, config)
    scratch = folder / "verdicts" / "scratch"
    (scratch / "fingerprints").mkdir(parents=True)
    count = 0
    for number, table in enumerate(tables):
        count += 1
        table = table.add_column(
            0, "file", pa.array(np.full(len(table), number, np.int32))
        ).add_column(1, "record", pa.array(np.arange(len(table))))
        path = scratch / "fingerprints" / f"{number:05}.arrow"
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table, max_chunksize=4096)
    work = Work(
        scratch=scratch,
        preparation=config_of("text", config),
        files=(Path("file.jsonl"),) * count,
        inputs=({"bytes": 1},) * count,
        blocks=tuple(range(n, n + 1) for n in range(count)),
    )
    costs = []
    for stage in stages(work)[1:]:

        def run(stage: Any = stage) -> None:
            for task in range(stage.tasks):
                run_pipeline(stage, task, lambda *_: None)

        costs.append(measure(f"stages: {stage.name}", run))
    total = sum(seconds for _, seconds, _ in costs)
    size = sum(
        path.stat().st_size for path in scratch.rglob("*") if path.is_file()
    )
    print(f"{records:,} records: {size / records:,.0f} bytes of scratch each")
    return [*costs, ("stages: sum", total, max(cost[2] for cost in costs))]


def cluster(similarity: float) -> Callable[[int, Path], list[Cost]]:
    """All documents in one cluster, any two of them of about this similarity."""

    def run(records: int, folder: Path) -> list[Cost]:
        duplicates = Duplicates.Config(near=0.8).build()
        rng = np.random.default_rng(0)
        shape = (records, duplicates.config.near_hashes)
        values = rng.integers(0, 2**32, shape, dtype=np.uint32)
        same = rng.random(shape, np.float32) < similarity**0.5
        first = rng.integers(0, 2**32, shape[1], dtype=np.uint32)
        values = np.where(same, first, values)
        schema = duplicates.schema()
        columns = {
            "key": [f"file#{n}" for n in range(records)],
            "document": np.zeros(records, np.uint64),
            "images": pa.array([[]] * records, schema.field("images").type),
            "signature": pa.FixedSizeListArray.from_arrays(
                pa.array(values.reshape(-1)), shape[1]
            ),
        }
        table = pa.table(columns, schema=schema)
        del values, same

        def find() -> None:
            duplicates.find_removals(
                [table], lambda _: None, images_required=False
            )

        return [measure(f"one cluster, similarity {similarity}", find)]

    return run


CASES: dict[str, Callable[[int, Path], list[Cost]]] = {
    "text": lambda n, folder: prepare_records("text", n, folder),
    "captions": lambda n, folder: prepare_records("captions", n, folder),
    "fingerprints": take_fingerprints,
    "exact": lambda n, folder: compare("exact", n, folder),
    "near": lambda n, folder: compare("near", n, folder),
    "stages": in_stages,
    "copies": cluster(0.95),
    "relatives": cluster(0.7),
}


def show(
    sizes: Sequence[int], costs: Sequence[list[Cost]], *, is_linear: bool
) -> None:
    """A line for each size, and what two sizes say of 2 billion where costs are linear:
    y(N) = y2 + (N - n2) (y2 - y1) / (n2 - n1)."""
    for lines in zip(*costs, strict=True):
        for size, (what, seconds, peak) in zip(sizes, lines, strict=True):
            print(
                f"| {what} | {size:,} | {seconds:,.1f} | {size / seconds:,.0f} |"
                f" {1e6 * seconds / size:,.1f} | {peak / 1e6:,.0f} |"
                f" {peak / size:,.0f} |"
            )
        if is_linear and len(lines) > 1:
            (n1, n2), (first, second) = sizes[-2:], lines[-2:]
            hours, peak = (
                second[k] + (GOAL - n2) * (second[k] - first[k]) / (n2 - n1)
                for k in (1, 2)
            )
            print(
                f"| {first[0]}: extrapolated | {GOAL:,} | {hours:,.0f} | | |"
                f" {peak / 1e6:,.0f} | |   {hours / 3600:,.0f} core hours"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=CASES)
    parser.add_argument("--records", type=float, nargs="+", default=[1e4, 1e5])
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.records]
    if arguments.result:
        with tempfile.TemporaryDirectory() as temporary:
            costs = CASES[arguments.what[0]](sizes[0], Path(temporary))
        arguments.result.write_text(json.dumps(costs))
        return
    print(
        "| what | records | core s | records/s | us each | peak MB | bytes each |"
    )
    print("|---|---|---|---|---|---|---|")
    for what in arguments.what:
        costs = []
        for size in sizes:
            with tempfile.NamedTemporaryFile() as result:
                words = [what, "--records", str(size), "--result", result.name]
                subprocess.run([sys.executable, __file__, *words], check=True)
                costs.append(json.loads(Path(result.name).read_text()))
        show(sizes, costs, is_linear=what != "relatives")


if __name__ == "__main__":
    main()
