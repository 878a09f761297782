"""Attention pooling with learnt queries (MM1, section 3.2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.connectors import ConfigError, Connector, on_grid
from mm1.ranges import PositiveInt


class AttentionPool(Connector):
    """Learnt queries attend to all patches.

    There are no position embeddings here: where a patch lies is known only from the
    encoder's features.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Connector.Config):
        dim: PositiveInt = 1024
        """Width of queries and hidden states."""
        depth: PositiveInt = 1
        """Blocks of cross-attention and feed-forward."""
        num_heads: PositiveInt = 16

    def __init__(
        self,
        config: Config,
        *,
        grid: tuple[int, int],
        input_dim: int,
        output_dim: int,
    ) -> None:
        super().__init__(config, grid)
        if config.dim % config.num_heads:
            raise ConfigError(
                f"dim={config.dim} must be a multiple of num_heads={config.num_heads}"
            )
        self.dim = config.dim
        self.queries = nn.Parameter(torch.empty(config.num_tokens, config.dim))
        self.input = nn.Linear(input_dim, config.dim)
        self.input_norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(
            CrossAttentionBlock(config.dim, config.num_heads)
            for _ in range(config.depth)
        )
        self.output_norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, output_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.queries, std=0.02)

    def forward(
        self, patches: Float[Tensor, "N P E"]
    ) -> Float[Tensor, "N K D"]:
        memory = self.input_norm(
            self.input(on_grid(patches, self.grid).flatten(1, 2))
        )
        x = self.queries.expand(len(patches), -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return self.output(self.output_norm(x))

    def flops(self) -> int:
        """6 per weight and position, 12 per query, patch and channel of attention."""
        queries = self.num_tokens
        patches = self.grid[0] * self.grid[1]
        layer = (
            queries * 10 * self.dim**2
            + patches * 2 * self.dim**2
            + 2 * queries * patches * self.dim
        )
        ends = (
            patches * self.input.weight.numel()
            + queries * self.output.weight.numel()
        )
        return 6 * (len(self.layers) * layer + ends)


class CrossAttentionBlock(nn.Module):
    """Pre-norm cross-attention, then a feed-forward four times as wide."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.mix = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(
        self, x: Float[Tensor, "N K C"], memory: Float[Tensor, "N P C"]
    ) -> Float[Tensor, "N K C"]:
        q = self.query(self.query_norm(x))
        k, v = self.key_value(memory).chunk(2, -1)
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in (q, k, v)
        )
        x = x + self.mix(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return x + self.feed_forward(self.feed_forward_norm(x))
