"""Grouped-query attention.

An `AttentionContext` says which tokens see which and picks the kernel, so a block does
not depend on either.

    FullAttention           batched sequences, bidirectional or causal: images, captions
    PrefixAttention         batched sequences, bidirectional prefix, then causal: AIM
    PackedAttention         a stream of documents that do not see each other: training
    cache.PrefillAttention  the same, and keys and values go into the cache: prompts
    cache.DecodeAttention   one new token per prompt against the cache: generation
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.nn.grouping import Grouping
from mm1.nn.linear import Linear
from mm1.nn.position import RotaryEmbedding, apply_rotary

EAGER_MAX_LENGTH = 64
"""On the CPU, sequences up to this length take `eager_attention`, longer ones torch's
fused kernel.

With heads of width 24 to 32 both are equally fast at 64 tokens on an AVX2 machine; with
AVX-512 `eager_attention` is more than twice as fast. The fused kernel wins from 256
tokens on.
"""

QKNorm = Literal["head", "full"]
"""RMSNorm of queries and keys over the channels of each head (Qwen3) or of all heads
together (OLMo2)."""


class AttentionContext:
    """Which tokens see which, and the kernel that computes it.

    Queries, keys and values come as the linear map leaves them: heads after tokens.
    """

    def for_layer(self, layer: int) -> "AttentionContext":
        """The context of one layer: itself, unless layers have caches of their own."""
        return self

    def attend(
        self,
        q: Float[Tensor, "*batch heads d"],
        k: Float[Tensor, "*batch kv_heads d"],
        v: Float[Tensor, "*batch kv_heads d"],
    ) -> Float[Tensor, "*batch heads d"]:
        raise NotImplementedError


def dim_of_heads(dim: int, num_heads: int) -> int:
    """The width of each head; raises ConfigError if they do not share `dim` evenly."""
    if dim % num_heads:
        raise ConfigError(
            f"dim={dim} must be a multiple of num_heads={num_heads}"
        )
    return dim // num_heads


class Attention(nn.Module):
    """`num_heads` query heads that share `num_kv_heads` key and value heads (Ainslie et
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
        """`bias` is for both maps, `qkv_bias` for the first only; `gain` scales the
        output map's initialisation."""
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if num_heads % num_kv_heads:
            raise ConfigError(
                f"{num_heads} query heads cannot share {num_kv_heads} key heads evenly:"
                " num_heads must be a multiple of num_kv_heads"
            )
        head_dim = head_dim or dim_of_heads(dim, num_heads)
        self.heads = (num_heads, num_kv_heads, num_kv_heads)
        self.head_dim = head_dim
        self.qkv = Linear(
            dim,
            sum(self.heads) * head_dim,
            bias=bias or qkv_bias,
            fused=tuple(heads * head_dim for heads in self.heads),
        )
        self.qk_norm = qk_norm
        widths = [
            heads * head_dim if qk_norm == "full" else head_dim
            for heads in self.heads[:2]
        ]
        self.q_norm, self.k_norm = (
            nn.RMSNorm(width, eps=norm_eps) if qk_norm else None
            for width in widths
        )
        self.out = Linear(num_heads * head_dim, dim, bias=bias, gain=gain)

    def forward(
        self,
        x: Float[Tensor, "*batch D"],
        context: AttentionContext,
        rotary: RotaryEmbedding | None = None,
    ) -> Float[Tensor, "*batch D"]:
        q, k, v = (
            self.qkv(x).unflatten(-1, (-1, self.head_dim)).split(self.heads, -2)
        )
        if self.q_norm is not None and self.k_norm is not None:
            if self.qk_norm == "full":
                q = self.q_norm(q.flatten(-2)).unflatten(-1, q.shape[-2:])
                k = self.k_norm(k.flatten(-2)).unflatten(-1, k.shape[-2:])
            else:
                q = self.q_norm(q)
                k = self.k_norm(k)
        if rotary is not None:
            q = apply_rotary(q, rotary)
            k = apply_rotary(k, rotary)
        return self.out(context.attend(q, k, v).flatten(-2))


class FullAttention(AttentionContext):
    """Each sequence of a batch sees itself, bidirectionally or causally."""

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
            q.flatten(0, 1),
            k.flatten(0, 1),
            v.flatten(0, 1),
            causal=self.causal,
        )
        return mixed.unflatten(0, q.shape[:2]).transpose(1, 2)


class PrefixAttention(AttentionContext):
    """Each sequence of a batch sees its prefix bidirectionally and the rest causally.

    lengths = 2 1     x x . .     x . . .
                      x x . .     x x . .
                      x x x .     x x x .
                      x x x x     x x x x

    The mask is dense, so masked pairs are computed too. torch's fused kernel takes it
    on CPU and CUDA; on the CPU it is as fast as `eager_attention` at 16 to 64 tokens.
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
    """Documents laid end to end; a token sees itself and the tokens before it in its
    own document.

    cu_seqlens = 0 2 5 6       x . . . . .
                               x x . . . .
                               . . x . . .
                               . . x x . .
                               . . x x x .
                               . . . . . x

    Made once per forward pass. The cost is the sum of the squared document lengths, not
    the square of their sum.
    """

    def __init__(
        self, cu_seqlens: Int[Tensor, " ends"], max_seqlen: int
    ) -> None:
        """`max_seqlen` is an upper bound of the document lengths. Compiled blocks hold
        it as a constant, so it should be the same for all batches."""
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen
        self.grouping: Grouping | None = None

    def attend(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        if has_varlen_kernel(q):
            return self._variable_length(q, k, v)
        return self._grouped(q, k, v)

    # Not `torch.compiler.disable`, which imports the compiler and takes seconds.
    @torch._disable_dynamo
    def _grouped(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        # Documents of similar length as padded batches; causality hides the padding.
        if self.grouping is None:
            # Copies lengths to the host: free on the CPU, one sync for fp32 on CUDA.
            self.grouping = Grouping(
                self.cu_seqlens, num_heads=q.shape[1], num_kv_heads=k.shape[1]
            )
        groups = zip(*(self.grouping.pad(x) for x in (q, k, v)), strict=True)
        return self.grouping.unpad([_causal(*qkv) for qkv in groups])

    def _variable_length(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        """FlashAttention over cumulative lengths: no padding, no mask."""
        # Imported here because it imports the compiler, which takes seconds.
        from torch.nn.attention.varlen import varlen_attn

        share = q.shape[1] // k.shape[1]
        if (
            share > 1
        ):  # torch 2.11's kernel needs as many key heads as query heads
            k = k.repeat_interleave(share, 1)
            v = v.repeat_interleave(share, 1)
        ends = self.cu_seqlens
        max_seqlen = self.max_seqlen
        out = varlen_attn(
            q, k, v, ends, ends, max_seqlen, max_seqlen, window_size=(-1, 0)
        )
        return cast(Tensor, out)  # a tuple only on request


def has_varlen_kernel(x: Tensor) -> bool:
    """torch's variable-length attention is for half precision on CUDA."""
    return x.is_cuda and x.dtype != torch.float32


def _causal(
    q: Float[Tensor, "n L d"],
    k: Float[Tensor, "n L d"],
    v: Float[Tensor, "n L d"],
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
        unseen = torch.full((length, length), -torch.inf, device=q.device).triu(
            1
        )
        scores = torch.baddbmm(unseen, q, k, alpha=scale)
    else:
        scores = torch.baddbmm(q.new_empty(1), q, k, beta=0, alpha=scale)
    return torch.bmm(scores.softmax(-1), v).to(dtype)
