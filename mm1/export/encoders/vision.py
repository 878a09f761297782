"""What the published image encoders have in common: which of our ViT's tensors are
which of theirs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.export.mapping import Link, Reshaped, Rows, Shape, same
from mm1.export.options import Options
from mm1.nn.block import Activation
from mm1.nn.vit import ViT

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""The names of transformers -> ours."""

ACTIVATION_NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}


T = TypeVar("T")

LEFT_OVER = (
    "num_beam_groups tie_word_embeddings pad_token_id bos_token_id eos_token_id"
    " sep_token_id model_type"
)
"""Keys of text and of generation that transformers wrote into the configs of encoders
too."""


def part(options: Options, key: str) -> Options:
    """The options under `key`, none where there is no such key; `key`_dict, in old
    configs of CLIP, takes its place."""
    plain = options.take(key, {})
    amended = options.take(f"{key}_dict", {})
    return Options(amended or plain, Path(f"{options.origin}: {key}"))


def choice(options: Options, key: str, default: str, known: Mapping[str, T]) -> T:
    """What one of the `known` values means."""
    value = options.take(key, default)
    if value not in known:
        options.refuse(key, value, f"only {', '.join(known)} can be imported")
    return known[value]


def pixels(options: Options, key: str, default: int) -> int | tuple[int, int]:
    """One side of a square, or (height, width)."""
    value = options.raw(key)
    value = default if value is None else value
    sides = [value, value] if isinstance(value, int) else value
    if not (
        isinstance(sides, list)
        and len(sides) == 2
        and all(type(side) is int and side > 0 for side in sides)
    ):
        options.refuse(key, value, "it must be a number of pixels, or height and width")
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def side(options: Options, key: str, default: int) -> int:
    """The side of a square."""
    value = pixels(options, key, default)
    return (
        value
        if isinstance(value, int)
        else options.refuse(key, list(value), "only squares are supported")
    )


def finish(options: Options, idle: str = "") -> None:
    """Raises ConfigError for options that were not asked for; `idle` ones say nothing
    here."""
    for key in f"{LEFT_OVER} {idle}".split():
        options.raw(key)
    options.finish()


def covered(size: int | tuple[int, int], patch: int) -> int | tuple[int, int]:
    """What patches cover of such pictures; transformers and open_clip leave out the
    rest, at the right and below."""
    height, width = (
        (s // patch * patch) for s in ((size, size) if isinstance(size, int) else size)
    )
    return height if isinstance(size, int) else (height, width)


def image_size(config: ViT.Config) -> tuple[int, int]:
    """(height, width) in pixels."""
    size = config.image_size
    return (size, size) if isinstance(size, int) else size


def grid(config: ViT.Config) -> tuple[int, int]:
    """Patches: (rows, columns)."""
    height, width = image_size(config)
    return height // config.patch_size, width // config.patch_size


def under(links: Sequence[Link], ours: str, theirs: str) -> list[Link]:
    """The same links for tensors whose names begin with these."""
    return [
        replace(
            link,
            ours=tuple(ours + n for n in link.ours),
            theirs=tuple(theirs + n for n in link.theirs),
        )
        for link in links
    ]


def layer(ours: str, theirs: str, *, bias: bool = True) -> list[Link]:
    """A linear map or a norm."""
    return same(
        {
            f"{ours}.{name}": f"{theirs}.{name}"
            for name in ("weight", "bias")[: 1 + bias]
        }
    )


@dataclass(frozen=True, slots=True)
class Constant(Link):
    """A tensor of theirs that we have not, because it does nothing with this value."""

    shape: Shape
    value: float

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        if not theirs[0].is_meta and not (theirs[0] == self.value).all():
            raise ConfigError(
                f"{self.theirs[0]} must be {self.value:g} throughout: the encoder has"
                " no such weights"
            )
        return []

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [torch.full(self.shape, self.value)]


@dataclass(frozen=True, slots=True)
class ClassAndPositions(Link):
    """A table whose first row is the class token's: ours has it added into the token,
    and a row of zeros is written."""

    grid: tuple[int, int]
    leading: Shape
    """Axes of length one before those of their tensors."""

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        token = theirs[0].flatten()
        table = theirs[1].flatten(0, -2)
        return [token.float() + table[0].float(), table[1:].unflatten(0, self.grid)]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        token, table = ours
        rows = torch.cat((torch.zeros_like(table[0, :1]), table.flatten(0, 1)))
        return [
            token.view(*self.leading, *self.leading, -1),
            rows.view(*self.leading, *rows.shape),
        ]


def class_and_positions(
    config: ViT.Config, token: str, table: str, *, leading: Shape = ()
) -> Link:
    return ClassAndPositions(
        ("class_token", "position"), (token, table), grid(config), leading
    )


def positions(config: ViT.Config, theirs: str) -> Link:
    """A table of patches alone, row by row."""
    h, w = grid(config)
    dim = config.dim
    return Reshaped(("position",), (theirs,), (h, w, dim), (h * w, dim))


def patches(config: ViT.Config, theirs: str, *, bias: bool = True) -> list[Link]:
    """Their convolution, whose weights by channel, row and column are the rows of our
    linear map.

    Where they have a bias (`bias`) and we do not, it is zero.
    """
    side = config.patch_size
    dim = config.dim
    shapes = (dim, 3 * side**2), (dim, 3, side, side)
    links: list[Link] = [Reshaped(("patchify.weight",), (f"{theirs}.weight",), *shapes)]
    if config.patch_bias:
        return [*links, *same({"patchify.bias": f"{theirs}.bias"})]
    return [*links, Constant((), (f"{theirs}.bias",), (dim,), 0.0)] if bias else links


def linear(
    ours: str, theirs: Sequence[str], sizes: Shape, *, bias: bool = True
) -> list[Link]:
    """Linear maps of theirs, of `sizes` outputs each, that are one of ours; where ours
    has no bias, theirs are zero."""
    weights, biases = (
        tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")
    )
    links: list[Link] = [Rows((f"{ours}.weight",), weights, sizes)]
    if bias:
        return [*links, Rows((f"{ours}.bias",), biases, sizes)]
    return [
        *links,
        *(
            Constant((), (name,), (size,), 0.0)
            for name, size in zip(biases, sizes, strict=True)
        ),
    ]


def blocks(
    depth: int, ours: str, theirs: str, one: Callable[[str, str], Sequence[Link]]
) -> list[Link]:
    return [link for i in range(depth) for link in one(f"{ours}.{i}", f"{theirs}.{i}")]
