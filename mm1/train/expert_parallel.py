"""Expert parallelism: experts are shared out over the `ep` axis of a layout, and each
is sharded by FSDP2 over the rest of the ranks, as torchtitan does it."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from mm1.config import ConfigError
from mm1.nn.expert_exchange import ExpertExchange
from mm1.nn.experts import MoE
from mm1.nn.model import Model
from mm1.train.layout import ParallelLayout

EXPERT_WEIGHTS = ("gate_up", "down")


def distribute_experts(model: Model, layout: ParallelLayout) -> None:
    """Leaves each rank its own experts, in place, and lets tokens travel to the others.

    The weights become DTensors `[experts, ...]` on the `ep` mesh; `meta` ones stay so.
    """
    mesh = layout.expert_mesh
    if mesh is None:
        return
    for moe in _mixtures([model]):
        for name in EXPERT_WEIGHTS:
            whole: nn.Parameter = getattr(moe, name)
            own = whole.detach().chunk(mesh.size())[mesh.get_local_rank()]
            shared = DTensor.from_local(
                own.clone(), mesh, [Shard(0)], run_check=False
            )
            setattr(
                moe,
                name,
                nn.Parameter(shared, requires_grad=whole.requires_grad),
            )
        moe.exchange = ExpertExchange(mesh.get_group())


def shard_experts(
    unit: nn.Module, layout: ParallelLayout, **options: Any
) -> None:
    """FSDP2 of a unit's experts, before that of the unit itself.

    The router would be left out between the two, so it is a group of its own.

    Raises:
        ConfigError: an expert's weights do not divide by the ranks that shard it.
    """
    if layout.expert_mesh is None:
        return
    for moe in _mixtures([unit]):
        fully_shard(moe.router, mesh=layout.data_mesh, **options)
        sharded = fully_shard(
            moe,
            mesh=layout.expert_data_mesh,
            shard_placement_fn=lambda p: _placement(p, layout),
            **options,
        )
        # Each rank's gradient is summed over the tokens of all ranks of `ep`, so the
        # mean is not over the ranks of this mesh but over all that read different data.
        sharded.set_gradient_divide_factor(layout.data_size)
        # Sums, divided afterwards: gloo averages only over its own ranks. Where nothing
        # is scattered, torch divides before, and would do so twice.
        sharded.set_force_sum_reduction_for_comms(
            layout.expert_data_mesh.size(-1) > 1
        )


def _mixtures(modules: Sequence[nn.Module]) -> list[MoE]:
    return [m for each in modules for m in each.modules() if isinstance(m, MoE)]


def _placement(weight: nn.Parameter, layout: ParallelLayout) -> Shard:
    """Along an expert's rows, or columns: FSDP2 shards other dimensions than the first
    only evenly, and the first is that of the experts."""
    ranks = layout.expert_data_mesh.size(-1)
    for dim in (1, 2):
        if weight.shape[dim] % ranks == 0:
            return Shard(dim)
    raise ConfigError(
        f"layout.experts={layout.experts} leaves {ranks} ranks to shard each expert,"
        f" whose weights are {tuple(weight.shape[1:])}: neither divides by {ranks};"
        " choose another layout.experts, or widths that divide"
    )
