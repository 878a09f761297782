"""Average pooling of the patch grid, then a linear map (MM1, section 3.2)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, on_grid, pool, square_side
from mm1.ranges import NonNegativeInt


class AveragePool(Connector):
    """Each token is the mean over one window of the grid, mapped linearly."""

    @dataclass(kw_only=True, slots=True)
    class Config(Connector.Config):
        num_tokens: NonNegativeInt = 144
        """Tokens per image, a square number."""

        def tokens_for(self, grid: tuple[int, int]) -> int:
            return square_side(self.num_tokens, grid) ** 2

    def __init__(
        self,
        config: Config,
        *,
        grid: tuple[int, int],
        input_dim: int,
        output_dim: int,
    ) -> None:
        super().__init__(config, grid)
        self.side = square_side(self.num_tokens, grid)
        self.output = nn.Linear(input_dim, output_dim)

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        return self.output(
            pool(on_grid(patches, self.grid), self.side).flatten(1, 2)
        )

    def flops(self) -> int:
        return 6 * self.num_tokens * self.output.weight.numel()
