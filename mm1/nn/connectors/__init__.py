"""What a vision-language connector is (MM1, section 3.2).

A connector turns the encoder's grid of patches into `num_tokens` tokens in the
decoder's space. To add one, add a file to this folder: it is then covered by
`tests/nn/test_connectors.py`, and runs with
`model.connector=<file>`. A connector file imports torch and
typing, and this contract, alone: an exported model carries its connector's file with
it. `docs/connectors.md` compares them.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mm1.config import ConfigError
from mm1.nn.model import Module
from mm1.nn.position import interpolate

__all__ = ["ConfigError", "Connector", "interpolate", "on_grid", "pool", "square_side"]


class Connector(Module):
    """Patches of an h x w grid -> `num_tokens` tokens of the decoder's width."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        num_tokens: int = 144
        """Tokens for each image; a square number for the spatial connectors."""

        def build(
            self, *, grid: tuple[int, int], input_dim: int, output_dim: int
        ) -> "Connector":
            """`grid` is (rows, columns) of patches at the resolution that the weights
            are made for.

            Raises:
                ConfigError: the options do not go together.
            """
            return self.make(grid=grid, input_dim=input_dim, output_dim=output_dim)

    num_tokens: int
    """Tokens that it gives for each image; every connector sets it when it is built."""

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N K D"]:
        raise NotImplementedError

    def flops(self) -> int:
        """Operations of forward and backward for one image."""
        raise NotImplementedError


def square_side(num_tokens: int) -> int:
    """The side of a square of `num_tokens` tokens.

    Raises:
        ConfigError: there is no such square.
    """
    side = round(max(num_tokens, 0) ** 0.5)
    if side == 0 or side * side != num_tokens:
        near = sorted({max(1, side - 1) ** 2, max(1, side) ** 2, (side + 1) ** 2})
        raise ConfigError(
            "num_tokens must be a square number for a spatial connector, got"
            f" {num_tokens}; near it are {', '.join(map(str, near))}"
        )
    return side


def on_grid(
    patches: Float[Tensor, "N P E"], grid: tuple[int, int]
) -> Float[Tensor, "N h w E"]:
    """Patches, row by row, as a map.

    Raises:
        ValueError: their number is not the grid's.
    """
    if patches.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f"the connector is built for a grid of {grid[0]} x {grid[1]} ="
            f" {grid[0] * grid[1]} patches, got {patches.shape[1]}; build it with the"
            " encoder's grid and leave class and register tokens out"
        )
    return patches.unflatten(1, grid)


def pool(map_: Float[Tensor, "N h w E"], side: int) -> Float[Tensor, "N side side E"]:
    """Means over side x side windows; they overlap where the grid does not divide
    evenly (torch's adaptive pooling)."""
    return F.adaptive_avg_pool2d(map_.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
