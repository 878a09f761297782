"""Packs documents into rows from their lengths alone: a pure function, so that every
rank computes the same plan.

A row holds at most `sequence_length` tokens and `max_images` images (MM1: 4,096 and
16). Captions use up a row's images long before its tokens, long pages its tokens before
its images, so neither first-fit nor packing in order of arrival fills rows well.
Instead:

    1. fix the number of rows;
    2. place documents with images whole, largest first, each in the row whose free
       space is most like it in shape: the inner product of (tokens, images) needed and
       free, as shares of a row (Panigrahy et al., "Heuristics for Vector Bin Packing",
       2011). This fills both limits together and balances images over rows;
    3. fill the gaps with text-only documents, cut only at the end of a row.

      row 0 | page, 6 images | page, 4 images   | caption | caption | text A ...... |
      row 1 | page, 3 images | caption | caption | caption | caption | .. A | text B |

Documents that do not fit are returned; the caller offers them again with the next ones.

A segment that continues a cut text is a document of its own to the model: attention
does not reach back into the previous segment, and positions restart at 0. No target is
lost: the last token of a segment still predicts the next token of the text.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

# texts tried for a gap; more gains nothing measurable and costs time
LOOK_AHEAD = 64


class PackedSegment(NamedTuple):
    """Tokens `start` to `stop` (exclusive) of a rendered document, named by its index
    in the packer's input."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """Rows of segments in order, and the segments that did not fit (of a cut text: its
    rest)."""

    rows: list[tuple[PackedSegment, ...]]
    left_over: list[PackedSegment]


def never_fits(
    num_tokens: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    sequence_length: int,
    max_images: int,
) -> Bool[np.ndarray, " docs"]:
    """Which documents no row can hold whole: too many images, or images and more tokens
    than a row; also empty ones."""
    with_images_too_long = (num_images > 0) & (num_tokens > sequence_length)
    return (num_images > max_images) | with_images_too_long | (num_tokens < 1)


def split_document(
    num_tokens: int,
    image_spans: Iterable[tuple[int, int, int]],
    *,
    sequence_length: int,
    max_images: int,
) -> list[tuple[int, int, int]]:
    """Cuts a document that no row can hold into segments that rows can hold: (start,
    stop, images) of each, in order.

    `image_spans` are (start, stop, sub-images) of each image's tokens. A segment is as
    long as a row, or shorter if the next image would exceed the row or `max_images`: no
    image is cut. Returns no segments if one image alone exceeds them.
    """
    segments = []
    begin = 0
    images = 0
    for start, stop, more in (*image_spans, (num_tokens, num_tokens, 0)):
        if stop - start > sequence_length or more > max_images:
            return []
        while start - begin > sequence_length:
            segments.append((begin, begin + sequence_length, images))
            begin = begin + sequence_length
            images = 0
        if stop - begin > sequence_length or images + more > max_images:
            segments.append((begin, start, images))
            begin = start
            images = 0
        images += more
    return (
        [*segments, (begin, num_tokens, images)]
        if begin < num_tokens
        else segments
    )


def pack_documents(
    num_tokens: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    *,
    sequence_length: int,
    max_images: int,
    num_rows: int | None = None,
    min_segment: int = 64,
    starts: Int[np.ndarray, " docs"] | None = None,
    num_carried: int = 0,
) -> PackingPlan:
    """Packs documents of `num_tokens` tokens and `num_images` images (sub-images count)
    into rows.

    Documents with images are never cut here (see `split_document`). Texts are cut only
    at the end of a row, into segments of at least `min_segment` tokens (shorter only if
    the text, or what is left of it, is shorter).

    `num_rows` defaults to the lower bound: the larger of tokens / `sequence_length` and
    images / `max_images`, rounded up. `starts` says where each document's unread part
    begins (0: whole; more: a segment, or the rest of a cut text). The first
    `num_carried` documents were left over before; they are placed first, so that none
    waits forever.

    Raises:
        ValueError: a document can never fit; see `never_fits`.
    """
    begins = np.zeros_like(num_tokens) if starts is None else starts
    lengths = num_tokens - begins
    _check_all_can_fit(lengths, num_images, sequence_length, max_images)
    if num_rows is None:
        num_rows = max(
            -(-int(lengths.sum()) // sequence_length),
            -(-int(num_images.sum()) // max(1, max_images)),
        )

    row_of, free_tokens = _place_documents_with_images(
        lengths, num_images, sequence_length, max_images, num_rows, num_carried
    )
    columns = (range(len(lengths)), begins.tolist(), num_tokens.tolist())
    whole = [PackedSegment(*segment) for segment in zip(*columns, strict=True)]
    rows: list[list[PackedSegment]] = [[] for _ in range(num_rows)]
    left_over = []
    for d in np.flatnonzero(num_images > 0).tolist():
        (rows[row_of[d]] if row_of[d] >= 0 else left_over).append(whole[d])
    texts = [whole[d] for d in np.flatnonzero(num_images == 0).tolist()]
    left_over += _fill_with_texts(
        texts, rows, free_tokens.tolist(), min_segment
    )
    return PackingPlan([tuple(row) for row in rows], left_over)


def _check_all_can_fit(
    lengths: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    sequence_length: int,
    max_images: int,
) -> None:
    misfits = np.flatnonzero(
        never_fits(lengths, num_images, sequence_length, max_images)
    )
    if len(misfits):
        d = misfits[0]
        raise ValueError(
            f"document {d} has {lengths[d]} tokens and {num_images[d]} images: it never"
            f" fits a row of {sequence_length} tokens and {max_images} images; leave"
            " out the documents that `never_fits` marks"
        )


def _place_documents_with_images(
    lengths: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    sequence_length: int,
    max_images: int,
    num_rows: int,
    num_carried: int,
) -> tuple[Int[np.ndarray, " docs"], Int[np.ndarray, " rows"]]:
    """The row of each document with images (-1: none), and the tokens then free in each
    row."""
    row_of = np.full(len(lengths), -1)
    free_tokens = np.full(num_rows, float(sequence_length))
    free_images = np.full(num_rows, float(max_images))
    token_shares = lengths / sequence_length
    image_shares = num_images / max(1, max_images)
    is_new = np.arange(len(lengths)) >= num_carried
    order = np.lexsort((-np.maximum(token_shares, image_shares), is_new))
    order = order[num_images[order] > 0] if num_rows else order[:0]
    token_weights = token_shares / sequence_length
    image_weights = image_shares / max(1, max_images)
    columns = (
        order,
        lengths[order],
        num_images[order],
        token_weights[order],
        image_weights[order],
    )
    for d, tokens, images, token_weight, image_weight in zip(
        *(c.tolist() for c in columns), strict=True
    ):
        likeness = free_tokens * token_weight
        likeness += free_images * image_weight
        row = likeness.argmax()
        # checked afterwards: the most similar row nearly always fits
        if free_tokens[row] < tokens or free_images[row] < images:
            likeness[(free_tokens < tokens) | (free_images < images)] = 0
            row = likeness.argmax()
            if likeness[row] == 0:
                continue
        row_of[d] = row
        free_tokens[row] -= tokens
        free_images[row] -= images
    return row_of, free_tokens.astype(np.int64)


def _fill_with_texts(
    texts: list[PackedSegment],
    rows: list[list[PackedSegment]],
    free_tokens: list[int],
    min_segment: int,
) -> list[PackedSegment]:
    """Fills each row's free tokens with the texts in order; returns what is left of
    them."""
    queue = deque(texts)
    for row, free in zip(rows, free_tokens, strict=True):
        while queue and free:
            chosen = _choose_text(queue, free, min_segment)
            text = queue[chosen]
            taken = _tokens_that_fit(text, free, min_segment)
            if not taken:
                break
            row.append(
                PackedSegment(text.document, text.start, text.start + taken)
            )
            free -= taken
            if text.start + taken == text.stop:
                del queue[chosen]
            else:
                queue[chosen] = PackedSegment(
                    text.document, text.start + taken, text.stop
                )
                break  # a text is cut only at the end of a row
    return list(queue)


def _choose_text(
    queue: deque[PackedSegment], free: int, min_segment: int
) -> int:
    """Index of the text that goes into `free` tokens: the first if it fits whole or
    fills them, else the one that fills most."""
    first = queue[0]
    if (
        first.stop - first.start <= free
        or _tokens_that_fit(first, free, min_segment) == free
    ):
        return 0
    filled = [
        _tokens_that_fit(text, free, min_segment)
        for text in islice(queue, LOOK_AHEAD)
    ]
    return filled.index(max(filled))


def _tokens_that_fit(text: PackedSegment, free: int, min_segment: int) -> int:
    """Tokens of a text that go into `free` tokens, so that neither this segment nor the
    rest is too short."""
    length = text.stop - text.start
    if length <= free:
        return length
    taken = min(free, length - min_segment)
    return taken if taken >= min_segment else 0


def balance_rows(
    amounts: list[int],
    num_micro_batches: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[list[int]]:
    """Distributes rows over the micro-batches of all ranks and returns this rank's,
    rows named by their index in `amounts` (of what is balanced: images, or work).

    Rows are sorted by amount and assigned in snake order, so that micro-batches hold
    nearly equal amounts. Those that ranks compute at the same time differ
    least, and the rank with the fullest one alternates.
    """
    micro_batches: list[list[int]] = [[] for _ in range(num_micro_batches)]
    for turn, row in enumerate(
        sorted(range(len(amounts)), key=lambda i: (-amounts[i], i))
    ):
        micro_batches[_snake(turn, num_micro_batches)].append(row)
    return [
        micro_batch
        for i, micro_batch in enumerate(micro_batches)
        if _snake(i, world_size) == rank
    ]


def _snake(turn: int, size: int) -> int:
    """0, 1, 2, 2, 1, 0, 0, 1, 2 ... for size 3."""
    lap, place = divmod(turn, size)
    return place if lap % 2 == 0 else size - 1 - place
