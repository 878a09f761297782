"""How long a step takes on a cluster: unit by unit, the larger of what is computed and
what is moved for the next unit meanwhile, and what nothing hides.

    weights     gathered for the forward and for the backward pass, over `dp_shard`
    gradients   reduced to their shards, then summed over `dp_replicate`
    tokens      exchanged with the experts' ranks, there and back, in both passes
    products    of shared-out matrices summed over `tp`, twice a block in both passes

FSDP moves weights and gradients while the unit before or after computes; tokens and
products are waited for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mm1.nn.decoder import Decoder
from mm1.nn.linear import num_weights
from mm1.nn.model import Model
from mm1.plan.accelerator import LINK_SHARE, Accelerator
from mm1.plan.calibration import Calibration
from mm1.plan.roofline import BF16, MicroBatchWork, Roofline
from mm1.plan.unit_kinds import REST, moes, unit_kinds

FP32 = 4
SAVE_BANDWIDTH = 5e9
"""Bytes/s of copying a rank's state to the host, for which a step waits."""
STRAGGLING = {1: 1.056, 2: 1.021}
"""Sequences of a micro-batch -> the slowest of 1,024 ranks in a unit over their mean,
for MM1-3B dealt by operations (benchmarks/stragglers.md); larger models have less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How the ranks of a plan share the work, as `mm1.train.layout` does, and how many
    of them are in a node; tensor ranks are neighbours, then those that shard."""

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    experts: int = 1
    per_node: int = 1

    @property
    def data_size(self) -> int:
        return self.replicate * self.shard

    @property
    def num_ranks(self) -> int:
        return self.data_size * self.tensor

    def __str__(self) -> str:
        axes = ("replicate", "shard", "tensor", "experts")
        return " ".join(
            f"{axis}={getattr(self, axis)}"
            for axis in axes
            if getattr(self, axis) > 1 or axis == "shard"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetting:
    """What may be chosen for a given model, batch and cluster."""

    shape: Shape
    micro_batch_size: int
    activation_checkpointing: str

    def overrides(self) -> str:
        """As `mm1 train` takes them."""
        s = self.shape
        words = [
            f"layout.replicate={s.replicate}" if s.replicate > 1 else "",
            f"layout.shard={s.shard}" if s.replicate > 1 else "",
            f"layout.tensor={s.tensor}" if s.tensor > 1 else "",
            f"layout.experts={s.experts}" if s.experts > 1 else "",
            f"loader.micro_batch_size={self.micro_batch_size}",
            f"activation_checkpointing={self.activation_checkpointing}",
        ]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitTime:
    """Seconds of all units of a kind in one micro-batch."""

    name: str
    count: int
    computes: float
    moves: float
    """Weights and gradients, hidden behind computation as far as it goes."""
    waits: float
    """Tokens or products on their way."""
    overlaps: bool = True
    """Do weights move while it computes?"""

    @property
    def total(self) -> float:
        if not self.overlaps:
            return self.computes + self.moves + self.waits
        return max(self.computes, self.moves) + self.waits


class StepTime:
    """Seconds of a step of a model on a cluster."""

    def __init__(
        self,
        model: Model,
        gpu: Accelerator,
        shape: Shape,
        *,
        compiled: bool,
        recomputed: bool,
        sync_each_micro_batch: bool,
        calibration: Calibration | None = None,
    ) -> None:
        """`calibration` None: by the GPU's rates."""
        self.calibration = calibration
        self.model = model
        self.gpu = gpu
        self.shape = shape
        self.syncs = sync_each_micro_batch
        self.roofline = Roofline(
            model, gpu.rates(), compiled=compiled, recomputed=recomputed
        )

    def micro_batch(
        self, work: MicroBatchWork, *, num_micro_batches: int = 1
    ) -> list[UnitTime]:
        """By kind of unit, in the order of execution; one of so many in a step, which
        decides what is moved for each."""
        kinds = unit_kinds(self.model)
        if self.calibration is not None:
            return self._calibrated(self.calibration, kinds, num_micro_batches)
        computes = self._computes(work, kinds)
        decoder = self.model.parts()["decoder"]
        units = [
            UnitTime(
                name=name,
                count=len(units),
                computes=computes[name],
                moves=self._block_moves(units)
                if "decoder" in name
                else self._moves(_num_params(units)),
                waits=self._block_waits(units, decoder, work)
                if "decoder" in name
                else 0.0,
            )
            for name, units in kinds.items()
        ]
        apart = self._num_apart(kinds) // self.shape.tensor
        units.append(
            UnitTime(
                name=REST,
                count=1,
                computes=computes[REST],
                moves=self._moves(apart),
                waits=0.0,
            )
        )
        units.append(
            UnitTime(
                name="gradients cast and added",
                count=1,
                computes=self.roofline.casts(self._num_gathered()),
                moves=0.0,
                waits=0.0,
            )
        )
        return units

    def _computes(
        self, work: MicroBatchWork, kinds: dict[str, list[nn.Module]]
    ) -> dict[str, float]:
        """Seconds of all units of a kind."""
        seconds = self.roofline.micro_batch(work)
        computes = {
            part: sum(t for n, t in seconds.items() if n.startswith(part))
            for part in ("encoder", "connector")
        }
        computes["encoder blocks"] = computes["encoder"]
        tensor = self.shape.tensor
        decoder = [n for n in kinds if n.endswith("decoder blocks")]
        blocks = sum(len(kinds[name]) for name in decoder)
        active = {name: _num_active(kinds[name]) for name in decoder}
        for name in decoder:
            share = len(kinds[name]) / blocks
            computes[name] = (
                active[name]
                / sum(active.values())
                * self.roofline.block_products(work)
                + share * seconds["decoder attention"]
            ) / tensor + share * seconds["decoder elementwise"]
        of_blocks = self.roofline.block_products(work)
        head = seconds["decoder products"] - of_blocks
        computes[REST] = (seconds["loss"] + head) / tensor
        return computes

    def _calibrated(
        self,
        calibration: Calibration,
        kinds: dict[str, list[nn.Module]],
        num_micro_batches: int,
    ) -> list[UnitTime]:
        moves = calibration.moves
        starts = calibration.starts
        if not self.syncs or self.shape.data_size == 1:
            # Reduced once a step.
            moves += (num_micro_batches - 1) * calibration.adds
            moves /= num_micro_batches
            starts /= num_micro_batches
        sizes = {name: _num_params(units) for name, units in kinds.items()}
        sizes[REST] = self._num_apart(kinds)
        counts = {name: len(units) for name, units in kinds.items()} | {REST: 1}
        # On a single CPU all are one group: see `mm1.train.parallel`.
        by_unit = calibration.overlaps or self.shape.data_size > 1
        groups = counts if by_unit else dict.fromkeys(kinds, 0) | {REST: 1}
        return [
            UnitTime(
                name=name,
                count=counts[name],
                computes=counts[name] * calibration.computes[name],
                moves=moves * size + starts * groups[name],
                waits=0.0,
                overlaps=calibration.overlaps,
            )
            for name, size in sizes.items()
        ]

    def _num_apart(self, kinds: dict[str, list[nn.Module]]) -> int:
        """Parameters of no unit."""
        return _num_params([self.model]) - sum(map(_num_params, kinds.values()))

    def _num_gathered(self) -> int:
        """Parameters that a rank has in a micro-batch, one unit after another."""
        experts = sum(
            m.gate_up.numel() + m.down.numel() for m in moes([self.model])
        )
        dense = _num_params([self.model]) - experts
        return dense // self.shape.tensor + experts // self.shape.experts

    def _block_moves(self, blocks: Sequence[nn.Module]) -> float:
        experts = sum(m.gate_up.numel() + m.down.numel() for m in moes(blocks))
        dense = _num_params(blocks) - experts
        seconds = self._moves(dense // self.shape.tensor)
        if not experts:
            return seconds
        if self.shape.experts == 1:
            return seconds + self._moves(experts // self.shape.tensor)
        size = max(1, self.shape.shard // self.shape.experts)
        copies = self.shape.data_size // (size * self.shape.experts)
        return seconds + self._moves_over(
            experts // self.shape.experts,
            shard=size,
            stride=self.shape.experts,
            replicate=copies,
        )

    def _block_waits(
        self,
        blocks: Sequence[nn.Module],
        decoder: nn.Module,
        work: MicroBatchWork,
    ) -> float:
        assert isinstance(decoder, Decoder)
        width = BF16 * work.num_tokens * decoder.dim
        seconds = 0.0
        if (size := self.shape.tensor) > 1:
            # An all-reduce moves twice what a gather does.
            moved = 4 * len(blocks) * 2 * width * (size - 1) / size
            seconds = moved / self._bandwidth(size, 1)
        if (size := self.shape.experts) > 1:
            for moe in moes(blocks):
                moved = 4 * moe.config.top_k * width * (size - 1) / size
                near = (min(size, self.shape.per_node) - 1) / (size - 1)
                seconds += (
                    near * moved / self.gpu.gpu_link
                    + (1 - near) * moved / self.gpu.node_link
                ) / LINK_SHARE
        return seconds

    def _moves(self, num_params: int) -> float:
        return self._moves_over(
            num_params,
            shard=self.shape.shard,
            stride=self.shape.tensor,
            replicate=self.shape.replicate,
        )

    def _moves_over(
        self, num_params: int, *, shard: int, stride: int, replicate: int
    ) -> float:
        """Seconds of moving weights and gradients of one micro-batch."""
        seconds = 0.0
        reduced = FP32 if self.syncs else 0
        if shard > 1:
            moved = (2 * BF16 + reduced) * num_params * (shard - 1) / shard
            seconds += moved / self._bandwidth(shard, stride)
        if replicate > 1 and reduced:
            moved = 2 * reduced * num_params / shard
            moved *= (replicate - 1) / replicate
            seconds += moved / self._bandwidth(replicate, shard * stride)
        return seconds

    def _bandwidth(self, size: int, stride: int) -> float:
        """Bytes/s of a rank in a collective over `size` ranks, each `stride` after the
        one before. Ranks of a node that take part share their network cards: each
        piece crosses to another node once."""
        per_node = self.shape.per_node
        if size * stride <= per_node:
            return LINK_SHARE * self.gpu.gpu_link
        together = max(1, per_node // stride)
        return LINK_SHARE * min(
            self.gpu.gpu_link, together * self.gpu.node_link
        )

    def update(self) -> float:
        """Seconds of the optimizer's step: memory is read and written, no more."""
        if self.calibration is not None:
            num_params = _num_params([self.model])
            return self.calibration.updates * num_params
        return self.roofline.update() / self.shape.num_ranks

    def straggling(self, micro_batch_size: int) -> float:
        """The slowest rank over the mean; between a few ranks it is less than between
        1,024, where it was measured."""
        nearest = max(
            (n for n in STRAGGLING if n <= micro_batch_size), default=1
        )
        share = min(1.0, math.log(self.shape.data_size) / math.log(1024))
        return 1 + (STRAGGLING[nearest] - 1) * share

    def save_stall(self, num_params: int) -> float:
        """Seconds that a step waits for a checkpoint's copy on the host."""
        return 12 * num_params / self.shape.num_ranks / SAVE_BANDWIDTH


def _num_params(modules: Sequence[nn.Module] | nn.ModuleList) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def _num_active(blocks: Sequence[nn.Module]) -> int:
    """Weights of these blocks that one token uses."""
    return num_weights(nn.ModuleList(blocks)) + sum(
        m.num_active for m in moes(list(blocks))
    )
