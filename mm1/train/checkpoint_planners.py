"""Where the blocks of fused linear maps belong in a checkpoint.

With tensor parallelism a rank's share of such a map is not one block of the whole
tensor, as DCP takes it to be, but one of each map (`mm1.nn.shards`). Written as those,
a checkpoint is the same for every layout.
"""

import dataclasses
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    WriteItem,
)
from torch.distributed.checkpoint.planner_helpers import (
    create_read_items_for_chunk_list,
)
from torch.distributed.tensor import DTensor

from mm1.nn.shards import FusedWidths, Region, own_regions, tensor_ranks


class RegionSavePlanner(DefaultSavePlanner):
    """torch's planner, but for the parameters named in `widths` and their states."""

    def __init__(self, widths: FusedWidths) -> None:
        super().__init__()
        self.widths = widths

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items: list[WriteItem] = []
        for item in plan.items:
            name = item.index.fqn
            regions = _regions(name, self.state_dict[name], self.widths)
            items += [item] if regions is None else _write_items(item, regions)
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        block = _block(self.state_dict[index.fqn], index, self.widths)
        return super().lookup_object(index) if block is None else block


class RegionLoadPlanner(DefaultLoadPlanner):
    """torch's planner, but for the parameters named in `widths` and their states."""

    def __init__(self, widths: FusedWidths) -> None:
        super().__init__()
        self.widths = widths

    def create_local_plan(self) -> LoadPlan:
        plan = super().create_local_plan()
        items = []
        others: dict[str, list[Region]] = {}
        for item in plan.items:
            name = item.dest_index.fqn
            regions = _regions(name, self.state_dict[name], self.widths)
            if regions is None:
                items.append(item)
            else:
                others[name] = regions
        for name, regions in others.items():
            assert self.metadata is not None
            entry = self.metadata.state_dict_metadata[name]
            assert isinstance(entry, TensorStorageMetadata)
            chunks = [
                ChunkStorageMetadata(region.offset, region.shape)
                for region in regions
            ]
            items += create_read_items_for_chunk_list(name, entry, chunks)
        return dataclasses.replace(plan, items=items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        block = _block(self.state_dict[index.fqn], index, self.widths)
        return super().lookup_tensor(index) if block is None else block


def _regions(name: str, value: Any, widths: FusedWidths) -> list[Region] | None:
    """What this rank holds of a value; None where DCP knows."""
    parameter = name.removeprefix("model.").removeprefix("optimizer.state.")
    if parameter not in widths:  # exp_avg and so on
        parameter = parameter.rpartition(".")[0]
    if (
        parameter not in widths
        or not isinstance(value, DTensor)
        or tensor_ranks(value) == 1
    ):
        return None
    return own_regions(value, widths[parameter])


def _block(
    value: Any, index: MetadataIndex, widths: FusedWidths
) -> Tensor | None:
    """The block of a value at this offset; None where DCP knows."""
    regions = _regions(index.fqn, value, widths)
    if regions is None:
        return None
    (region,) = (each for each in regions if each.offset == index.offset)
    return value.to_local()[region.own]


def _write_items(item: WriteItem, regions: list[Region]) -> list[WriteItem]:
    assert item.tensor_data is not None
    return [
        dataclasses.replace(
            item,
            index=MetadataIndex(item.index.fqn, region.offset),
            tensor_data=dataclasses.replace(
                item.tensor_data,
                chunk=ChunkStorageMetadata(region.offset, region.shape),
            ),
        )
        for region in regions
    ]
