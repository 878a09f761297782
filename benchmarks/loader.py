"""Does the loader keep up with its pictures? Loops that decode and resize, and do
nothing else, against the whole loader.

    python benchmarks/loader.py captions=data/captions interleaved=data/pages
    text=data/text [--workers 2] [--steps 12]

The folders are prepared ones. Loader: the workers read the shards, render, decode,
resize and lay out rows, and hand them to the training process, which does nothing with
them. The loops decode and resize the very pictures of these steps, from memory, in as
many processes as there are workers; their speed is the sum of each process's own, so
that none waits for another.

    Pillow    Image.open(...).convert("RGB").resize(..., BICUBIC), the plain way
    own       what the loader calls for each picture (`mm1.data.image_processing`)

The sides take many short turns, since a machine's speed changes from second to second.
Given are speeds by the clock, and the CPU time for each picture of all processes
together, the training process too. Shares are medians of the rounds' own.

Memory is what workers hold for themselves and share (anonymous and shared pages; the
shards' own pages, which the system drops when it needs to, are not counted).
"""

import argparse
import io
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from mm1.data.document import Image
from mm1.data.image_processing import ImageProcessor, decode_image
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader

WEIGHTS = {"interleaved": 0.45, "captions": 0.45, "text": 0.10}
Side = tuple[int, float, float]
"""Pictures, seconds by the clock, seconds of CPU."""
AHEAD = 4
"""Batches that each worker makes ahead (see `mm1.loader.loader.load`)."""
TICK = os.sysconf("SC_CLK_TCK")


def pillow(picture: Image, processor: ImageProcessor) -> None:
    opened = PIL.Image.open(io.BytesIO(picture.data)).convert("RGB")
    np.asarray(
        opened.resize(
            (processor.size[1], processor.size[0]), PIL.Image.Resampling.BICUBIC
        )
    )


def own(picture: Image, processor: ImageProcessor) -> None:
    processor(decode_image(picture.data))


LOOPS = {"Pillow": pillow, "own": own}


def loop(job: tuple[str, list[Image], ImageProcessor]) -> Side:
    """One process of a loop."""
    name, pictures, processor = job
    torch.set_num_threads(1)
    function = LOOPS[name]
    function(pictures[0], processor)
    began = time.perf_counter()
    used = time.process_time()
    for picture in pictures:
        function(picture, processor)
    return (
        len(pictures),
        time.perf_counter() - began,
        time.process_time() - used,
    )


class Consumer:
    """Takes steps and does nothing with them; the workers stay between rounds."""

    def __init__(self, loader: PackedLoader | PairLoader) -> None:
        others = set(multiprocessing.active_children())
        self.steps = loader.steps(None, rank=0, world_size=1)
        self.memory = []
        self.taken = 0
        self.take(4)
        self.workers = [
            child.pid
            for child in set(multiprocessing.active_children()) - others
        ]

    def take(self, num_steps: int) -> int:
        """Pictures of so many steps."""
        self.taken += num_steps
        return sum(
            step.counts["images"] for step in islice(self.steps, num_steps)
        )

    def round(self, num_steps: int) -> Side:
        self.take(
            AHEAD * len(self.workers)
        )  # what was made while the other side had its turn
        began = time.perf_counter()
        used = self.used()
        done = self.take(num_steps)
        taken = time.perf_counter() - began, self.used() - used
        self.memory.append(self.held())
        return done, *taken

    def settle(self) -> None:
        """Waits until the workers have made all that they make ahead."""
        before = -1.0
        while (now := self.used()) - before > 1 / TICK:
            before = now
            time.sleep(0.3)

    def used(self) -> float:
        """CPU seconds of this process and its workers."""
        stats = (
            Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            for pid in self.workers
        )
        return (
            time.process_time()
            + sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICK
        )

    def held(self) -> float:
        """MiB of the workers together."""
        lines = (
            line
            for pid in self.workers
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return (
            sum(
                int(line.split()[1])
                for line in lines
                if line.startswith(("RssAnon", "RssShmem"))
            )
            / 1024
        )


def compare(name: str, loader: Any, options: argparse.Namespace) -> str:
    consumer = Consumer(loader)
    num = options.workers
    rounds: list[list[list[Side]]] = []
    with multiprocessing.get_context("forkserver").Pool(num) as pool:
        for _ in range(options.rounds):
            # While so many steps are taken, the workers make those that come after what
            # is ready.
            begin = consumer.taken + 2 * AHEAD * num
            pictures = list(pictures_of(loader, begin, begin + options.steps))
            consumer.settle()
            jobs = [
                [
                    (kind, pictures[i::num], loader.renderer.image_processor)
                    for i in range(num)
                ]
                for kind in LOOPS
            ]
            sides = [pool.map(loop, job, chunksize=1) for job in jobs]
            rounds.append([*sides, [consumer.round(options.steps)]])
    speeds = np.array(
        [
            [sum(done / seconds for done, seconds, _ in side) for side in sides]
            for sides in rounds
        ]
    )
    cpu = np.array(
        [
            [
                1e3
                * sum(cpu for *_, cpu in side)
                / sum(done for done, *_ in side)
                for side in sides
            ]
            for sides in rounds
        ]
    )
    shares = [
        f"{share:.0%}"
        for share in np.median(speeds[:, -1:] / speeds[:, :-1], axis=0)
    ]
    held = [
        f"{m:,.0f}"
        for m in consumer.memory[:: max(1, len(consumer.memory) // 4)]
    ]
    columns = [f"{speed:,.0f}" for speed in np.median(speeds, axis=0)] + shares
    columns += [f"{each:.2f}" for each in np.median(cpu, axis=0)] + [
        f"{np.median(cpu[:, 1] / cpu[:, 2]):.0%}"
    ]
    return f"| {name} | {' | '.join(columns)} | {', '.join(held)} |"


def pictures_of(
    loader: PackedLoader | PairLoader, begin: int, end: int
) -> Iterator[Image]:
    """Of the steps `begin` to `end`."""
    if isinstance(loader, PairLoader):
        batch = loader.config.batch_size
        shards = next(iter(loader.sources.values())).shards
        for number in loader.items(
            np.arange(begin * batch, end * batch)
        ).tolist():
            yield shards.document(number).images[0]
        return
    for rows, _, _ in islice(loader.plan_steps(None), begin, end):
        for e in (e for row in rows for e in row if e.images):
            sequence = loader.renderer(
                loader.sources[loader.names[e.source]].shards.document(
                    e.document
                )
            )
            yield from (
                image
                for _, image, _ in sequence.images_between(e.start, e.stop)
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed of the loader against its pictures."
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="KIND=FOLDER",
        help=f"KIND is one of {', '.join(WEIGHTS)}",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--steps", type=int, default=12, help="of a round: 4 rows, or 64 pairs"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 378])
    options = parser.parse_args()
    torch.set_num_threads(1)
    folders = dict(source.split("=", 1) for source in options.sources)
    tokenizer = Tokenizer.Config(path=next(iter(folders.values()))).build()
    total = sum(WEIGHTS[name] for name in folders)
    weights = {name: WEIGHTS[name] / total for name in folders}
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {os.cpu_count()} cores, torch {torch.__version__}, Pillow"
        f" {PIL.__version__}",
        end="; ",
    )
    print(
        f"{options.workers} workers, {options.rounds} rounds of {options.steps} steps a"
        " side\n"
    )
    print(
        "| | pictures/s: Pillow | own | loader | loader/Pillow | loader/own ",
        end="",
    )
    print(
        "| CPU ms a picture: Pillow | own | loader | own/loader | MiB, by round |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for size in options.sizes:
        renderer = Renderer(
            tokenizer, ImageProcessor((size, size)), tokens_per_image=144
        )
        packed = PackedLoader.Config(
            sources=folders,
            weights=weights,
            packing_window=64,
            workers=options.workers,
        )
        packed.batch_size = packed.micro_batch_size = 4
        print(
            compare(
                f"packed rows, {size} px",
                packed.build(renderer=renderer, seed=0),
                options,
            ),
            flush=True,
        )
        if "captions" in folders:
            pairs = PairLoader.Config(
                sources=(folders["captions"],),
                batch_size=64,
                workers=options.workers,
            )
            print(
                compare(
                    f"pairs, {size} px",
                    pairs.build(renderer=renderer, seed=0),
                    options,
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
