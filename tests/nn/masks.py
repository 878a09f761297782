"""Dense attention masks: the reference for the kernels.

Rows are queries, columns are keys, `x` is True: the query sees the key.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def causal_mask(length: int) -> Bool[Tensor, "L L"]:
    """A token sees itself and what came before it.

    x . . .
    x x . .
    x x x .
    x x x x
    """
    return torch.ones(length, length, dtype=torch.bool).tril()


def document_mask(cu_seqlens: Int[Tensor, " ends"]) -> Bool[Tensor, "T T"]:
    """A token sees the tokens of its own document (MM1, section 3.3: packed examples do
    not mix).

    cu_seqlens = 0 2 5     x x . . .
                           x x . . .
                           . . x x x
                           . . x x x
                           . . x x x
    """
    numbers = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    own = torch.repeat_interleave(numbers, cu_seqlens.diff().long())
    return own[:, None] == own[None, :]


def prefix_mask(length: int, num_prefix: int) -> Bool[Tensor, "L L"]:
    """The first `num_prefix` tokens are seen by all, the others causally (AIM,
    arXiv:2401.08541, section 3.2).

    num_prefix = 2     x x . .
                       x x . .
                       x x x .
                       x x x x
    """
    mask = causal_mask(length)
    mask[:, :num_prefix] = True
    return mask
