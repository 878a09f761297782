"""The transformer block of encoder, text tower and decoder; they differ in the parts
that they put in."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.attention import Attention, AttentionContext
from mm1.nn.linear import Linear
from mm1.nn.position import RotaryEmbedding

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
NormPlacement = Literal["pre", "post"]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); with post-norms x +
    norm(attention(x)) and so on.

    `scale` makes the layer scale that each of the two sums passes through (CaiT,
    arXiv:2103.17239).
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: nn.Module,
        norm: Callable[[], nn.Module],
        scale: Callable[[], nn.Module] = nn.Identity,
        norm_placement: NormPlacement = "pre",
    ) -> None:
        super().__init__()
        self.norm_placement = norm_placement
        self.attention_norm = norm()
        self.attention = attention
        self.attention_scale = scale()
        self.feed_forward_norm = norm()
        self.feed_forward = feed_forward
        self.feed_forward_scale = scale()

    def forward(
        self,
        x: Float[Tensor, "*batch D"],
        context: AttentionContext,
        rotary: RotaryEmbedding | None = None,
    ) -> Float[Tensor, "*batch D"]:
        x = self.attend(x, context, rotary)
        if self.norm_placement == "post":
            return x + self.feed_forward_scale(
                self.feed_forward_norm(self.feed_forward(x))
            )
        return x + self.feed_forward_scale(self.feed_forward(self.feed_forward_norm(x)))

    def attend(
        self,
        x: Float[Tensor, "*batch D"],
        context: AttentionContext,
        rotary: RotaryEmbedding | None,
    ) -> Float[Tensor, "*batch D"]:
        """The first half of the block."""
        if self.norm_placement == "post":
            return x + self.attention_scale(
                self.attention_norm(self.attention(x, context, rotary))
            )
        return x + self.attention_scale(
            self.attention(self.attention_norm(x), context, rotary)
        )


class LayerScale(nn.Module):
    """A learnt factor for each channel, which starts small: deep blocks begin close to
    the identity."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.start)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return x * self.weight


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202); gate and up are one
    product."""

    def __init__(
        self, dim: int, hidden_dim: int, *, gain: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.gate_up = Linear(dim, 2 * hidden_dim, bias=bias)
        self.down = Linear(hidden_dim, dim, bias=bias, gain=gain)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class MLP(nn.Module):
    """down(activation(up(x))), as in the towers of CLIP."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        activation: Activation,
        gain: float,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.up = Linear(dim, hidden_dim, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.down = Linear(hidden_dim, dim, bias=bias, gain=gain)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return self.down(self.activation(self.up(x)))


def quick_gelu(x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """The cheap approximation that OpenAI's and DFN's CLIP weights were trained
    with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def clip_block(
    dim: int,
    num_heads: int,
    hidden_dim: int,
    *,
    activation: Activation,
    depth: int,
    norm_eps: float = 1e-5,
) -> Block:
    """LayerNorm, biases and an MLP: a block of CLIP's towers `depth` blocks deep."""
    gain = (2 * depth) ** -0.5
    attention = Attention(dim, num_heads=num_heads, bias=True, gain=gain)
    feed_forward = MLP(dim, hidden_dim, activation=activation, gain=gain)
    return Block(attention, feed_forward, lambda: nn.LayerNorm(dim, eps=norm_eps))
