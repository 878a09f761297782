"""Links between the tensors of our ViT and of published image encoders, as far as
several families share them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.export.encoders.values import patch_grid
from mm1.export.mapping import Link, Reshaped, Rows, Shape, same
from mm1.nn.vit import ViT


def with_prefixes(links: Sequence[Link], ours: str, theirs: str) -> list[Link]:
    """The same links between tensors whose names start with these prefixes."""
    return [
        replace(
            link,
            ours=tuple(ours + name for name in link.ours),
            theirs=tuple(theirs + name for name in link.theirs),
        )
        for link in links
    ]


def layer_links(ours: str, theirs: str, *, bias: bool = True) -> list[Link]:
    """Of a linear map or a norm."""
    names = ("weight", "bias") if bias else ("weight",)
    return same({f"{ours}.{name}": f"{theirs}.{name}" for name in names})


@dataclass(frozen=True, slots=True)
class ConstantTensor(Link):
    """A tensor of theirs that we lack, because with this value it does nothing."""

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
    """A table of positions whose first row belongs to the class token.

    Ours has that row added to the token; exports write a row of zeros.
    """

    grid: tuple[int, int]
    leading: Shape
    """Axes of length one in front of those of their tensors."""

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        token = theirs[0].flatten()
        table = theirs[1].flatten(0, -2)
        return [
            token.float() + table[0].float(),
            table[1:].unflatten(0, self.grid),
        ]

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
        ("class_token", "position"), (token, table), patch_grid(config), leading
    )


def position_link(config: ViT.Config, theirs: str) -> Link:
    """Of a table for the patches alone, row by row."""
    h, w = patch_grid(config)
    dim = config.dim
    return Reshaped(("position",), (theirs,), (h, w, dim), (h * w, dim))


def patchify_links(
    config: ViT.Config, theirs: str, *, bias: bool = True
) -> list[Link]:
    """Of their convolution, whose weights by channel, row and column are the rows of
    our linear map.

    Where theirs always has a bias (`bias`) and ours has none, it is zero.
    """
    side = config.patch_size
    dim = config.dim
    shapes = (dim, 3 * side**2), (dim, 3, side, side)
    links: list[Link] = [
        Reshaped(("patchify.weight",), (f"{theirs}.weight",), *shapes)
    ]
    if config.patch_bias:
        return [*links, *same({"patchify.bias": f"{theirs}.bias"})]
    return (
        [*links, ConstantTensor((), (f"{theirs}.bias",), (dim,), 0.0)]
        if bias
        else links
    )


def linear_links(
    ours: str, theirs: Sequence[str], sizes: Shape, *, bias: bool = True
) -> list[Link]:
    """Of linear maps of theirs, with `sizes` outputs each, that are one of ours.

    Where ours has no bias, theirs are zero.
    """
    weights = tuple(f"{name}.weight" for name in theirs)
    biases = tuple(f"{name}.bias" for name in theirs)
    links: list[Link] = [Rows((f"{ours}.weight",), weights, sizes)]
    if bias:
        return [*links, Rows((f"{ours}.bias",), biases, sizes)]
    zeros = zip(biases, sizes, strict=True)
    return [
        *links,
        *(ConstantTensor((), (name,), (size,), 0.0) for name, size in zeros),
    ]


def stacked_rows(ours: str, theirs: Sequence[str], rows: int) -> Link:
    """Of maps without biases, with `rows` outputs each, that are one of ours."""
    return Rows(
        (f"{ours}.weight",),
        tuple(f"{name}.weight" for name in theirs),
        (rows,) * len(theirs),
    )


def block_links(
    depth: int,
    ours: str,
    theirs: str,
    one: Callable[[str, str], Sequence[Link]],
) -> list[Link]:
    """`one(our prefix, their prefix)` for each of `depth` blocks."""
    return [
        link
        for i in range(depth)
        for link in one(f"{ours}.{i}", f"{theirs}.{i}")
    ]
