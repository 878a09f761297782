"""C-Abstractor: convolutions before and after pooling (Honeybee, arXiv:2312.06742;
MM1's final connector).

    patches + positions -> stage -> average to sqrt(K) x sqrt(K) -> stage -> MLP

A stage is `depth` residual blocks. Reimplemented after khanrc/honeybee (Apache-2.0)
with channels last: a 1 x 1 convolution is a linear map, and the norm torch's LayerNorm.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import (
    ConfigError,
    Connector,
    interpolate,
    on_grid,
    pool,
    square_side,
)
from mm1.ranges import NonNegativeInt, PositiveInt, Range


class CAbstractor(Connector):
    """Keeps the locality of patches, which attention pooling loses."""

    @dataclass(kw_only=True, slots=True)
    class Config(Connector.Config):
        num_tokens: NonNegativeInt = 144
        """Tokens per image, a square number."""
        dim: Annotated[int, Range(4)] = 1024
        """Channels of the feature maps."""
        depth: PositiveInt = 3
        """Blocks in each of the two stages."""

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
        if input_dim < 4:
            raise ConfigError(
                "the C-Abstractor needs an encoder of width 4 or more, not"
                f" {input_dim}; AveragePool and MLPConnector have no convolutions"
            )
        self.side = square_side(self.num_tokens, grid)
        self.position = nn.Parameter(torch.empty(*grid, input_dim))
        self.before = _stage(config.depth, input_dim, config.dim)
        self.after = _stage(config.depth, config.dim, config.dim)
        self.output = nn.Sequential(
            nn.Linear(config.dim, output_dim),
            nn.SiLU(),
            nn.Linear(output_dim, output_dim),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        x = pool(
            self.before(on_grid(patches, self.grid) + self.position), self.side
        )
        return self.output(self.after(x).flatten(1, 2))

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state | {
            name: interpolate(t, self.grid)
            for name, t in state.items()
            if name == "position"
        }

    def flops(self) -> int:
        h, w = self.grid
        output = self.num_tokens * sum(
            p.numel() for p in self.output.parameters() if p.ndim > 1
        )
        before = _multiplications(self.before, h * w)
        after = _multiplications(self.after, self.num_tokens)
        return 6 * (before + after + output)


class RegNetBlock(nn.Module):
    """RegNet's residual block with Honeybee's options: 1 x 1, depthwise 3 x 3,
    squeeze-and-excite, 1 x 1."""

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(input_dim, dim, bias=False)
        self.expand_norm = nn.LayerNorm(dim)
        self.depthwise = nn.Conv2d(
            dim, dim, 3, padding=1, groups=dim, bias=False
        )
        self.depthwise_norm = nn.LayerNorm(dim)
        narrow = round(input_dim / 4)
        self.squeeze = nn.Linear(dim, narrow)
        self.excite = nn.Linear(narrow, dim)
        self.contract = nn.Linear(dim, dim, bias=False)
        self.contract_norm = nn.LayerNorm(dim)
        same = input_dim == dim
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Linear(input_dim, dim, bias=False), nn.LayerNorm(dim)
            )
        )

    def forward(self, x: Float[Tensor, "N h w E"]) -> Float[Tensor, "N h w C"]:
        y = F.silu(self.expand_norm(self.expand(x)))
        y = self.depthwise(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = F.silu(self.depthwise_norm(y))
        weight = self.excite(F.silu(self.squeeze(y.mean((1, 2), keepdim=True))))
        y = self.contract_norm(self.contract(y * weight.sigmoid()))
        return F.silu(y + self.shortcut(x))


def _stage(depth: int, input_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        *(RegNetBlock(dim if i else input_dim, dim) for i in range(depth))
    )


def _multiplications(stage: nn.Sequential, num_positions: int) -> int:
    """Multiplications of a stage: squeeze and excite run once per feature map, all
    other weights at each of its positions."""
    total = 0
    for name, weight in stage.named_parameters():
        if weight.ndim > 1:
            once = ".squeeze." in name or ".excite." in name
            total += weight.numel() * (1 if once else num_positions)
    return total
