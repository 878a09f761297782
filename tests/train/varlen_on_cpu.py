"""CUDA's variable-length attention imitated on the CPU: the same operation, with the
same shapes and gradients, so that compiled graphs look as on a GPU."""

import torch
from torch import Tensor, library
from torch.nn.attention import varlen

from mm1.nn import attention


def imitate() -> None:
    """From now on packed attention takes torch's operation, whose kernels on the CPU
    are these."""
    assert varlen.varlen_attn is not None
    library.register_kernel("torch_attn::_varlen_attn", "cpu", _forward)
    library.register_kernel(
        "torch_attn::_varlen_attn_backward", "cpu", _backward
    )
    attention.has_varlen_kernel = lambda x: True


def _probabilities(q: Tensor, k: Tensor, ends: Tensor) -> Tensor:
    document = torch.bucketize(
        torch.arange(len(q)), ends[1:].long(), right=True
    )
    seen = (document[:, None] == document).tril()
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.einsum("hqk,khd->qhd", _probabilities(q, k, ends), v)
    log_sum_exp = q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float32)
    return out.contiguous(), log_sum_exp, torch.zeros(2, dtype=torch.uint64)


def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    ends: Tensor,
    *_: object,
    **__: object,
) -> tuple[Tensor, Tensor, Tensor]:
    p = _probabilities(q, k, ends)
    slope = torch.einsum("qhd,khd->hqk", gradient, v)
    scores = p * (slope - (p * slope).sum(-1, keepdim=True))
    scores = scores * q.shape[-1] ** -0.5
    return (
        torch.einsum("hqk,khd->qhd", scores, k).contiguous(),
        torch.einsum("hqk,qhd->khd", scores, q).contiguous(),
        torch.einsum("hqk,qhd->khd", p, gradient).contiguous(),
    )
