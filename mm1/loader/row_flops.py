"""What a row costs a model, known from its plan."""

from mm1.data.render import UnitFlops
from mm1.loader.mixture_state import Row


def row_flops(row: Row, unit: UnitFlops, tokens_per_image: int) -> int:
    """Floating-point operations of a row, beyond what all rows cost alike.

    Index tokens and texts without loss are counted as targets. Integers, so that rows
    are sorted alike on any machine.
    """
    images = sum(segment.images for segment in row)
    lengths = [segment.stop - segment.start for segment in row]
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    text_tokens = sum(lengths) - images * tokens_per_image
    return (
        images * unit.image + pairs * unit.pair + text_tokens * unit.text_token
    )
