"""Documents a second of preparing captions with 1, 2 ... processes, alternating in one
run, and whether the bytes are equal.

    python benchmarks/prepare.py --workers 1 2

Eight tars of 150 pairs of 384 x 288 pixels are generated first; decoding their JPEGs
is nearly all of the work.
"""

import argparse
import hashlib
import io
import shutil
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.pipeline import prepare

TARS = 8
PAIRS = 150


def jpeg(seed: int) -> bytes:
    """Smoothed coarse noise, about as large as a photograph: some 30 kB."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (36, 48, 3), dtype=np.uint8
    )
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((384, 288), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()


def write_tars(folder: Path) -> None:
    folder.mkdir()
    for number in range(TARS):
        with tarfile.open(folder / f"{number:02}.tar", "w") as tar:
            for sample in range(PAIRS):
                key = PAIRS * number + sample
                for name, data in (
                    (f"{key}.jpg", jpeg(key)),
                    (f"{key}.txt", f"picture number {key}".encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def content(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in files)
    ).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tars(folder / "raw")
        train_tokenizer(
            ["picture number 0 1 2 3 4 5 6 7 8 9"],
            folder / "tokenizer.json",
            vocab_size=300,
        )
        seconds: dict[int, list[float]] = {
            workers: [] for workers in arguments.workers
        }
        contents = set()
        # The first round starts the server of processes and is left out.
        for _ in range(arguments.rounds + 1):
            for workers in arguments.workers:
                start = time.perf_counter()
                prepare(
                    "captions",
                    [folder / "raw"],
                    folder / "out",
                    folder / "tokenizer.json",
                    workers=workers,
                )
                seconds[workers].append(time.perf_counter() - start)
                contents.add(content(folder / "out"))
                shutil.rmtree(folder / "out")
        for workers, taken in seconds.items():
            rate = TARS * PAIRS / statistics.median(taken[1:])
            spread = ", ".join(
                f"{TARS * PAIRS / each:,.0f}"
                for each in sorted(taken[1:], reverse=True)
            )
            print(
                f"{workers} processes: {rate:,.0f} documents/s (rounds: {spread})"
            )
        print("equal bytes" if len(contents) == 1 else "DIFFERENT BYTES")


if __name__ == "__main__":
    main()
