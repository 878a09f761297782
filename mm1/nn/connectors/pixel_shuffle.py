"""Pixel shuffle, then one linear map: the connector of Idefics3 (Laurençon et al. 2024,
arXiv:2408.12637), SmolVLM (arXiv:2504.05299) and nanoVLM."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import ConfigError, Connector, on_grid
from mm1.ranges import NonNegativeInt


class PixelShuffle(Connector):
    """Each token is a block of scale_factor x scale_factor patches, side by side in its
    channels, mapped linearly.

    The channels of a block are ordered by row, column and channel of the patch, as in
    Idefics3, so its `modality_projection.proj.weight` loads as `output.weight`.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Connector.Config):
        num_tokens: NonNegativeInt = 0
        """Tokens per image. 0: one per block; any other number must equal that."""
        scale_factor: NonNegativeInt = 2
        """Side of a block, in patches; it must divide both sides of the grid."""

        def tokens_for(self, grid: tuple[int, int]) -> int:
            h, w = grid
            possible = {
                factor: h * w // factor**2
                for factor in range(1, min(grid) + 1)
                if h % factor == w % factor == 0
            }
            num_tokens = possible.get(self.scale_factor)
            if num_tokens is None or self.num_tokens not in (0, num_tokens):
                choices = ", ".join(
                    f"{f} ({n} tokens)" for f, n in possible.items()
                )
                raise ConfigError(
                    f"scale_factor={self.scale_factor} with"
                    f" num_tokens={self.num_tokens} does not fit a grid of {h} x {w}"
                    f" patches; possible scale factors are {choices}"
                )
            return num_tokens

    def __init__(
        self,
        config: Config,
        *,
        grid: tuple[int, int],
        input_dim: int,
        output_dim: int,
    ) -> None:
        super().__init__(config, grid)
        self.scale_factor = config.scale_factor
        self.output = nn.Linear(
            input_dim * config.scale_factor**2, output_dim, bias=False
        )

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        side = self.scale_factor
        x = on_grid(patches, self.grid)
        x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
        blocks = x.transpose(2, 3).flatten(3)
        return self.output(blocks.flatten(1, 2))

    def flops(self) -> int:
        return 6 * self.num_tokens * self.output.weight.numel()
