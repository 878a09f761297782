"""A packed stream as a few padded batches and back, for attention without
variable-length kernels.

Documents are grouped by length, rounded up. One gather lays out all groups, heads
before tokens as matrix products need them; one more restores the stream.

    stream   a a b b b c c      groups   a a    b b b -     a row per document and head
                                         c c

Padding repeats its document's last token. It comes after every real token, so causal
attention never sees it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Grouping:
    """The gathers from a packed stream to padded batches and back."""

    def __init__(
        self,
        cu_seqlens: Int[Tensor, " ends"],
        *,
        num_heads: int,
        num_kv_heads: int,
    ) -> None:
        device = cu_seqlens.device
        real = cu_seqlens.diff() > 0
        lengths = cu_seqlens.diff()[real].long()
        starts = cu_seqlens[:-1][real].long()
        rounded = _rounded(lengths)
        heads = torch.arange(num_heads, device=device)[:, None]
        shapes = []
        queries = []
        keys = []
        used = []
        for length in rounded.unique().tolist():
            step = torch.arange(length, device=device)
            last = lengths[rounded == length, None, None] - 1
            token = starts[rounded == length, None, None] + step.minimum(last)
            queries.append((token * num_heads + heads).flatten())
            keys.append(
                (
                    token * num_kv_heads + heads // (num_heads // num_kv_heads)
                ).flatten()
            )
            used.append((step <= last).expand(-1, num_heads, -1).flatten())
            shapes.append((len(token) * num_heads, length))
        self.num_heads = num_heads
        self.shapes: list[tuple[int, int]] = shapes
        """(documents * heads, length) of each group."""
        self.queries: Int[Tensor, " places"] = torch.cat(queries)
        """For each padded position, the row of queries, flattened to tokens x heads."""
        self.keys: Int[Tensor, " places"] = torch.cat(keys)
        """The same for keys and values, which may have fewer heads."""
        self.num_places = len(self.queries)
        is_used = torch.cat(used)
        self.places: Int[Tensor, " rows"] = torch.empty(
            int(is_used.sum()), dtype=torch.int64, device=device
        )
        """For each row, its padded position: the inverse of `queries`."""
        self.places[self.queries[is_used]] = torch.arange(
            self.num_places, device=device
        )[is_used]

    def pad(
        self, x: Float[Tensor, "T any_heads d"]
    ) -> list[Float[Tensor, "_ _ d"]]:
        """One padded batch per group of queries, or of keys or values, which are
        repeated for the queries that share them."""
        parts = _Pad.apply(x, self).split(
            [rows * length for rows, length in self.shapes]
        )
        return [
            part.view(*shape, -1)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def unpad(
        self, groups: list[Float[Tensor, "_ _ d"]]
    ) -> Float[Tensor, "T heads d"]:
        """Restore the packed stream."""
        return _Unpad.apply(torch.cat([x.flatten(0, 1) for x in groups]), self)


def _rounded(lengths: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
    """Round up to 6, 8, 12, 16, 24, 32, 48, 64 ...: few groups with little
    padding."""
    power = 2 ** lengths.clamp(min=8).double().log2().ceil().long()
    return torch.where(lengths <= power * 3 // 4, power * 3 // 4, power)


class _Pad(torch.autograd.Function):
    """A gather whose gradient is a gather too: nothing sees padding, so it has no
    gradient to add."""

    @staticmethod
    def forward(ctx, x: Tensor, grouping: Grouping) -> Tensor:
        ctx.grouping = grouping
        ctx.shape = x.shape
        rows = (
            grouping.queries
            if x.shape[1] == grouping.num_heads
            else grouping.keys
        )
        return x.reshape(-1, x.shape[2]).index_select(0, rows)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        num_tokens, num_heads, dim = ctx.shape
        back = gradient.index_select(0, ctx.grouping.places).view(
            num_tokens, num_heads, -1, dim
        )
        return (back.squeeze(2) if back.shape[2] == 1 else back.sum(2)), None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`: padding is dropped and its gradient is zero."""

    @staticmethod
    def forward(ctx, x: Tensor, grouping: Grouping) -> Tensor:
        ctx.grouping = grouping
        return x.index_select(0, grouping.places).view(
            -1, grouping.num_heads, x.shape[1]
        )

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        rows = gradient.reshape(-1, gradient.shape[2])
        padded = rows.new_zeros(ctx.grouping.num_places, rows.shape[1])
        return padded.index_copy_(0, ctx.grouping.places, rows), None
