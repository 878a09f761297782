"""What prompts have in common."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from mm1.data.document import Image
from mm1.data.render import Grid, RenderedDocument


def common_prefix_length(sequences: Sequence[RenderedDocument]) -> int:
    """Number of tokens that all sequences begin with.

    An image is in the prefix whole or not at all; one token of each sequence is left.
    """
    if not sequences:
        return 0
    first = sequences[0]
    shared = min(len(sequence.tokens) for sequence in sequences) - 1
    for other in sequences:
        same = first.tokens[:shared] == other.tokens[:shared]
        shared = shared if same.all() else int(same.argmin())
        for one, two in zip_longest(_images(first), _images(other)):
            if (
                one is not None
                and one[0] < shared
                and (one != two or one[1] > shared)
            ):
                shared = one[0]
    return shared


def _images(
    sequence: RenderedDocument,
) -> Iterator[tuple[int, int, Image, Grid]]:
    """(first token, token after the last, image, grid) of each image."""
    for (begin, end), image, grid in zip(
        sequence.image_spans, sequence.images, sequence.grids, strict=True
    ):
        yield begin, end, image, grid
