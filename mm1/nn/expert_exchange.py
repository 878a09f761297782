"""Expert parallelism: each rank of a group holds some of the experts, and rows go to
the rank that holds theirs and come back, each by one all-to-all.

    rank 0, experts 0 1     own rows  0 0 1 2 3 3       gets  0 0 1 | 0 1 1
    rank 1, experts 2 3     own rows  0 1 1 2 2 3             2 3 3 | 2 2 3

As in GShard (arXiv:2006.16668), but without a capacity: as many rows travel as there
are. Each product is that of one rank with all experts, so outputs and gradients of rows
are equal to the bit; an expert's gradient is the sum over the rows of all ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import (
    all_to_all_single,
    all_to_all_single_autograd,
)

ExpertProducts = Callable[
    [Float[Tensor, "n D"], Int[Tensor, " experts"]], Float[Tensor, "n D"]
]
"""(rows sorted by expert, the end of each expert's rows) -> their outputs."""


@dataclass(frozen=True)
class ExpertExchange:
    """The ranks among which experts are shared out: the first holds the first
    `num_experts / size`, and so on."""

    group: ProcessGroup

    @property
    def size(self) -> int:
        return self.group.size()

    # The numbers of rows that come and go are read on the host, and the weights are
    # gathered by hooks: the compiler can take neither. (Not `torch.compiler.disable`,
    # which imports the compiler and takes seconds.)
    @torch._disable_dynamo
    def __call__(
        self,
        rows: Float[Tensor, "n D"],
        ends: Int[Tensor, " experts"],
        products: ExpertProducts,
    ) -> Float[Tensor, "n D"]:
        """What `products(rows, ends)` is with all experts here, where `products` knows
        the own ones; rows after the last end become 0.

        A collective, in the backward pass too. It waits for the device once, to learn
        how many rows come from each rank.
        """
        counts = ends.diff(prepend=ends.new_zeros(1)).long()
        arriving = all_to_all_single(counts, None, None, self.group)
        by_rank = torch.stack([counts, arriving]).view(2, self.size, -1)
        sent, received = by_rank.sum(-1).tolist()
        inbox = all_to_all_single_autograd(
            rows[: sum(sent)], received, sent, self.group
        )
        own = by_rank[1]  # rows from each rank for each own expert
        num_own = own.shape[1]
        experts = torch.arange(num_own, device=rows.device).repeat(self.size)
        order = experts.repeat_interleave(
            own.flatten(), output_size=sum(received)
        ).argsort(stable=True)
        grouped = inbox.index_select(0, order)
        own_ends = own.sum(0).cumsum(0).int()
        if not sum(received):
            # A row of zeros, for products that need one, and weights that need a
            # gradient: FSDP2 reduces them on every rank.
            grouped = F.pad(grouped, (0, 0, 0, 1))
            own_ends = own_ends + 1
        out = products(grouped, own_ends)[: sum(received)]
        back = all_to_all_single_autograd(
            out.index_select(0, order.argsort()), sent, received, self.group
        )
        return F.pad(back, (0, 0, 0, len(rows) - sum(sent)))
