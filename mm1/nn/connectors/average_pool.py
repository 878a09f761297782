"""Average pooling of the patch grid, then one linear map (MM1, section 3.2)."""

from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, on_grid, pool, square_side


class AveragePool(Connector):
    """Each token is the mean over its share of the grid; shares overlap where the grid
    does not divide evenly."""

    def __init__(
        self,
        config: Connector.Config,
        *,
        grid: tuple[int, int],
        input_dim: int,
        output_dim: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.side = square_side(config.num_tokens)
        self.num_tokens = config.num_tokens
        self.output = nn.Linear(input_dim, output_dim)

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N K D"]:
        return self.output(pool(on_grid(patches, self.grid), self.side).flatten(1, 2))

    def flops(self) -> int:
        return 6 * self.num_tokens * self.output.weight.numel()
