"""How full are packed rows, how exact is the mixture, and how fast is the plan? Against simple packers, in one run.

    python benchmarks/packing.py [--windows 10] [--rows 512]

MM1 states no length distributions, only that its own 500M interleaved documents hold 1B images and 500B text tokens
(2 images and 1,000 tokens each). The rest is assumed. 144 tokens an image, 45% interleaved / 45% captions / 10% text by
tokens, rows of 4,096 tokens and at most 16 images:

    captions     1 image;                                 text lognormal, median 20 tokens, sigma 0.6, 3 to 300
    interleaved  1 + geometric images, mean 2.3;          text lognormal, mean 1,000 tokens, sigma 0.9, 20 or more
    text         none;                                    text lognormal, mean 1,100 tokens, sigma 1.1, 10 or more

Interleaved documents longer than a row, or with more than 16 images, fit no row: they are skipped and counted. All
packers get the same documents; those that cannot pour texts get texts longer than a row cut at row length.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mm1.data.mixture import Excerpt, Mixture

ROW_LENGTH, MAX_IMAGES, TOKENS_PER_IMAGE = 4096, 16, 144
WEIGHTS = {"interleaved": 0.45, "captions": 0.45, "text": 0.10}
ROWS_PER_SECOND = 4  # what one H200 takes in when it trains a 3B model, about

Rows = list[list[tuple[int, int]]]  # for each document of each row: tokens, images


@dataclass(frozen=True, slots=True)
class Drawn:
    """A source that is nothing but its lengths."""

    num_tokens: np.ndarray
    num_images: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.num_tokens)

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        return self.num_tokens[ids]

    def images(self, ids: np.ndarray) -> np.ndarray:
        return self.num_images[ids]


def mm1_like(num_documents: int, seed: int) -> dict[str, Drawn]:
    """The three kinds, `num_documents` of each."""
    rng = np.random.default_rng(seed)

    def text(mean_of_log: float, sigma: float, low: int, high: int) -> np.ndarray:
        return rng.lognormal(mean_of_log, sigma, num_documents).astype(np.int64).clip(low, high)

    images = rng.geometric(1 / 2.3, num_documents)
    none, one = np.zeros_like(images), np.ones_like(images)
    return {
        "interleaved": Drawn(images * TOKENS_PER_IMAGE + text(np.log(1000) - 0.9**2 / 2, 0.9, 20, 10**6), images),
        "captions": Drawn(one * TOKENS_PER_IMAGE + text(np.log(20), 0.6, 3, 300), one),
        "text": Drawn(text(np.log(1100) - 1.1**2 / 2, 1.1, 10, 10**6), none),
    }


def padding(documents: list[tuple[int, int]]) -> Rows:
    """One document a row."""
    return [[document] for document in documents]


def in_order(documents: list[tuple[int, int]]) -> Rows:
    """One open row, closed when the next document does not fit."""
    rows: Rows = [[]]
    free_tokens, free_images = ROW_LENGTH, MAX_IMAGES
    for tokens, images in documents:
        if tokens > free_tokens or images > free_images:
            rows.append([])
            free_tokens, free_images = ROW_LENGTH, MAX_IMAGES
        rows[-1].append((tokens, images))
        free_tokens, free_images = free_tokens - tokens, free_images - images
    return rows


def first_fit_decreasing(documents: list[tuple[int, int]]) -> Rows:
    """Longest first, each in the first row it fits."""
    rows: Rows = []
    free_tokens, free_images = (np.zeros(len(documents), dtype=np.int64) for _ in range(2))
    for tokens, images in sorted(documents, reverse=True):
        fits = (free_tokens[: len(rows)] >= tokens) & (free_images[: len(rows)] >= images)
        row = int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
            free_tokens[row], free_images[row] = ROW_LENGTH, MAX_IMAGES
        rows[row].append((tokens, images))
        free_tokens[row] -= tokens
        free_images[row] -= images
    return rows


def grain_packers() -> dict[str, Callable[[list[tuple[int, int]]], Rows]]:
    """Grain's packers under both caps, 512 open rows; nothing where grain is not installed."""
    try:
        import grain
    except ImportError:
        print("grain is not installed: its packers are left out (pip install grain)\n")
        return {}

    def packer(kind: type) -> Callable[[list[tuple[int, int]]], Rows]:
        def pack(documents: list[tuple[int, int]]) -> Rows:
            parent = grain.MapDataset.source(documents).map(
                lambda d: {"tokens": np.ones(d[0], dtype=np.int32), "images": np.ones(d[1], dtype=np.int32)}
            )
            caps = {"tokens": ROW_LENGTH, "images": MAX_IMAGES}
            packed = kind(parent.to_iter_dataset(), length_struct=caps, num_packing_bins=512, shuffle_bins=False)
            return [[(int(row["tokens"].sum()), int(row["images"].sum()))] for row in packed]

        return pack

    experimental = grain.experimental
    return {
        "grain first-fit": packer(experimental.FirstFitPackIterDataset),
        "grain best-fit": packer(experimental.BestFitPackIterDataset),
    }


def cut_long_texts(documents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for tokens, images in documents:
        for start in range(0, tokens, ROW_LENGTH):
            yield min(ROW_LENGTH, tokens - start), images


def report(name: str, rows: Rows, num_documents: int, seconds: float) -> None:
    tokens = np.array([sum(t for t, _ in row) for row in rows])
    images = np.array([sum(i for _, i in row) for row in rows])
    print(
        f"{name:32} {tokens.mean() / ROW_LENGTH:8.2%} {len(rows):8,} {images.mean():9.1f} +- {images.std():3.1f} "
        f"{images.max():5} {num_documents / seconds:14,.0f}"
    )


def deal(mixture: Mixture, num_windows: int) -> tuple[list[tuple[Excerpt, ...]], float]:
    """Rows of the first windows, the seconds they took; prints the mixture's account."""
    state, rows, began = mixture.start(), [], time.process_time()
    for _ in range(num_windows):
        window = mixture.window(state)
        state = window.after
        rows += window.rows
    seconds = time.process_time() - began
    tokens = np.zeros(len(mixture.names), dtype=np.int64)
    for piece in (piece for row in rows for piece in row):
        tokens[piece.source] += piece.stop - piece.start
    print(f"{'source':16} {'wanted':>8} {'got':>9} {'off by':>9} {'drawn':>9} {'skipped':>8}")
    for name, want, got in zip(mixture.names, mixture.weights, tokens / tokens.sum(), strict=True):
        print(f"{name:16} {want:8.2%} {got:9.3%} {got - want:+9.3%} {state.drawn[name]:9,} {state.skipped[name]:8,}")
    print(f"waiting after the last window: {len(state.carried)} pieces\n")
    return rows, seconds


def pieces_and_documents(mixture: Mixture, rows: list[tuple[Excerpt, ...]]) -> tuple[Rows, list[tuple[int, int]]]:
    """Tokens and images of what was packed: piece by piece, and (cut texts joined again) document by document."""
    pieces = [
        [(p.stop - p.start, int(mixture.sources[p.source].images(np.array([p.document]))[0])) for p in row]
        for row in rows
    ]
    joined: dict[tuple[int, int], tuple[int, int]] = {}
    for row, sizes in zip(rows, pieces, strict=True):
        for p, (tokens, images) in zip(row, sizes, strict=True):
            before = joined.get((p.source, p.document), (0, 0))[0]
            joined[p.source, p.document] = before + tokens, images
    return pieces, list(joined.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--rows", type=int, default=512, help="rows in a window")
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, numpy {np.__version__}; times are CPU time")
    print(f"{options.windows} windows of {options.rows} rows of {ROW_LENGTH} tokens and {MAX_IMAGES} images\n")

    # Enough documents of each kind that none comes twice.
    sources = mm1_like(num_documents=options.windows * options.rows * 12, seed=0)
    caps = {"row_length": ROW_LENGTH, "max_images": MAX_IMAGES, "rows_per_window": options.rows}
    mixture = Mixture(sources, WEIGHTS, **caps, seed=0)
    rows, seconds = deal(mixture, options.windows)
    pieces, documents = pieces_and_documents(mixture, rows)
    packers = {"padding: a document a row": padding, "in order, one open row": in_order} | grain_packers()
    packers["first-fit decreasing"] = first_fit_decreasing

    print(f"{'packer':32} {'filled':>8} {'rows':>8} {'images a row':>16} {'most':>5} {'documents/s':>14}")
    np.random.default_rng(0).shuffle(documents)
    whole = list(cut_long_texts(documents))
    for name, pack in packers.items():
        began = time.process_time()
        packed = pack(whole)
        report(name, packed, len(documents), time.process_time() - began)
    report("mm1: draw, mix, plan, shuffle", pieces, len(documents), seconds)
    cut = sum(map(len, pieces)) - len(documents)
    print(f"\nmm1 cut texts at {cut:,} row ends ({cut / len(documents):.1%} of the documents).")
    print(f"At {ROWS_PER_SECOND} rows/s it takes {ROWS_PER_SECOND * seconds / len(rows):.3%} of one core.")


if __name__ == "__main__":
    main()
