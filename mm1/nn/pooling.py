"""Attention pooling to one feature per image: the head of SigLIP's image tower
(arXiv:2303.15343)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mm1.nn.block import MLP
from mm1.nn.linear import Linear
from mm1.nn.vit import ViT


class AttentionPoolingHead(nn.Module):
    """A learnt probe attends to all patches: x = attention(probe, patches), then x +
    MLP(norm(x))."""

    def __init__(self, encoder: ViT.Config) -> None:
        """Heads, MLP ratio, activation and eps are the encoder's."""
        super().__init__()
        dim = encoder.dim
        self.num_heads = encoder.num_heads
        self.probe = nn.Parameter(torch.empty(dim))
        self.query = Linear(dim, dim, bias=True)
        self.key_value = Linear(dim, 2 * dim, bias=True)
        self.out = Linear(dim, dim, bias=True)
        self.norm = nn.LayerNorm(dim, eps=encoder.norm_eps)
        self.feed_forward = MLP(
            dim,
            round(encoder.mlp_ratio * dim),
            activation=encoder.activation,
            gain=1.0,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.probe)

    def forward(self, patches: Float[Tensor, "N P E"]) -> Float[Tensor, "N E"]:
        q = self.query(self.probe).expand(len(patches), 1, -1)
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in (q, *self.key_value(patches).chunk(2, -1))
        )
        x = self.out(
            F.scaled_dot_product_attention(q, k, v)
            .transpose(1, 2)
            .flatten(2)[:, 0]
        )
        return x + self.feed_forward(self.norm(x))

    def flops(self, num_patches: int) -> int:
        """Floating-point operations of forward and backward for one image."""
        dim = self.probe.numel()
        hidden_dim = self.feed_forward.up.out_features
        return 12 * dim * (num_patches * (dim + 1) + dim + hidden_dim)
