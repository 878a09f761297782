"""Average pooling of the patch grid, then one linear map (MM1, section 3.2)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import Connector, square_side


class AveragePool(Connector):
    """Each token is the mean over its share of the grid; shares overlap where the grid does not divide evenly."""

    def __init__(self, config: Connector.Config, *, grid: tuple[int, int], input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.grid, self.side = grid, square_side(config.num_tokens)
        self.output = nn.Linear(input_dim, output_dim)

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N K D"]:
        x = patches.unflatten(1, self.grid).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(x, self.side)
        return self.output(pooled.permute(0, 2, 3, 1).flatten(1, 2))

    def flops(self) -> int:
        return 6 * self.side**2 * self.output.weight.numel()
