"""Sizes and activations, which published image encoders write alike."""

from mm1.export.fields import Fields
from mm1.export.options import Options
from mm1.nn.block import Activation
from mm1.nn.vit import ViT

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Names in transformers -> ours."""

ACTIVATION_NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}

PREPROCESSING = ("mean", "std", "resize", "interpolation")
"""Fields of `ViT.Config` that a format writes into another file: see
`mm1.export.preprocessor`."""


def from_pixels(
    options: Options, key: str, default: int
) -> int | tuple[int, int]:
    """The side of a square, or (height, width)."""
    value = options.raw(key)
    value = default if value is None else value
    sides = [value, value] if isinstance(value, int) else value
    if not (
        isinstance(sides, list)
        and len(sides) == 2
        and all(type(side) is int and side > 0 for side in sides)
    ):
        options.refuse(
            key, value, "it must be a number of pixels, or height and width"
        )
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def from_side(options: Options, key: str, default: int) -> int:
    """The side of a square."""
    value = from_pixels(options, key, default)
    if not isinstance(value, int):
        options.refuse(key, list(value), "only squares are supported")
    return value


def to_image_side(encoder: Fields) -> int:
    """The side of square pictures."""
    encoder.take("image_size")
    height, width = input_size(encoder.config)
    if height != width:
        encoder.refuse("image_size", "which must be square")
    return height


def covered_size(
    size: int | tuple[int, int], patch: int
) -> int | tuple[int, int]:
    """The pixels that whole patches cover; transformers and open_clip ignore the rest,
    at the right and at the bottom."""
    if isinstance(size, int):
        return size // patch * patch
    height, width = size
    return height // patch * patch, width // patch * patch


def input_size(config: ViT.Config) -> tuple[int, int]:
    """(height, width) in pixels."""
    size = config.image_size
    return (size, size) if isinstance(size, int) else size


def patch_grid(config: ViT.Config) -> tuple[int, int]:
    """(rows, columns) of patches."""
    height, width = input_size(config)
    return height // config.patch_size, width // config.patch_size
