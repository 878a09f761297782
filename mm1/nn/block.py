"""The pre-norm transformer block of encoder, text tower and decoder; they differ in the parts that they put in."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.attention import Attention, Context
from mm1.nn.linear import Linear
from mm1.nn.position import Rotation

Activation = Literal["gelu", "quick_gelu"]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, attention: Attention, feed_forward: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(), attention
        self.feed_forward_norm, self.feed_forward = norm(), feed_forward

    def forward(
        self, x: Float[Tensor, "*batch D"], context: Context, rotation: Rotation | None = None
    ) -> Float[Tensor, "*batch D"]:
        x = x + self.attention(self.attention_norm(x), context, rotation)
        return x + self.feed_forward(self.feed_forward_norm(x))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202); gate and up are one product."""

    def __init__(self, dim: int, hidden_dim: int, *, gain: float) -> None:
        super().__init__()
        self.gate_up = Linear(dim, 2 * hidden_dim)
        self.down = Linear(hidden_dim, dim, gain=gain)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class MLP(nn.Module):
    """down(activation(up(x))) with biases, as in CLIP's towers."""

    def __init__(self, dim: int, hidden_dim: int, *, activation: Activation, gain: float) -> None:
        super().__init__()
        self.up = Linear(dim, hidden_dim, bias=True)
        self.activation = F.gelu if activation == "gelu" else quick_gelu
        self.down = Linear(hidden_dim, dim, bias=True, gain=gain)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return self.down(self.activation(self.up(x)))


def quick_gelu(x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """The cheap approximation that OpenAI's and DFN's CLIP weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


def clip_block(dim: int, num_heads: int, hidden_dim: int, *, activation: Activation, depth: int) -> Block:
    """LayerNorm, biases and an MLP: a block of CLIP's towers `depth` blocks deep."""
    gain = (2 * depth) ** -0.5
    attention = Attention(dim, num_heads=num_heads, bias=True, gain=gain)
    return Block(attention, MLP(dim, hidden_dim, activation=activation, gain=gain), lambda: nn.LayerNorm(dim, eps=1e-5))
