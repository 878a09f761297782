"""What a vision-language connector is (MM1, section 3.2).

A connector turns the encoder's grid of patches into `num_tokens` tokens in the decoder's space. To add one, add a file
to this folder: it is then covered by `tests/nn/test_connectors.py`, and runs with
`model.connector=mm1.nn.connectors.<file>:<Class>`. A connector file imports torch and typing, and this contract, alone:
an exported model carries its connector's file with it.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mm1.nn.model import Module
from mm1.nn.position import interpolate

__all__ = ["Connector", "interpolate", "square_side"]


class Connector(Module):
    """Patches of an h x w grid -> `num_tokens` tokens of the decoder's width."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        num_tokens: int = 144
        """Tokens for each image; a square number for the spatial connectors."""

        def build(self, *, grid: tuple[int, int], input_dim: int, output_dim: int) -> "Connector":
            """`grid` is (rows, columns) of patches at the resolution that the weights are made for."""
            return self.make(grid=grid, input_dim=input_dim, output_dim=output_dim)

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N K D"]:
        raise NotImplementedError

    def flops(self) -> int:
        """Operations of forward and backward for one image."""
        raise NotImplementedError


def square_side(num_tokens: int) -> int:
    side = round(num_tokens**0.5)
    if side * side != num_tokens:
        raise ValueError(f"num_tokens must be a square number for a spatial connector, got {num_tokens}")
    return side
