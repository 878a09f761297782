"""One linear map of each patch: LLaVA's connector (Liu et al. 2023,
arXiv:2304.08485)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, on_grid, pool, square_side
from mm1.ranges import NonNegativeInt


class LinearConnector(Connector):
    """One token per patch.

    With `num_tokens` set it equals average pooling, for comparisons at the same number
    of tokens.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Connector.Config):
        num_tokens: NonNegativeInt = 0
        """Tokens per image. 0: one per patch; otherwise a square number that the grid
        is first pooled to."""

        def tokens_for(self, grid: tuple[int, int]) -> int:
            if self.num_tokens == 0:
                return grid[0] * grid[1]
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
        self.side = (
            square_side(self.num_tokens, grid) if config.num_tokens else None
        )
        self.output = nn.Linear(input_dim, output_dim)

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        x = on_grid(patches, self.grid)
        if self.side is not None:
            x = pool(x, self.side)
        return self.output(x.flatten(1, 2))

    def flops(self) -> int:
        return 6 * self.num_tokens * self.output.weight.numel()
