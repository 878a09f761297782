"""The transformer block of image encoder, text tower and decoder, which differ in the
modules they pass in."""

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


class AttentionBlock(nn.Module):
    """The modules of a block, and its attention half. Subclasses run the feed-forward.

    `scale` makes the LayerScale of each of the two residual branches (CaiT,
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

    def attend(
        self,
        x: Float[Tensor, "*batch D"],
        context: AttentionContext,
        rotary: RotaryEmbedding | None,
    ) -> Float[Tensor, "*batch D"]:
        """The attention half of the block."""
        if self.norm_placement == "post":
            return x + self.attention_scale(
                self.attention_norm(self.attention(x, context, rotary))
            )
        return x + self.attention_scale(
            self.attention(self.attention_norm(x), context, rotary)
        )


class Block(AttentionBlock):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); post-norm is x +
    norm(attention(x)) and so on."""

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
        return x + self.feed_forward_scale(
            self.feed_forward(self.feed_forward_norm(x))
        )


class LayerScale(nn.Module):
    """A learnt factor per channel. It starts small, so deep blocks begin close to the
    identity."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.start)

    def forward(
        self, x: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch D"]:
        return x * self.weight


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202), with gate and up as
    one linear map."""

    def __init__(
        self, dim: int, hidden_dim: int, *, gain: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.gate_up = Linear(
            dim, 2 * hidden_dim, bias=bias, fused=(hidden_dim, hidden_dim)
        )
        self.down = Linear(hidden_dim, dim, bias=bias, gain=gain)

    def forward(
        self, x: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch D"]:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class MLP(nn.Module):
    """down(activation(up(x))), as in CLIP's towers."""

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

    def forward(
        self, x: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch D"]:
        return self.down(self.activation(self.up(x)))


def quick_gelu(x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """The GELU approximation that OpenAI's and DFN's CLIP were trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
