"""How much longer than the mean does the slowest of many ranks take? The product's
packing and dealing on an MM1-like mixture; costs are modelled, not timed.

    python benchmarks/stragglers.py [--ranks 1024] [--rows 16384]

A micro-batch costs its floating-point operations as `Model.flops` counts them: so many
for each token, each pair of tokens of a document (the sum of squared lengths), each
target and each image. The straggler factor is the largest cost over the mean over
ranks: of what a rank computes between two collectives (unit: FSDP gathers for each
micro-batch) and of a whole step of `--accumulate` micro-batches.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from packing import MAX_IMAGES, SEQUENCE_LENGTH, WEIGHTS, mm1_like

from mm1.catalog import recipe
from mm1.data.render import UnitFlops
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import Row
from mm1.loader.packing import balance_rows
from mm1.loader.row_flops import row_flops
from mm1.nn.mm1 import MM1

VOCAB_SIZE = 128_000
TOKENS_PER_IMAGE = 144


NODE = 8
"""Ranks of a machine."""


class Work(NamedTuple):
    """Floating-point operations of rows."""

    whole: np.ndarray
    decoder: np.ndarray
    image: int
    """Of one image."""
    images: np.ndarray


def work(rows: list[Row], name: str) -> Work:
    """Of rows, by a recipe's model."""
    config = recipe(name).model
    with torch.device("meta"):
        model = config.build(vocab_size=VOCAB_SIZE)
    assert isinstance(model, MM1)
    unit = UnitFlops(**model.unit_flops())
    alike = model.decoder.flops(
        num_tokens=SEQUENCE_LENGTH, num_pairs=0, num_targets=0
    )
    whole = [alike + row_flops(row, unit, TOKENS_PER_IMAGE) for row in rows]
    # padding is a document of its own to attention
    paddings = [
        SEQUENCE_LENGTH - sum(e.stop - e.start for e in row) for row in rows
    ]
    pairs = [n * (n + 1) // 2 for n in paddings]
    whole = np.array(whole, float) + np.array(pairs) * unit.pair
    images = np.array([sum(e.images for e in row) for row in rows])
    return Work(whole, whole - images * unit.image, unit.image, images)


def plan(num_rows: int) -> tuple[list[Row], float]:
    """Rows of the product's mixture and packing, and the seconds of CPU they took."""
    sources = mm1_like(num_documents=num_rows * 12, seed=0)
    mixture = Mixture(
        sources,
        WEIGHTS,
        sequence_length=SEQUENCE_LENGTH,
        max_images=MAX_IMAGES,
        packing_window=512,
        seed=0,
    )
    began = time.process_time()
    state = mixture.start()
    rows: list[Row] = []
    while len(rows) < num_rows:
        window = mixture.window(state)
        state = window.after
        rows += window.rows
    return rows[:num_rows], time.process_time() - began


def deal(amounts: np.ndarray, ranks: int, micro_batch_size: int) -> np.ndarray:
    """Rows by (rank, micro-batch, place), as the loader deals them."""
    num = len(amounts) // micro_batch_size
    # of one rank: in the order in which `balance_rows` deals them to many
    dealt = np.array(balance_rows(amounts.tolist(), num))
    laps = dealt.reshape(-1, ranks, micro_batch_size)
    laps[1::2] = laps[1::2, ::-1].copy()
    hands = laps.swapaxes(0, 1)
    first = balance_rows(amounts.tolist(), num, 0, ranks)
    assert hands[0].tolist() == first
    return hands


def factors(of_units: np.ndarray) -> np.ndarray:
    """(of steps, of units) of costs by (rank, micro-batch)."""
    of_steps = of_units.sum(1)
    return np.array(
        [
            of_steps.max() / of_steps.mean(),
            of_units.max(0).sum() / of_units.mean(0).sum(),
        ]
    )


def spread_images(done: Work, hands: np.ndarray) -> np.ndarray:
    """Costs by (rank, micro-batch) if each node's ranks shared its images evenly, for
    nothing."""
    own = done.decoder[hands].sum(2)
    images = done.images[hands].sum(2).reshape(-1, NODE, hands.shape[1])
    shared = -(-images.sum(1) // NODE)
    return own + np.repeat(shared, NODE, axis=0) * done.image


def table(done: Work, ranks: int, micro_batches: int) -> Iterator[str]:
    for micro_batch_size in (1, 2, 4):
        rows_of_a_step = ranks * micro_batches * micro_batch_size
        found: dict[str, list[np.ndarray]] = {}
        for first in range(
            0, len(done.whole) - rows_of_a_step + 1, rows_of_a_step
        ):
            here = slice(first, first + rows_of_a_step)
            step = Work(
                done.whole[here],
                done.decoder[here],
                done.image,
                done.images[here],
            )
            of = (ranks, micro_batch_size)
            units = {
                "images": step.whole[deal(step.images, *of)].sum(2),
                "flops": step.whole[deal(step.whole, *of)].sum(2),
                "spread": spread_images(step, deal(step.decoder, *of)),
            }
            for way, of_units in units.items():
                found.setdefault(way, []).append(factors(of_units))
        if not found:  # too few rows
            return
        columns = " | ".join(
            "{:.3f} / {:.3f}".format(*np.mean(each, axis=0))
            for each in found.values()
        )
        yield f"| {micro_batches} of {micro_batch_size} | {columns} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Straggler factors.")
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=16384)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, numpy {np.__version__}\n"
    )
    rows, seconds = plan(options.rows)
    tokens = sum(e.stop - e.start for row in rows for e in row)
    images = np.array([sum(e.images for e in row) for row in rows])
    print(
        f"{len(rows):,} rows planned in {seconds:.1f} s of CPU, filled"
        f" {tokens / len(rows) / SEQUENCE_LENGTH:.2%}, {images.mean():.2f} +-"
        f" {images.std():.2f} of {MAX_IMAGES} images"
    )
    for name in ("pretrain_3b", "pretrain_30b"):
        done = work(rows, name)
        most = done.whole.max() / done.whole.mean()
        print(
            f"\n{name}: {done.image * images.mean() / done.whole.mean():.1%} of the"
            f" operations are images'; the costliest row has {most:.3f} of the mean"
        )
        print(
            "| micro-batches | by images (step / unit) | by flops | images spread |"
            "\n|---|---|---|---|"
        )
        for micro_batches in options.accumulate:
            for line in table(done, options.ranks, micro_batches):
                print(line)


if __name__ == "__main__":
    main()
