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
from mm1.nn.experts import MoE
from mm1.nn.model import Model
from mm1.plan.accelerator import LINK_SHARE, Accelerator
from mm1.plan.roofline import BF16, MicroBatchWork, Roofline

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

    @property
    def total(self) -> float:
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
    ) -> None:
        self.model = model
        self.gpu = gpu
        self.shape = shape
        self.syncs = sync_each_micro_batch
        self.roofline = Roofline(
            model, gpu.rates(), compiled=compiled, recomputed=recomputed
        )

    def micro_batch(self, work: MicroBatchWork) -> list[UnitTime]:
        """By kind of unit, in the order of execution."""
        seconds = self.roofline.micro_batch(work)
        parts = self.model.parts()
        units: list[UnitTime] = []
        for part in ("encoder", "connector"):
            if part in parts:
                blocks = list(getattr(parts[part], "blocks", [parts[part]]))
                own = sum(t for n, t in seconds.items() if n.startswith(part))
                units.append(
                    UnitTime(
                        name=f"{part} blocks" if len(blocks) > 1 else part,
                        count=len(blocks),
                        computes=own,
                        moves=self._moves(_num_params(blocks)),
                        waits=0.0,
                    )
                )
        decoder = parts["decoder"]
        assert isinstance(decoder, Decoder)
        units += self._decoder(decoder, work, seconds)
        return units

    def _decoder(
        self, decoder: Decoder, work: MicroBatchWork, seconds: dict[str, float]
    ) -> list[UnitTime]:
        tensor = self.shape.tensor
        own = (
            seconds["decoder products"] + seconds["decoder attention"]
        ) / tensor + seconds["decoder elementwise"]
        kinds = {
            "sparse decoder blocks": [b for b in decoder.blocks if _moes([b])],
            "decoder blocks": [b for b in decoder.blocks if not _moes([b])],
        }
        units = []
        for name, blocks in kinds.items():
            if blocks:
                units.append(
                    UnitTime(
                        name=name,
                        count=len(blocks),
                        computes=own * len(blocks) / len(decoder.blocks),
                        moves=self._block_moves(blocks),
                        waits=self._block_waits(blocks, decoder, work),
                    )
                )
        rest = _num_params([decoder]) - _num_params(decoder.blocks)
        loss = seconds["loss"] / tensor
        units.append(
            UnitTime(
                name="embedding and loss",
                count=1,
                computes=loss,
                moves=self._moves(rest // tensor),
                waits=0.0,
            )
        )
        return units

    def _block_moves(self, blocks: Sequence[nn.Module]) -> float:
        experts = sum(m.gate_up.numel() + m.down.numel() for m in _moes(blocks))
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
        decoder: Decoder,
        work: MicroBatchWork,
    ) -> float:
        width = BF16 * work.num_tokens * decoder.dim
        seconds = 0.0
        if (size := self.shape.tensor) > 1:
            # An all-reduce moves twice what a gather does.
            moved = 4 * len(blocks) * 2 * width * (size - 1) / size
            seconds = moved / self._bandwidth(size, 1)
        if (size := self.shape.experts) > 1:
            for moe in _moes(blocks):
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


def _moes(modules: Sequence[nn.Module]) -> list[MoE]:
    return [m for each in modules for m in each.modules() if isinstance(m, MoE)]
