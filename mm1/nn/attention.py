"""Grouped-query attention. A `AttentionContext` says who sees whom and picks the kernel, so a
block never knows which one runs.

FullAttention        each sequence of a batch sees itself, whole or causally: images, captions
PrefixAttention            each sequence sees its own first tokens whole and the rest causally: reconstruction (AIM)
PackedAttention            one flat stream of documents that never look at one another: training
cache.PrefillAttention     as PackedAttention, and keys and values are kept: prompts
cache.DecodeAttention        one new token for each prompt against what is kept: generation
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mm1.nn.grouping import Grouping, pad, unpad
from mm1.nn.linear import Linear
from mm1.nn.position import RotaryEmbedding, apply_rotary

EAGER_MAX_LENGTH = 64
"""On the CPU, sequences up to this length take `eager_attention`, longer ones torch's fused
kernel.

At heads 24 to 32 wide the two are equally fast at 64 tokens on an AVX2 machine; with
AVX-512 `eager_attention` was measured at more than twice the speed. From 256 tokens on the fused
kernel wins.
"""

QKNorm = Literal["head", "full"]
"""RMSNorm of queries and keys: over the channels of each head (Qwen3), or over those of
all heads together (OLMo2)."""


class AttentionContext:
    """Who sees whom. Queries, keys and values are laid out as the linear map leaves
    them: heads after tokens."""

    def for_layer(self, layer: int) -> "AttentionContext":
        """The context of one layer: the same for all layers, unless each has its own
        memory."""
        return self

    def attend(
        self,
        q: Float[Tensor, "*batch heads d"],
        k: Float[Tensor, "*batch kv_heads d"],
        v: Float[Tensor, "*batch kv_heads d"],
    ) -> Float[Tensor, "*batch heads d"]:
        raise NotImplementedError


class Attention(nn.Module):
    """Queries of `num_heads` heads over keys and values of `num_kv_heads` (Ainslie et
    al. 2023, arXiv:2305.13245)."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        qkv_bias: bool = False,
        qk_norm: QKNorm | None = None,
        norm_eps: float = 1e-5,
        gain: float = 1.0,
    ) -> None:
        """`bias` is of both maps, `qkv_bias` of the first, `norm_eps` of the QK-norms,
        `gain` of the output map."""
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        head_dim = head_dim or dim // num_heads
        if num_heads % num_kv_heads:
            raise ValueError(
                f"{num_heads} query heads cannot share {num_kv_heads} key heads evenly"
            )
        self.heads = (num_heads, num_kv_heads, num_kv_heads)
        self.head_dim = head_dim
        self.qkv = Linear(dim, sum(self.heads) * head_dim, bias=bias or qkv_bias)
        self.qk_norm = qk_norm
        widths = [
            heads * head_dim if qk_norm == "full" else head_dim
            for heads in self.heads[:2]
        ]
        self.q_norm, self.k_norm = (
            nn.RMSNorm(width, eps=norm_eps) if qk_norm else None for width in widths
        )
        self.out = Linear(num_heads * head_dim, dim, bias=bias, gain=gain)

    def forward(
        self,
        x: Float[Tensor, "*batch D"],
        context: AttentionContext,
        rotary: RotaryEmbedding | None = None,
    ) -> Float[Tensor, "*batch D"]:
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split(self.heads, -2)
        if self.q_norm is not None and self.k_norm is not None:
            q = self._normed(q, self.q_norm)
            k = self._normed(k, self.k_norm)
        if rotary is not None:
            q = apply_rotary(q, rotary)
            k = apply_rotary(k, rotary)
        return self.out(context.attend(q, k, v).flatten(-2))

    def _normed(
        self, x: Float[Tensor, "*batch heads d"], norm: nn.Module
    ) -> Float[Tensor, "*batch heads d"]:
        return (
            norm(x.flatten(-2)).unflatten(-1, x.shape[-2:])
            if self.qk_norm == "full"
            else norm(x)
        )


class FullAttention(AttentionContext):
    """Each sequence of a batch sees itself, whole or causally."""

    def __init__(self, *, causal: bool = False) -> None:
        self.causal = causal

    def attend(
        self,
        q: Float[Tensor, "N L heads d"],
        k: Float[Tensor, "N L heads d"],
        v: Float[Tensor, "N L heads d"],
    ) -> Float[Tensor, "N L heads d"]:
        q = q.transpose(1, 2)
        k = k.transpose(1, 2)
        v = v.transpose(1, 2)
        if q.is_cuda or q.shape[2] > EAGER_MAX_LENGTH:
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=self.causal
            ).transpose(1, 2)
        mixed = eager_attention(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), causal=self.causal
        )
        return mixed.unflatten(0, q.shape[:2]).transpose(1, 2)


class PrefixAttention(AttentionContext):
    """Each sequence of a batch sees its own first tokens whole, and what comes after
    them causally.

    lengths = 2 1     x x . .     x . . .
                      x x . .     x x . .
                      x x x .     x x x .
                      x x x x     x x x x

    The mask is dense: torch's fused kernel takes it on the CPU (no slower there than
    `eager_attention` at 16 to 64 tokens) and on CUDA alike, and computes the unseen pairs too.
    """

    def __init__(self, lengths: Int[Tensor, " N"], num_tokens: int) -> None:
        place = torch.arange(num_tokens, device=lengths.device)
        self.seen = (place <= place[:, None]) | (place < lengths[:, None, None])

    def attend(
        self,
        q: Float[Tensor, "N L heads d"],
        k: Float[Tensor, "N L heads d"],
        v: Float[Tensor, "N L heads d"],
    ) -> Float[Tensor, "N L heads d"]:
        q = q.transpose(1, 2)
        k = k.transpose(1, 2)
        v = v.transpose(1, 2)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.seen[:, None]
        ).transpose(1, 2)


class PackedAttention(AttentionContext):
    """Documents laid end to end; a token sees itself and what came before it in its own
    document.

    boundaries = 0 2 5 6       x . . . . .
                               x x . . . .
                               . . x . . .
                               . . x x . .
                               . . x x x .
                               . . . . . x

    Made once for a forward pass. The cost is the sum of squared document lengths, never
    the square of the sum.
    """

    def __init__(self, cu_seqlens: Int[Tensor, " ends"], max_seqlen: int) -> None:
        """`longest` bounds the lengths from above."""
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen
        self.grouping: Grouping | None = None
        if cu_seqlens.is_cuda:
            # Compiled blocks meet few distinct sizes: both are rounded up, the number
            # of documents by empty ones.
            self.max_seqlen = _power_of_two(max_seqlen)
            missing = _power_of_two(len(cu_seqlens)) - len(cu_seqlens)
            self.cu_seqlens = torch.cat((cu_seqlens, cu_seqlens[-1:].expand(missing)))

    def attend(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        if q.is_cuda and q.dtype != torch.float32:
            return self._variable_length(q, k, v)
        return self._grouped(q, k, v)

    def _variable_length(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        """FlashAttention over cumulative lengths: no padding, no mask."""
        from torch.nn.attention.varlen import (
            varlen_attn,
        )  # here: it brings the compiler, seconds that a CPU can save

        share = q.shape[1] // k.shape[1]
        if share > 1:  # torch 2.11's kernel wants as many key heads as query heads
            k = k.repeat_interleave(share, 1)
            v = v.repeat_interleave(share, 1)
        ends = self.cu_seqlens
        max_seqlen = self.max_seqlen
        return varlen_attn(
            q, k, v, ends, ends, max_seqlen, max_seqlen, window_size=(-1, 0)
        )  # type: ignore[return-value]

    def _grouped(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        """Documents of about one length side by side; causality keeps the padding at
        their ends unseen."""
        if (
            self.grouping is None
            # the lengths must come to the host: free on the CPU, one wait for fp32 on CUDA
        ):
            self.grouping = Grouping(
                self.cu_seqlens, num_heads=q.shape[1], num_kv_heads=k.shape[1]
            )
        groups = (self.grouping.split(pad(x, self.grouping)) for x in (q, k, v))
        return unpad(
            torch.cat(
                [_causal(*qkv).flatten(0, 1) for qkv in zip(*groups, strict=True)]
            ),
            self.grouping,
        )


def _causal(
    q: Float[Tensor, "n L d"], k: Float[Tensor, "n L d"], v: Float[Tensor, "n L d"]
) -> Float[Tensor, "n L d"]:
    if q.is_cuda or q.shape[1] > EAGER_MAX_LENGTH:
        return F.scaled_dot_product_attention(
            q[:, None], k[:, None], v[:, None], is_causal=True
        )[:, 0]
    return eager_attention(q, k, v, causal=True)


def eager_attention(
    q: Float[Tensor, "n L d"],
    k: Float[Tensor, "n L d"],
    v: Float[Tensor, "n L d"],
    *,
    causal: bool,
) -> Float[Tensor, "n L d"]:
    """Two matrix products and a softmax, in fp32."""
    dtype = q.dtype
    length = q.shape[1]
    scale = q.shape[2] ** -0.5
    q = q.float()
    k = k.float().transpose(1, 2)
    v = v.float()
    if causal:
        unseen = torch.full((length, length), -torch.inf, device=q.device).triu(1)
        scores = torch.baddbmm(unseen, q, k, alpha=scale)
    else:
        scores = torch.baddbmm(q.new_empty(1), q, k, beta=0, alpha=scale)
    return torch.bmm(scores.softmax(-1), v).to(dtype)


def _power_of_two(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()
