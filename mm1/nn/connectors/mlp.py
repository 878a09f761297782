"""Two linear maps of each patch with a GELU between: the connector of LLaVA-1.5 (Liu et
al. 2023, arXiv:2310.03744)."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, on_grid, pool, square_side


class MLPConnector(Connector):
    """A token for each patch, or for each window of a pooled grid."""

    @dataclass(kw_only=True, slots=True)
    class Config(Connector.Config):
        num_tokens: int = 0
        """Tokens for each image; 0: one for each patch, else a square number to which
        the grid is pooled first."""

    def __init__(
        self, config: Config, *, grid: tuple[int, int], input_dim: int, output_dim: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.side = square_side(config.num_tokens) if config.num_tokens else None
        self.num_tokens = config.num_tokens or grid[0] * grid[1]
        self.input = nn.Linear(input_dim, output_dim)
        self.output = nn.Linear(output_dim, output_dim)

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N K D"]:
        x = on_grid(patches, self.grid)
        return self.output(
            F.gelu(self.input((pool(x, self.side) if self.side else x).flatten(1, 2)))
        )

    def flops(self) -> int:
        return (
            6
            * self.num_tokens
            * (self.input.weight.numel() + self.output.weight.numel())
        )
