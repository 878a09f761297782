"""Two linear maps of each patch with a GELU between: LLaVA-1.5's connector (Liu et al.
2023, arXiv:2310.03744)."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, on_grid, pool, square_side
from mm1.ranges import NonNegativeInt


class MLPConnector(Connector):
    """One token per patch, or per window of a pooled grid."""

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
        self.input = nn.Linear(input_dim, output_dim)
        self.output = nn.Linear(output_dim, output_dim)

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        x = on_grid(patches, self.grid)
        if self.side is not None:
            x = pool(x, self.side)
        return self.output(F.gelu(self.input(x.flatten(1, 2))))

    def flops(self) -> int:
        weights = self.input.weight.numel() + self.output.weight.numel()
        return 6 * self.num_tokens * weights
