"""Which part of a whole parameter a rank holds.

FSDP2 and tensor parallelism leave each rank one block of a parameter. A fused linear
map, such as queries, keys and values in one, is the exception: a rank of tensor
parallelism needs its share of each of the maps. Such a parameter is kept *in the order
of ranks*, the shares of the first rank before those of the second, so that a plain
`Shard(0)` deals it out:

    whole           q0 q1 k0 k1 v0 v1      as in checkpoints and files of weights
    order of ranks  q0 k0 v0 | q1 k1 v1    as the DTensor of two ranks counts its rows

Whatever draws, reads or writes a rank's share asks here where it belongs.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mm1.nn.linear import Linear

FusedWidths = Mapping[str, tuple[int, ...]]
"""Parameter of a fused linear map -> how many rows each of its maps has."""

TENSOR_AXIS = "tp"
"""Of the device mesh."""


class Region(NamedTuple):
    """A block of a whole tensor, and where it lies in a rank's share of it."""

    whole: tuple[slice, ...]
    own: tuple[slice, ...]

    @property
    def offset(self) -> torch.Size:
        return torch.Size(each.start for each in self.whole)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(each.stop - each.start for each in self.whole)


def own_part(tensor: Tensor) -> Tensor:
    """The tensor that this rank holds of another, sharded or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held_indices(tensor: Tensor, widths: Sequence[int] = ()) -> list[Tensor]:
    """Which rows, columns and so on of a whole tensor this rank holds, ascending, for
    each dimension; `widths` are those of `fused_widths`."""
    held = [torch.arange(size) for size in tensor.shape]
    if isinstance(tensor, DTensor):
        if widths and len(tensor) == sum(widths):
            held[0] = in_order_of_ranks(held[0], widths, tensor_ranks(tensor))
        mesh = tensor.device_mesh
        coordinate = mesh.get_coordinate() or [0] * mesh.ndim
        # From left to right: FSDP over tensor parallelism says so in its placements.
        for axis, placement in enumerate(tensor.placements):
            if placement.is_shard() or hasattr(placement, "split_factor"):
                dim: int = placement.dim  # type: ignore[attr-defined]
                shape = [-1 if d == dim else 1 for d in range(tensor.ndim)]
                parts, _ = placement._split_tensor(  # type: ignore[attr-defined]
                    held[dim].view(shape), mesh.size(axis), with_padding=False
                )
                held[dim] = parts[coordinate[axis]].flatten()
    return held


def select(whole: Tensor, indices: list[Tensor]) -> Tensor:
    """These rows, columns and so on of a tensor; a view where they are consecutive."""
    for dim, wanted in enumerate(indices[: whole.ndim]):
        count = len(wanted)
        if count == whole.shape[dim]:
            continue
        if count == 0 or int(wanted[-1] - wanted[0]) + 1 == count:
            start = int(wanted[0]) if count else 0
            whole = whole.narrow(dim, start, count)
        else:
            whole = whole.index_select(dim, wanted)
    return whole


def own_regions(tensor: Tensor, widths: Sequence[int]) -> list[Region]:
    """What this rank holds of a fused map, as blocks; none if it holds nothing."""
    held = held_indices(tensor, widths)
    if any(len(indices) == 0 for indices in held):
        return []
    rows, *others = held
    whole = [slice(int(i[0]), int(i[-1]) + 1) for i in others]
    own = [slice(0, len(i)) for i in others]
    breaks = (rows.diff() != 1).nonzero().flatten() + 1
    regions = []
    for start, stop in pairwise([0, *breaks.tolist(), len(rows)]):
        first = int(rows[start])
        regions.append(
            Region(
                (slice(first, first + stop - start), *whole),
                (slice(start, stop), *own),
            )
        )
    return regions


def tensor_ranks(tensor: Tensor) -> int:
    """Ranks of tensor parallelism among which the rows of a tensor are dealt out."""
    if not isinstance(tensor, DTensor):
        return 1
    names = tensor.device_mesh.mesh_dim_names or ()
    if TENSOR_AXIS not in names:
        return 1
    axis = names.index(TENSOR_AXIS)
    placement = tensor.placements[axis]
    return tensor.device_mesh.size(axis) if placement.is_shard(0) else 1


def in_order_of_ranks(
    whole: Tensor, widths: Sequence[int], ranks: int
) -> Tensor:
    """Puts the rows of a fused map into the order of ranks, each of which has its share
    of each map."""
    maps = [each.chunk(ranks) for each in whole.split(list(widths))]
    return torch.cat(
        [share for rank in zip(*maps, strict=True) for share in rank]
    )


def in_whole_order(
    gathered: Tensor, widths: Sequence[int], ranks: int
) -> Tensor:
    """The inverse of `in_order_of_ranks`."""
    order = in_order_of_ranks(torch.arange(len(gathered)), widths, ranks)
    return gathered[order.argsort()]


def fused_widths(model: nn.Module) -> FusedWidths:
    """Of all fused linear maps in a model."""
    return {
        f"{path}.{name}" if path else name: module.fused
        for path, module in model.named_modules()
        if isinstance(module, Linear) and module.fused
        for name, _ in module.named_parameters(recurse=False)
    }
