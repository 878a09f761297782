"""One linear map of each patch: the connector of LLaVA (Liu et al. 2023,
arXiv:2304.08485)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, on_grid, pool, square_side


class LinearConnector(Connector):
    """A token for each patch; with a number of tokens it is average pooling, so that
    both compare at equal tokens."""

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
        self.output = nn.Linear(input_dim, output_dim)

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N K D"]:
        x = on_grid(patches, self.grid)
        return self.output((pool(x, self.side) if self.side else x).flatten(1, 2))

    def flops(self) -> int:
        return 6 * self.num_tokens * self.output.weight.numel()
