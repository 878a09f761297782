"""The contract of a vision-language connector (MM1, section 3.2).

A connector turns the encoder's grid of patches into `num_tokens` tokens of the
decoder's width. It is also called a projector or an adapter.

To add one, add a file to this folder. `tests/nn/test_connectors.py` finds it, and
`model.connector=FILE` selects it. If it does not take every
grid or number of tokens, its Config overrides `tokens_for`. A connector's file may only
import torch, dataclasses, typing, jaxtyping and this module, because exported models
carry a copy of it. `docs/connectors.md` compares the connectors.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mm1.config import ConfigError
from mm1.nn.model import Module
from mm1.nn.position import interpolate
from mm1.ranges import NonNegativeInt

__all__ = [
    "ConfigError",
    "Connector",
    "interpolate",
    "on_grid",
    "pool",
    "square_side",
]


class Connector(Module):
    """Maps the patches of an h x w grid to `num_tokens` tokens of the decoder's
    width."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        num_tokens: NonNegativeInt = 144
        """Tokens per image."""

        def tokens_for(self, grid: tuple[int, int]) -> int:
            """The number of tokens that a grid of (rows, columns) patches becomes.

            Without an override, every grid becomes `num_tokens` tokens.

            Raises:
                ConfigError: this grid and these options do not fit. The message names
                    the grid, `num_tokens` and what would fit.
            """
            if self.num_tokens < 1:
                raise ConfigError(
                    f"num_tokens={self.num_tokens} for a grid of {grid[0]} x {grid[1]}"
                    " patches must be at least 1"
                )
            return self.num_tokens

        def build(
            self, *, grid: tuple[int, int], input_dim: int, output_dim: int
        ) -> "Connector":
            """Build a connector for a grid of (rows, columns) patches, which is fixed.

            Raises:
                ConfigError: the options and the grid do not fit together.
            """
            return self.make(
                grid=grid, input_dim=input_dim, output_dim=output_dim
            )

    def __init__(self, config: Config, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.num_tokens = config.tokens_for(grid)

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        """The tokens of N images, from their patches row by row."""
        raise NotImplementedError

    def flops(self) -> int:
        """Floating-point operations of forward and backward for one image."""
        raise NotImplementedError


def square_side(num_tokens: int, grid: tuple[int, int]) -> int:
    """The side of the square of `num_tokens` tokens that a grid is pooled to.

    Raises:
        ConfigError: `num_tokens` is not a square number.
    """
    side = round(max(num_tokens, 0) ** 0.5)
    if side == 0 or side * side != num_tokens:
        nearest = sorted(
            {max(1, side - 1) ** 2, max(1, side) ** 2, (side + 1) ** 2}
        )
        raise ConfigError(
            f"num_tokens={num_tokens} does not fit: a grid of {grid[0]} x"
            f" {grid[1]} patches is pooled to a square of tokens, so choose a square"
            f" number, such as {', '.join(map(str, nearest))}"
        )
    return side


def on_grid(
    patches: Float[Tensor, "N P E"], grid: tuple[int, int]
) -> Float[Tensor, "N h w E"]:
    """Arrange patches, given row by row, as a feature map.

    Raises:
        ValueError: the number of patches is not the grid's.
    """
    if patches.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f"the connector is built for a grid of {grid[0]} x {grid[1]} ="
            f" {grid[0] * grid[1]} patches, got {patches.shape[1]}; build it with the"
            " encoder's grid and leave class and register tokens out"
        )
    return patches.unflatten(1, grid)


def pool(
    features: Float[Tensor, "N h w E"], side: int
) -> Float[Tensor, "N s s E"]:
    """Average over side x side windows.

    Windows overlap where `side` does not divide the grid (torch's adaptive pooling).
    """
    return F.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), side).permute(
        0, 2, 3, 1
    )
