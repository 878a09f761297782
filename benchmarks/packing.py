"""How full are packed rows, how exact the mixture, how even the images, how fast the
plan? Side by side, in one run.

    python benchmarks/packing.py [--windows 10] [--rows 512]

It needs numpy, jaxtyping and beartype alone, and grain for Grain's packers (`pip
install grain`, in an environment of its own if you like); without grain they are left
out, and it says so.

MM1 states no length distributions, only that its own 500M interleaved documents hold 1B
images and 500B text tokens (2 images and 1,000 tokens each). The rest is assumed. 144
tokens an image, 45% interleaved / 45% captions / 10% text by tokens, rows of 4,096
tokens and at most 16 images; lengths of text are lognormal:

    captions     1 image;                     median 20 tokens, sigma 0.6, 3 to 300
    interleaved  1 + geometric, mean 2.3;     mean 1,000 tokens, sigma 0.9, 20 or more
    text         none;                        mean 1,100 tokens, sigma 1.1, 10 or more

All packers get the same documents: those that one run of the mixture drew, in a
shuffled order. Documents longer than a row are cut beforehand, as the mixture cuts
them. Each packer sees as many rows' documents at a time as a window has.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import Row
from mm1.loader.packing import balance_rows

SEQUENCE_LENGTH = 4096
MAX_IMAGES = 16
TOKENS_PER_IMAGE = 144
WEIGHTS = {"interleaved": 0.45, "captions": 0.45, "text": 0.10}
ROWS_PER_SECOND = 4  # what one H200 takes in when it trains a 3B model, about
RANKS = 8

Documents = list[tuple[int, int]]  # tokens, images
Packer = Callable[
    [Documents, int], tuple[list[Documents], float]
]  # documents, rows at a time -> rows, seconds


@dataclass(frozen=True, slots=True)
class Drawn:
    """A source that is nothing but its lengths; each picture of a document follows as
    much text as every other."""

    num_tokens: np.ndarray
    num_images: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.num_tokens)

    def lengths(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.num_tokens[ids], self.num_images[ids]

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        tokens = int(self.num_tokens[document])
        images = int(self.num_images[document])
        ends = (tokens * (i + 1) // images for i in range(images))
        return [(end - TOKENS_PER_IMAGE, end, 1) for end in ends]


def mm1_like(num_documents: int, seed: int) -> dict[str, Drawn]:
    """The three kinds, `num_documents` of each."""
    rng = np.random.default_rng(seed)

    def text(
        mean_of_log: float, sigma: float, low: int, high: int
    ) -> np.ndarray:
        return (
            rng.lognormal(mean_of_log, sigma, num_documents)
            .astype(np.int64)
            .clip(low, high)
        )

    images = rng.geometric(1 / 2.3, num_documents)
    none = np.zeros_like(images)
    one = np.ones_like(images)
    return {
        "interleaved": Drawn(
            images * TOKENS_PER_IMAGE
            + text(np.log(1000) - 0.9**2 / 2, 0.9, 20, 10**6),
            images,
        ),
        "captions": Drawn(
            one * TOKENS_PER_IMAGE + text(np.log(20), 0.6, 3, 300), one
        ),
        "text": Drawn(text(np.log(1100) - 1.1**2 / 2, 1.1, 10, 10**6), none),
    }


def timed(pack: Callable[[Documents, int], list[Documents]]) -> Packer:
    def packer(
        documents: Documents, num_rows: int
    ) -> tuple[list[Documents], float]:
        began = time.process_time()
        rows = pack(documents, num_rows)
        return rows, time.process_time() - began

    return packer


def padding(documents: Documents, _: int) -> list[Documents]:
    """One document a row."""
    return [[document] for document in documents]


def in_order(documents: Documents, _: int) -> list[Documents]:
    """One open row, closed when the next document does not fit."""
    rows: list[Documents] = [[]]
    free_tokens = SEQUENCE_LENGTH
    free_images = MAX_IMAGES
    for tokens, images in documents:
        if tokens > free_tokens or images > free_images:
            rows.append([])
            free_tokens = SEQUENCE_LENGTH
            free_images = MAX_IMAGES
        rows[-1].append((tokens, images))
        free_tokens = free_tokens - tokens
        free_images = free_images - images
    return rows


def first_fit_decreasing(
    documents: Documents, num_rows: int
) -> list[Documents]:
    """Longest first, each in the first row it fits, opening rows as they are needed."""
    return [
        row
        for some in at_a_time(documents, num_rows)
        for row in _greedy(some, 0, lightest=False)
    ]


def knapsack(documents: Documents, num_rows: int) -> list[Documents]:
    """As nanoVLM packs (huggingface/nanoVLM, `ConstantLengthDataset`; written anew).

    As many rows as the tokens need and five more; longest first, each document into the
    row with the fewest tokens that has room for it, or into a new one.
    """
    return [
        row
        for some in at_a_time(documents, num_rows)
        for row in _greedy(some, 5, lightest=True)
    ]


def at_a_time(documents: Documents, num_rows: int) -> list[Documents]:
    """In order, as many documents together as hold the tokens of so many rows."""
    group = np.cumsum([tokens for tokens, _ in documents]) // (
        num_rows * SEQUENCE_LENGTH
    )
    return [
        [documents[i] for i in np.flatnonzero(group == g).tolist()]
        for g in np.unique(group)
    ]


def _greedy(
    documents: Documents, more: int, *, lightest: bool
) -> list[Documents]:
    num_rows = (
        -(-sum(tokens for tokens, _ in documents) // SEQUENCE_LENGTH) + more
        if lightest
        else 0
    )
    rows: list[Documents] = [[] for _ in range(num_rows)]
    used_tokens, used_images = (
        np.zeros(len(documents) + num_rows, dtype=np.int64) for _ in range(2)
    )
    for tokens, images in sorted(documents, reverse=True):
        used = used_tokens[: len(rows)]
        fits = (used + tokens <= SEQUENCE_LENGTH) & (
            used_images[: len(rows)] + images <= MAX_IMAGES
        )
        if not fits.any():
            row = len(rows)
            rows.append([])
        else:
            row = int(
                np.where(fits, used, SEQUENCE_LENGTH + 1).argmin()
                if lightest
                else fits.argmax()
            )
        rows[row].append((tokens, images))
        used_tokens[row] += tokens
        used_images[row] += images
    return [row for row in rows if row]


def grain_packers() -> dict[str, Packer]:
    """Grain's packers under both caps; nothing where grain is not installed. They build
    the rows' arrays as well: what it takes to make the documents' own arrays is not
    counted."""
    try:
        import grain
    except ImportError:
        print(
            "grain is not installed: its packers are left out (pip install grain)\n"
        )
        return {}

    def packer(kind: type) -> Packer:
        def pack(
            documents: Documents, num_rows: int
        ) -> tuple[list[Documents], float]:
            parent = grain.MapDataset.source(documents).map(
                lambda d: {
                    "tokens": np.ones(d[0], dtype=np.int32),
                    "images": np.ones(d[1], dtype=np.int32),
                }
            )
            caps = {"tokens": SEQUENCE_LENGTH, "images": MAX_IMAGES}
            began = time.process_time()
            for _ in parent.to_iter_dataset():
                pass
            alone = time.process_time() - began
            began = time.process_time()
            packed = list(
                kind(
                    parent.to_iter_dataset(),
                    length_struct=caps,
                    num_packing_bins=num_rows,
                )
            )
            seconds = time.process_time() - began - alone
            return [
                [(int(row["tokens"].sum()), int(row["images"].sum()))]
                for row in packed
            ], seconds

        return pack

    experimental = grain.experimental
    return {
        "grain FirstFitPackIterDataset": packer(
            experimental.FirstFitPackIterDataset
        ),
        "grain BestFitPackIterDataset": packer(
            experimental.BestFitPackIterDataset
        ),
    }


def mix(mixture: Mixture, num_windows: int) -> tuple[list[Row], float]:
    """Rows of the first windows, the seconds they took; prints the mixture's
    account."""
    state = mixture.start()
    rows = []
    began = time.process_time()
    for _ in range(num_windows):
        window = mixture.window(state)
        state = window.after
        rows += window.rows
    seconds = time.process_time() - began
    tokens = np.zeros(len(mixture.names), dtype=np.int64)
    cuts = np.zeros(len(mixture.names), dtype=np.int64)
    for e in (e for row in rows for e in row):
        tokens[e.source] += e.stop - e.start
        cuts[e.source] += e.start > 0
    print(
        "| source | wanted | got | off by | documents | cuts | fit no row"
        " |\n|---|---|---|---|---|---|---|"
    )
    for name, got, cut_at in zip(
        mixture.names, tokens / tokens.sum(), cuts.tolist(), strict=True
    ):
        want = WEIGHTS[name]
        drawn = state.drawn[name]
        skipped = state.skipped[name]
        print(
            f"| {name} | {want:.2%} | {got:.3%} | {got - want:+.3%} | {drawn:,} |"
            f" {cut_at:,} | {skipped:,} |"
        )
    print(
        f"\n{len(state.carried)} segments are carried after the last window.\n"
    )
    return rows, seconds


def documents_of(rows: list[Row]) -> Documents:
    """What the rows hold, piece by piece where there are pictures; texts joined again,
    and cut at row size alone."""
    excerpts = [e for row in rows for e in row]
    whole = [(e.stop - e.start, e.images) for e in excerpts if e.images]
    texts: dict[tuple[int, int], int] = {}
    for e in excerpts:
        if not e.images:
            texts[e.source, e.document] = (
                texts.get((e.source, e.document), 0) + e.stop - e.start
            )
    for tokens in texts.values():
        whole += [
            (min(SEQUENCE_LENGTH, tokens - start), 0)
            for start in range(0, tokens, SEQUENCE_LENGTH)
        ]
    np.random.default_rng(0).shuffle(whole)
    return [(int(tokens), int(images)) for tokens, images in whole]


def report(
    name: str, rows: list[Documents], num_documents: int, seconds: float
) -> None:
    tokens = np.array([sum(t for t, _ in row) for row in rows])
    images = np.array([sum(i for _, i in row) for row in rows])
    print(
        f"| {name} | {tokens.mean() / SEQUENCE_LENGTH:.2%} | {len(rows):,} |"
        f" {images.mean():.1f} +- {images.std():.1f} | {images.max()} |"
        f" {1e6 * seconds / num_documents:,.1f} |"
    )


def spreads(
    images: list[int], rows_of_a_step: int, micro_batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Largest less smallest number of images over ranks, as a share of the mean: of
    micro-batches that are computed at the same time, and of whole steps."""
    at_once = []
    in_all = []
    for first in range(0, len(images) - rows_of_a_step + 1, rows_of_a_step):
        step = images[first : first + rows_of_a_step]
        hands = (
            balance_rows(step, rows_of_a_step // micro_batch_size, rank, RANKS)
            for rank in range(RANKS)
        )
        counts = np.array(
            [
                [sum(step[i] for i in hand) for hand in of_rank]
                for of_rank in hands
            ]
        )
        at_once += (np.ptp(counts, axis=0) / counts.mean()).tolist()
        in_all.append(np.ptp(counts.sum(1)) / counts.sum(1).mean())
    return np.array(at_once), np.array(in_all)


def main() -> None:
    parser = argparse.ArgumentParser(description="Packing, mixing and dealing.")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument(
        "--rows", type=int, default=512, help="rows in a window"
    )
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy"
        f" {np.__version__}; CPU time"
    )
    print(
        f"{options.windows} windows of {options.rows} rows of {SEQUENCE_LENGTH} tokens"
        f" and {MAX_IMAGES} images\n"
    )

    # Enough documents of each kind that none comes twice.
    sources = mm1_like(
        num_documents=options.windows * options.rows * 12, seed=0
    )
    caps = {
        "sequence_length": SEQUENCE_LENGTH,
        "max_images": MAX_IMAGES,
        "packing_window": options.rows,
    }
    rows, seconds = mix(
        Mixture(sources, WEIGHTS, **caps, seed=0), options.windows
    )
    documents = documents_of(rows)
    packers = {
        "padding, a document a row": timed(padding),
        "in order, one open row": timed(in_order),
    }
    packers |= grain_packers() | {"knapsack, as nanoVLM": timed(knapsack)}
    packers["first-fit decreasing"] = timed(first_fit_decreasing)
    print(
        "| packer | filled | rows | images a row | most | us a document"
        " |\n|---|---|---|---|---|---|"
    )
    for name, pack in packers.items():
        packed, taken = pack(documents, options.rows)
        report(name, packed, len(documents), taken)
    pieces = [[(e.stop - e.start, e.images) for e in row] for row in rows]
    report(
        "**mm1**, which also draws, mixes and shuffles",
        pieces,
        len(documents),
        seconds,
    )
    floor = sum(tokens for tokens, _ in documents) / SEQUENCE_LENGTH
    print(f"\nWithout a gap the tokens fill {floor:,.1f} rows.")
    print(
        f"At {ROWS_PER_SECOND} rows/s mm1 takes"
        f" {ROWS_PER_SECOND * seconds / len(rows):.3%} of one core.\n"
    )

    images = [sum(e.images for e in row) for row in rows]
    print(
        f"| rows a step, {RANKS} ranks | rows at once | spread at once: mean, most | of"
        " whole steps: mean, most |"
    )
    print("|---|---|---|---|")
    for rows_of_a_step, micro_batch_size in (
        (512, 1),
        (512, 2),
        (128, 1),
        (64, 1),
        (64, 2),
        (8, 1),
    ):
        at_once, in_all = spreads(images, rows_of_a_step, micro_batch_size)
        columns = (
            f"{at_once.mean():.1%}, {at_once.max():.1%} | {in_all.mean():.1%},"
            f" {in_all.max():.1%}"
        )
        print(f"| {rows_of_a_step} | {micro_batch_size} | {columns} |")


if __name__ == "__main__":
    main()
