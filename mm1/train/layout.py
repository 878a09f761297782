"""How the ranks of a run share its work: two device meshes over the same ranks.

    dp_replicate   ranks with whole copies of what the others share out: nodes, mostly
    dp_shard       ranks that share out weights, gradients and optimizer state (FSDP2);
                   with several `dp_replicate` it is HSDP
    tp             ranks that share out each product, and read the same data

The experts of a mixture are shared out over a second unflattening of these ranks, in
which `ep` is innermost: its ranks hold different experts and exchange tokens, and
`efsdp` shards each expert. Eight ranks, `replicate=2 shard=4 experts=2`:

    rank           0  1  2  3  4  5  6  7
    dp_replicate   0  0  0  0  1  1  1  1
    dp_shard       0  1  2  3  0  1  2  3
    efsdp          0  0  1  1  0  0  1  1      within the same copy
    ep             0  1  0  1  0  1  0  1

Names and order are torchtitan's. Pipeline and context parallelism are not built.
"""

import math
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mm1 import dist
from mm1.config import ConfigError, Configurable
from mm1.nn.model import Model
from mm1.ranges import PositiveInt


class ParallelLayout(Configurable):
    """The meshes of one run; on one rank there is one of a single rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        replicate: PositiveInt | None = 1
        """Copies of the weights; None: as many as `shard` and `tensor` leave ranks
        for."""
        shard: PositiveInt | None = None
        """Ranks that share out weights, gradients and optimizer state; None: all that
        `replicate` and `tensor` leave."""
        tensor: PositiveInt = 1
        """Ranks that share out each matrix product (tensor parallelism)."""
        experts: PositiveInt = 1
        """Ranks that hold different experts and exchange tokens. On fewer ranks than
        that, or others that do not divide so, it is the largest divisor of it that
        they do have, which is printed: a recipe runs on any number."""

        def build(
            self, device: torch.device, model: Model.Config | None = None
        ) -> "ParallelLayout":
            """The meshes for a model of this config; a collective: all ranks must call
            it.

            Raises:
                ConfigError: the ranks, or the model's experts, cannot be shared out so.
            """
            return self.make(device=device, num_experts=_num_experts(model))

    def __init__(
        self, config: Config, *, device: torch.device, num_experts: int | None
    ) -> None:
        self.device = device
        self.tensor: int = config.tensor
        self.replicate, self.shard = data_axes(config, dist.world_size())
        self.experts: int = self._expert_axis(config, num_experts)
        dist.set_ranks_per_data_rank(self.tensor)
        dense = _mesh(
            device,
            {
                "dp_replicate": self.replicate,
                "dp_shard": self.shard,
                "tp": self.tensor,
            },
            kept="dp_shard",
        )
        self.data_mesh: DeviceMesh = _slice(
            dense, "dp_replicate", "dp_shard", kept="dp_shard"
        )
        """For `fully_shard`: `dp_shard`, with `dp_replicate` before it if there are
        several copies."""
        self.tensor_mesh: DeviceMesh | None = (
            dense["tp"] if self.tensor > 1 else None
        )
        """`tp`, of the same mesh as `data_mesh`; None: a single rank."""
        self.expert_mesh: DeviceMesh | None = None
        """`ep`; None: each rank has all experts, sharded as everything else."""
        self.expert_data_mesh: DeviceMesh = self.data_mesh
        """For `fully_shard` of experts: `efsdp`, with `dp_replicate` before it if there
        are several copies of an expert."""
        if self.experts > 1:
            self._build_expert_meshes(device)

    @property
    def data_size(self) -> int:
        """Ranks that read different data, over which gradients are averaged."""
        return self.replicate * self.shard

    def _expert_axis(self, config: Config, num_experts: int | None) -> int:
        wanted = config.experts
        if wanted == 1:
            return 1
        if num_experts is None:
            raise ConfigError(
                f"layout.experts={wanted}, but the model has no experts: set"
                " layout.experts=1"
            )
        if num_experts % wanted:
            raise ConfigError(
                f"layout.experts={wanted} does not divide the {num_experts} experts of"
                " the model (model.decoder.experts.num_experts): set a divisor of it"
            )
        if self.tensor > 1:
            raise ConfigError(
                f"layout.experts={wanted} and layout.tensor={self.tensor} are not built"
                " together: set one of them to 1"
            )
        fitting = largest_expert_axis(
            wanted, shard=self.shard, data_size=self.data_size
        )
        if fitting != wanted:
            ranks = self.data_size
            dist.say(
                f"layout.experts={wanted} is {fitting} on {ranks}"
                f" {'rank' if ranks == 1 else 'ranks'}: each holds"
                f" {num_experts // fitting} of {num_experts} experts"
            )
        return fitting

    def _build_expert_meshes(self, device: torch.device) -> None:
        sharded = max(1, self.shard // self.experts)
        mesh = _mesh(
            device,
            {
                "dp_replicate": self.data_size // (sharded * self.experts),
                "efsdp": sharded,
                "ep": self.experts,
            },
            kept="efsdp",
        )
        self.expert_mesh = mesh["ep"]
        self.expert_data_mesh = _slice(
            mesh, "dp_replicate", "efsdp", kept="efsdp"
        )


def data_axes(
    config: ParallelLayout.Config, world_size: int
) -> tuple[int, int]:
    """(replicate, shard), which with `tensor` make up all ranks.

    Raises:
        ConfigError: they cannot.
    """
    if config.replicate is None and config.shard is None:
        raise ConfigError(
            "layout.replicate and layout.shard are both None: give one of them"
        )
    given = config.tensor * (config.replicate or 1) * (config.shard or 1)
    rest, over = divmod(world_size, given)
    axes = ", ".join(
        f"layout.{name}={getattr(config, name)}"
        for name in ("replicate", "shard", "tensor")
    )
    if over or not rest:
        raise ConfigError(
            f"{axes} take a multiple of {given} ranks, and this run has {world_size}:"
            " their product must be the number of ranks"
        )
    if rest > 1 and config.replicate and config.shard:
        raise ConfigError(
            f"{axes} take {given} ranks, and this run has {world_size}: set"
            " layout.replicate=None or layout.shard=None to use all of them"
        )
    return config.replicate or rest, config.shard or rest


def largest_expert_axis(wanted: int, *, shard: int, data_size: int) -> int:
    """The largest divisor of `wanted` that the ranks have: within each copy, or over
    some copies as wholes."""
    return max(
        size
        for size in range(1, wanted + 1)
        if wanted % size == 0
        and (shard % size == 0 or (size % shard == 0 and data_size % size == 0))
    )


def _num_experts(model: Model.Config | None) -> int | None:
    """Experts in each sparse block; None: it has no such blocks."""
    decoder = getattr(model, "decoder", None)
    experts = getattr(decoder, "experts", None)
    return None if experts is None else experts.num_experts


def _mesh(
    device: torch.device, axes: dict[str, int], *, kept: str
) -> DeviceMesh:
    """A mesh of all ranks without its axes of size 1, but with the axis `kept`."""
    sizes = {n: size for n, size in axes.items() if size > 1 or n == kept}
    assert math.prod(sizes.values()) == dist.world_size()
    return init_device_mesh(
        device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes)
    )


def _slice(mesh: DeviceMesh, *axes: str, kept: str) -> DeviceMesh:
    """The sub-mesh of these axes, as far as the mesh has them."""
    names = tuple(n for n in axes if n in (mesh.mesh_dim_names or ()))
    return mesh[names] if len(names) > 1 else mesh[kept]
