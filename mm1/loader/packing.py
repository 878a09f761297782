"""Plans packed rows from lengths alone: a pure function, so every rank computes the
same plan.

A row holds at most `sequence_length` tokens and at most `max_images` images (MM1: 4,096
and 16). Captions use up a row's images long before its tokens, long pages the tokens
before the images, so neither first-fit nor packing in order of arrival fills rows well.
What does:

    1. fix the number of rows beforehand;
    2. place the documents with images whole, largest first, each in the row whose free room is most like it in shape
       (the inner product of what it needs and what is free, tokens and images as shares
       of a row; Panigrahy et al., "Heuristics for Vector Bin Packing", 2011): this
       fills both caps together and levels images over rows;
    3. pour the text-only documents into what is left, cut only where a row ends.

                 row 0 | page, 6 images      | page, 4 images | caption | caption | text A .......... |
                 row 1 | page, 3 images   | caption | caption | caption | caption | .. A | text B ... |

What does not fit is handed back, and the caller offers it again with the next
documents.

A piece that continues a cut text is, to the model, a document of its own: attention
does not reach back into the earlier piece, and positions restart at 0. No target is
lost: a piece's last token still predicts the text's next one.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

# how many waiting texts are tried for a gap; more gains nothing measurable and costs
# time
LOOK_AHEAD = 64


class Piece(NamedTuple):
    """Tokens `start` to `stop` (exclusive) of a rendered document, named by its index
    in the planner's input."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows of pieces in order, and the pieces that found no room (of a cut text: the
    rest of it)."""

    rows: list[tuple[Piece, ...]]
    left_over: list[Piece]


def never_fits(
    num_tokens: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    sequence_length: int,
    max_images: int,
) -> Bool[np.ndarray, " docs"]:
    """Which documents no row can hold whole: too many images, or images and more tokens
    than a row. Nor empty ones."""
    with_images_too_long = (num_images > 0) & (num_tokens > sequence_length)
    return (num_images > max_images) | with_images_too_long | (num_tokens < 1)


def cut(
    num_tokens: int,
    pictures: Iterable[tuple[int, int, int]],
    *,
    sequence_length: int,
    max_images: int,
) -> list[tuple[int, int, int]]:
    """Cuts a document that no row can hold into pieces that rows can: (start, stop,
    images) of each, in order.

    `pictures` are (start, stop, images) of each picture's tokens. A piece is as long as
    a row, shorter only where the next picture would go beyond it or be one too many: a
    picture is never cut. A document with a picture that is itself too large has no
    pieces.
    """
    pieces = []
    begin = 0
    images = 0
    for start, stop, more in (*pictures, (num_tokens, num_tokens, 0)):
        if stop - start > sequence_length or more > max_images:
            return []
        while start - begin > sequence_length:
            pieces.append((begin, begin + sequence_length, images))
            begin = begin + sequence_length
            images = 0
        if stop - begin > sequence_length or images + more > max_images:
            pieces.append((begin, start, images))
            begin = start
            images = 0
        images += more
    return [*pieces, (begin, num_tokens, images)] if begin < num_tokens else pieces


def plan(
    num_tokens: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    *,
    sequence_length: int,
    max_images: int,
    num_rows: int | None = None,
    min_piece: int = 64,
    starts: Int[np.ndarray, " docs"] | None = None,
    num_waiting: int = 0,
) -> Plan:
    """Packs documents of `num_tokens` tokens and `num_images` images (sub-images
    counted) into rows.

    Documents with images are never cut here (see `cut`). Texts are cut only at row
    ends, into pieces of at least `min_piece` tokens (shorter only where the text, or
    what was left of it, is itself shorter).

    `num_rows` is by default the lower bound: the larger of tokens / row length and
    images / image cap, rounded up. `starts` says where the unread part of each document
    begins (0: whole; more: a piece, or the rest of a cut text). The first `num_waiting`
    documents were left over before. They are placed before all others, so none waits
    for ever.

    Raises ValueError if a document can never fit; see `never_fits`.
    """
    begins = np.zeros_like(num_tokens) if starts is None else starts
    lengths = num_tokens - begins
    _refuse_what_never_fits(lengths, num_images, sequence_length, max_images)
    if num_rows is None:
        num_rows = max(
            -(-int(lengths.sum()) // sequence_length),
            -(-int(num_images.sum()) // max(1, max_images)),
        )

    row_of, room = _place(
        lengths, num_images, sequence_length, max_images, num_rows, num_waiting
    )
    whole = [
        Piece(*piece)
        for piece in zip(
            range(len(lengths)), begins.tolist(), num_tokens.tolist(), strict=True
        )
    ]
    rows: list[list[Piece]] = [[] for _ in range(num_rows)]
    left_over = []
    for d in np.flatnonzero(num_images > 0).tolist():
        (rows[row_of[d]] if row_of[d] >= 0 else left_over).append(whole[d])
    texts = [whole[d] for d in np.flatnonzero(num_images == 0).tolist()]
    left_over += _pour(texts, rows, room.tolist(), min_piece)
    return Plan([tuple(row) for row in rows], left_over)


def _refuse_what_never_fits(
    lengths: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    sequence_length: int,
    max_images: int,
) -> None:
    refused = np.flatnonzero(
        never_fits(lengths, num_images, sequence_length, max_images)
    )
    if len(refused):
        d = refused[0]
        raise ValueError(
            f"document {d} has {lengths[d]} tokens and {num_images[d]} images: it never"
            f" fits a row of {sequence_length} tokens and {max_images} images; leave"
            " out what `never_fits` marks"
        )


def _place(
    lengths: Int[np.ndarray, " docs"],
    num_images: Int[np.ndarray, " docs"],
    sequence_length: int,
    max_images: int,
    num_rows: int,
    num_waiting: int,
) -> tuple[Int[np.ndarray, " docs"], Int[np.ndarray, " rows"]]:
    """Finds a row for each document with images (-1: none), and the tokens then free in
    each row."""
    row_of = np.full(len(lengths), -1)
    free_tokens = np.full(num_rows, float(sequence_length))
    free_images = np.full(num_rows, float(max_images))
    token_shares = lengths / sequence_length
    image_shares = num_images / max(1, max_images)
    order = np.lexsort(
        (
            -np.maximum(token_shares, image_shares),
            np.arange(len(lengths)) >= num_waiting,
        )
    )
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
        if (
            free_tokens[row] < tokens or free_images[row] < images
        ):  # checked late: the best row nearly always fits
            likeness[(free_tokens < tokens) | (free_images < images)] = 0
            row = likeness.argmax()
            if likeness[row] == 0:
                continue
        row_of[d] = row
        free_tokens[row] -= tokens
        free_images[row] -= images
    return row_of, free_tokens.astype(np.int64)


def _pour(
    texts: list[Piece], rows: list[list[Piece]], room: list[int], min_piece: int
) -> list[Piece]:
    """Fills each row's `room` (tokens) with the texts in order; returns what is left of
    them."""
    queue = deque(texts)
    for row, free in zip(rows, room, strict=True):
        while queue and free:
            chosen = _choose(queue, free, min_piece)
            text = queue[chosen]
            taken = _fits(text, free, min_piece)
            if not taken:
                break
            row.append(Piece(text.document, text.start, text.start + taken))
            free -= taken
            if text.start + taken == text.stop:
                del queue[chosen]
            else:
                queue[chosen] = Piece(text.document, text.start + taken, text.stop)
                break  # a text is cut only at the end of a row
    return list(queue)


def _choose(queue: deque[Piece], free: int, min_piece: int) -> int:
    """Which text goes into `free` tokens next: the first in line if it fits whole or
    fills them, else the best."""
    first = queue[0]
    if first.stop - first.start <= free or _fits(first, free, min_piece) == free:
        return 0
    filled = [_fits(text, free, min_piece) for text in islice(queue, LOOK_AHEAD)]
    return filled.index(max(filled))


def _fits(text: Piece, free: int, min_piece: int) -> int:
    """How many tokens of a text go into `free` tokens, so that neither this piece nor
    its rest is too short."""
    length = text.stop - text.start
    if length <= free:
        return length
    taken = min(free, length - min_piece)
    return taken if taken >= min_piece else 0


def deal(
    images: list[int], num_hands: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Deals rows, named by their places in `images` (how many each holds), into hands;
    returns those of a rank.

    Rows are sorted by their images and dealt to and fro, so that hands hold nearly
    equal numbers of images. The hands that ranks compute at the same time differ least;
    which rank has the fullest of them changes from turn to turn.
    """
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    for turn, row in enumerate(
        sorted(range(len(images)), key=lambda i: (-images[i], i))
    ):
        hands[_to_and_fro(turn, num_hands)].append(row)
    return [hand for i, hand in enumerate(hands) if _to_and_fro(i, world_size) == rank]


def _to_and_fro(turn: int, places: int) -> int:
    """0, 1, 2, 2, 1, 0, 0, 1, 2 ... for three places."""
    lap, place = divmod(turn, places)
    return place if lap % 2 == 0 else places - 1 - place
