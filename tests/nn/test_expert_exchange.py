"""Rows that travel to the experts of other ranks and back."""

import torch
from ranks import on_ranks
from torch import Tensor

from mm1 import dist
from mm1.nn.expert_exchange import ExpertExchange, ExpertProducts

COUNTS = [[2, 0, 3, 1], [0, 0, 0, 0], [0, 4, 0, 2], [3, 1, 0, 0], [0, 2, 0, 0]]
"""Rows of each of four experts, in trials of rank 0; rank 1 has those of the trial
after. In the fourth, none are for the experts of rank 1."""
NOWHERE = 2
"""Rows after the last expert's: padding."""


def scaling(factors: Tensor) -> ExpertProducts:
    """Experts of which each multiplies by its own factors: no sum, so no rounding."""

    def products(rows: Tensor, ends: Tensor) -> Tensor:
        counts = ends.diff(prepend=ends.new_zeros(1)).long()
        out = rows[: int(ends[-1])] * factors.repeat_interleave(counts, 0)
        return torch.cat([out, torch.zeros_like(rows[int(ends[-1]) :])])

    return products


def travel() -> None:
    dist.start()
    exchange = ExpertExchange(torch.distributed.group.WORLD)
    rank = dist.rank()
    everything = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    for trial in range(len(COUNTS)):
        counts = COUNTS[(trial + rank) % len(COUNTS)]
        draw = torch.Generator().manual_seed(10 * trial + rank)
        rows, direction = (
            torch.randn(sum(counts) + NOWHERE, 3, generator=draw)
            for _ in range(2)
        )
        ends = torch.tensor(counts).cumsum(0).int()
        results = []
        for apart in (False, True):
            x = rows.clone().requires_grad_()
            factors = everything[2 * rank :][:2] if apart else everything
            factors = factors.clone().requires_grad_()
            out = (
                exchange(x, ends, scaling(factors))
                if apart
                else scaling(factors)(x, ends)
            )
            out.backward(direction)
            assert factors.grad is not None
            results.append((out.detach(), x.grad, factors.grad))
        (here, here_grad, whole_grad), (there, there_grad, own_grad) = results
        assert torch.equal(there, here)
        assert torch.equal(there_grad, here_grad)
        assert not there[len(rows) - NOWHERE :].any()
        both = dist.sum_over_ranks(whole_grad)[2 * rank :][:2]
        torch.testing.assert_close(own_grad, both)


def test_experts_on_another_rank_give_the_same_bits() -> None:
    on_ranks(2, travel)
