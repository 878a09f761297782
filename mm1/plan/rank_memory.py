"""What a rank's memory holds at the peak of a step, by layout: state by the axis that
shares it out, and activations of what the rank computes, from fake tensors."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.model import Model
from mm1.plan.roofline import MicroBatchWork
from mm1.plan.step_time import FP32, RunSetting, Shape
from mm1.train.memory import (
    ActivationMemory,
    BackwardMemory,
    activation_memory,
)
from mm1.train.trainer import Trainer


class RankMemory:
    """The memory of one rank of a run, for any setting of its layout, micro-batch and
    checkpointing."""

    def __init__(
        self,
        config: Trainer.Config,
        model: Model,
        *,
        vocab_size: int,
        work: Callable[[int], MicroBatchWork],
        on_gpu: bool,
        say: Callable[[str], None],
    ) -> None:
        """`work`: of a micro-batch of so many sequences."""
        self.config = config
        self.model = model
        self.vocab_size = vocab_size
        self.work = work
        self.on_gpu = on_gpu
        self.say = say
        self._asked = cache(self._ask)

    def parts(
        self, setting: RunSetting, *, num_micro_batches: int
    ) -> dict[str, int]:
        """Bytes by what they hold, at the fullest moment of a step."""
        shape = setting.shape
        weights = self._weights(shape)
        asked = self._activations(setting)
        width = 2 if self.config.precision == "bf16" else FP32
        # Those of earlier micro-batches are there all the time.
        earlier = weights.gradients if num_micro_batches > 1 else 0
        apart = width * weights.apart
        # For each parameter the fp32 copy that is reduced, which lives until the next
        # unit's on CUDA, and what comes of it. gloo copies what it is given.
        copies = 2 * FP32 if self.on_gpu else FP32 + FP32 // shape.shard
        # The loss, with all that the backward pass will need.
        moments = [(earlier, apart, asked.forward)]
        before = 0
        for unit, held in zip(weights.units, asked.backward, strict=True):
            gathered = apart
            if weights.apart < weights.everything:
                # The unit at work and the next one, which is before it.
                gathered += width * (unit + before)
            reduced = copies * unit if self._by_unit(shape) else 0
            moments += [
                (earlier, gathered, held.peak),
                (earlier, gathered, held.complete + reduced),
            ]
            before = unit
        # The last reduction, all gradients being there. One group is not gathered then.
        if self._by_unit(shape):
            moments += [(weights.gradients, apart, copies * weights.units[0])]
        else:
            moments += [(weights.gradients, 0, copies * weights.apart)]
        gradients, gathered, held = max(moments, key=sum)
        activations = min(held, asked.kept)
        return {
            "weights": FP32 * weights.own,
            "gradients": gradients,
            "optimizer": 2 * FP32 * weights.own,
            "gathered weights": gathered,
            "activations": activations,
            "workspace": held - activations,
        }

    def _by_unit(self, shape: Shape) -> bool:
        """Are units gathered and reduced one by one (`mm1.train.parallel`)?"""
        return self.on_gpu or shape.data_size > 1

    def _weights(self, shape: Shape) -> "_Weights":
        dense = self._local_dense([self.model], shape)
        experts = _expert_weights(self.model) // shape.experts
        everything = dense + experts
        expert_shards = shape.shard // shape.experts or 1
        if shape.experts == 1:
            expert_shards = shape.shard
        own = dense // shape.shard + experts // expert_shards
        units = [self._local(u, shape) for u in self.model.units()]
        # Otherwise weights stay gathered and gradients whole until the last one.
        each = shape.data_size > 1 and self.config.sync_each_micro_batch
        return _Weights(
            own=own,
            everything=everything,
            gradients=FP32 * (own if each else everything),
            units=units,
            apart=everything - sum(units) if each else everything,
        )

    def _local(self, unit: nn.Module, shape: Shape) -> int:
        """Parameters of a unit on a rank before they are sharded."""
        experts = _expert_weights(unit) // shape.experts
        return self._local_dense([unit], shape) + experts

    def _local_dense(self, modules: list[nn.Module], shape: Shape) -> int:
        """Tensor parallelism shares out the decoder's matrices."""
        total = 0
        decoder = self.model.parts()["decoder"]
        inside = {id(p) for p in decoder.parameters() if p.ndim > 1}
        for module in modules:
            for parameter in module.parameters():
                shared = shape.tensor if id(parameter) in inside else 1
                total += parameter.numel() // shared
            total -= _expert_weights(module) // shape.tensor
        return total

    def _activations(self, setting: RunSetting) -> ActivationMemory:
        """Of a micro-batch: they grow evenly with its sequences."""
        micro = setting.micro_batch_size
        asked = (
            setting.activation_checkpointing,
            setting.shape.tensor,
            setting.shape.experts,
        )
        one = self._asked(1, *asked)
        if micro == 1:
            return one
        two = self._asked(2, *asked)

        def extended(a: int, b: int) -> int:
            return a + (micro - 1) * (b - a)

        return ActivationMemory(
            kept=extended(one.kept, two.kept),
            forward=extended(one.forward, two.forward),
            backward=tuple(
                BackwardMemory(*map(extended, a, b))
                for a, b in zip(one.backward, two.backward, strict=True)
            ),
        )

    def _ask(
        self, micro: int, mode: str, tensor: int, experts: int
    ) -> ActivationMemory:
        sequences = f"{micro} sequence{'s' * (micro > 1)}"
        layout = f"tensor={tensor} experts={experts}"
        self.say(f"asking what activations take: {mode}, {layout}, {sequences}")
        config = copy.deepcopy(self.config)
        config.activation_checkpointing = mode  # type: ignore[assignment]
        loader: Any = config.loader
        config.loader = replace(loader, micro_batch_size=micro)
        model: Any = config.model
        _shrink(model.decoder, tensor=tensor, experts=experts)
        work = self.work(micro)
        return activation_memory(
            config,
            vocab_size=-(-self.vocab_size // tensor),
            images_per_sequence=work.num_images / micro,
            documents=None if self.on_gpu else work.documents,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """Of one rank: numbers of parameters, and bytes of gradients."""

    own: int
    everything: int
    gradients: int
    """That are added up over micro-batches."""
    units: list[int]
    """Of each, when it is gathered."""
    apart: int
    """Gathered all the time."""


def _shrink(config: Decoder.Config, *, tensor: int, experts: int) -> None:
    """The decoder that one rank computes: its heads, channels and experts."""
    with torch.device("meta"):
        whole = config.build(vocab_size=1)
    if tensor > 1:
        config.head_dim = whole.head_dim
        config.num_kv_heads = (
            config.num_kv_heads or config.num_heads
        ) // tensor
        config.num_heads = config.num_heads // tensor
        hidden = config.hidden_dim or -(-8 * config.dim // (3 * 256)) * 256
        config.hidden_dim = hidden // tensor
    if experts > 1 and config.experts is not None:
        # Others send it as many tokens as it sends them.
        own = config.experts.num_experts // experts
        config.experts = replace(
            config.experts, num_experts=max(own, config.experts.top_k)
        )


def _expert_weights(module: nn.Module) -> int:
    return sum(
        m.gate_up.numel() + m.down.numel()
        for m in module.modules()
        if isinstance(m, MoE)
    )
