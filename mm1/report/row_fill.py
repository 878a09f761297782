"""Why packed rows are not full: computed from the rows of a packing window, for `mm1
view`.

An empty token slot has one of three reasons: its row holds all the images that it may,
so that only text could follow; or the gap is shorter than any document; or nothing that
would fit was left in the window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FULL = 0.995
"""A share of filled slots that needs no reasons."""


@dataclass(frozen=True, slots=True)
class PackedPiece:
    """A document in a row, or a piece of one."""

    tokens: int
    images: int
    """Sub-images count."""


@dataclass(frozen=True, slots=True)
class RowLimits:
    sequence_length: int
    max_images: int
    packing_window: int


Rows = Sequence[Sequence[PackedPiece]]


def why_not_full(rows: Rows, limits: RowLimits) -> list[str]:
    """What the share of filled slots is, and where the others are, with what would fill
    them; nothing if the rows are full."""
    slots = len(rows) * limits.sequence_length
    pieces = [piece for row in rows for piece in row]
    filled = sum(piece.tokens for piece in pieces) / max(1, slots)
    if filled >= FULL or not pieces:
        return []
    empty = {"images": 0, "short": 0, "window": 0}
    shortest = min(piece.tokens for piece in pieces)
    fewest = min((p.images for p in pieces if p.images), default=0)
    for row in rows:
        free = limits.sequence_length - sum(piece.tokens for piece in row)
        room = limits.max_images - sum(piece.images for piece in row)
        if fewest and room < fewest:
            empty["images"] += free
        else:
            empty["short" if free < shortest else "window"] += free
    remedies = {
        "images": _images(pieces, limits, filled),
        "short": (
            f"in gaps shorter than the shortest document, {shortest} tokens: documents"
            " with images are never cut, texts only into pieces of some length"
        ),
        "window": (
            "in rows for which the packing window had nothing left that fits: a larger"
            f" loader.packing_window ({limits.packing_window} now) has more to choose"
            " from"
        ),
    }
    said = f"{filled:.1%} of the slots of {len(rows)} rows are filled. Of all slots:"
    return [said] + [
        f"{count / slots:.1%} are {remedies[reason]}."
        for reason, count in sorted(empty.items(), key=lambda item: -item[1])
        if count / slots >= (1 - FULL) / 5
    ]


def _images(
    pieces: Sequence[PackedPiece], limits: RowLimits, filled: float
) -> str:
    """How many images rows of this mixture would hold if they were full, and how much
    text would fill them beside as many as they may hold."""
    with_images = [piece for piece in pieces if piece.images]
    images = sum(piece.images for piece in with_images)
    if not images:
        return ""
    tokens = sum(piece.tokens for piece in with_images)
    each = tokens / images
    total = sum(piece.tokens for piece in pieces)
    length = limits.sequence_length
    # at the mixture's share of text, and at the present limit of images
    wanted = math.ceil(length * tokens / total / each)
    text = 1 - limits.max_images * each / length
    return (
        f"in rows that hold all the images they may ({limits.max_images}), where only"
        f" text could follow: documents with images have {each:.1f} tokens for each"
        f" image, so that {limits.max_images} images come with"
        f" {limits.max_images * each:,.0f} of {length:,} tokens. More text"
        f" ({text:.0%} of the tokens, now {1 - tokens / total:.0%}) or"
        f" loader.max_images={max(wanted, limits.max_images + 1)} fills them"
    )
