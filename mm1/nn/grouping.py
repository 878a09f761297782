"""A packed stream as a few padded batches and back, for attention without
variable-length kernels.

Documents are grouped by length, rounded up. One gather lays all groups out, heads
before tokens as matrix products want them; one more brings the result back.

    stream   a a b b b c c        groups   a a   c c        b b b -        a row for each document and head

A place of padding repeats its document's last token: it comes after every real one, so
causal attention never sees it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Grouping:
    """Where each head of each token goes, and back."""

    def __init__(
        self, cu_seqlens: Int[Tensor, " ends"], *, num_heads: int, num_kv_heads: int
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
                (token * num_kv_heads + heads // (num_heads // num_kv_heads)).flatten()
            )
            used.append((step <= last).expand(-1, num_heads, -1).flatten())
            shapes.append((len(token) * num_heads, length))
        self.num_heads = num_heads
        self.shapes: list[tuple[int, int]] = shapes
        """(documents x heads, length) of each group."""
        self.queries: Int[Tensor, " places"] = torch.cat(queries)
        """The row of queries, counted as tokens x heads, that each place takes."""
        self.keys: Int[Tensor, " places"] = torch.cat(keys)
        """The same for keys and values, which have fewer heads."""
        self.num_places = len(self.queries)
        is_used = torch.cat(used)
        self.places: Int[Tensor, " rows"] = torch.empty(
            int(is_used.sum()), dtype=torch.int64, device=device
        )
        """The inverse of `queries` without its padding."""
        self.places[self.queries[is_used]] = torch.arange(
            self.num_places, device=device
        )[is_used]

    def split(self, x: Float[Tensor, "places d"]) -> list[Float[Tensor, "n L d"]]:
        """The padded batches."""
        parts = x.split([rows * length for rows, length in self.shapes])
        return [
            part.view(*shape, -1)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]


def _rounded(lengths: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
    """Up to the next of 6, 8, 12, 16, 24, 32, 48, 64 ...: few groups, of which less
    than a third is empty."""
    power = 2 ** lengths.clamp(min=8).double().log2().ceil().long()
    return torch.where(lengths <= power * 3 // 4, power * 3 // 4, power)


class _Pad(torch.autograd.Function):
    """A gather whose gradient is a gather too: padding is never looked at, so it has no
    gradient to add up."""

    @staticmethod
    def forward(ctx, x: Tensor, grouping: Grouping) -> Tensor:  # type: ignore[override]
        ctx.grouping = grouping
        ctx.shape = x.shape
        rows = grouping.queries if x.shape[1] == grouping.num_heads else grouping.keys
        return x.reshape(-1, x.shape[2]).index_select(0, rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        num_tokens, num_heads, dim = ctx.shape
        back = gradient.index_select(0, ctx.grouping.places).view(
            num_tokens, num_heads, -1, dim
        )
        return (back.squeeze(2) if back.shape[2] == 1 else back.sum(2)), None


class _Unpad(torch.autograd.Function):
    """The inverse: padding is dropped, its gradient is zero."""

    @staticmethod
    def forward(ctx, x: Tensor, grouping: Grouping) -> Tensor:  # type: ignore[override]
        ctx.grouping = grouping
        return x.index_select(0, grouping.places).view(
            -1, grouping.num_heads, x.shape[1]
        )

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        rows = gradient.reshape(-1, gradient.shape[2])
        padded = rows.new_zeros(ctx.grouping.num_places, rows.shape[1])
        return padded.index_copy_(0, ctx.grouping.places, rows), None


def pad(
    x: Float[Tensor, "T any_heads d"], grouping: Grouping
) -> Float[Tensor, "places d"]:
    """Queries, or keys and values, each of which is repeated for the queries that share
    it."""
    return _Pad.apply(x, grouping)  # type: ignore[return-value]


def unpad(
    x: Float[Tensor, "places d"], grouping: Grouping
) -> Float[Tensor, "T heads d"]:
    return _Unpad.apply(x, grouping)  # type: ignore[return-value]
