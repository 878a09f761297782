"""What a rank's memory holds at the peak of a step, by layout: state by the axis that
shares it out, and activations of what the rank computes, from fake tensors."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.model import Model
from mm1.plan.step_time import RunSetting, Shape
from mm1.train.memory import activation_memory
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
        images_per_sequence: float,
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self.model = model
        self.vocab_size = vocab_size
        self.images_per_sequence = images_per_sequence
        self.say = say
        self._asked = cache(self._ask)

    def parts(self, setting: RunSetting) -> dict[str, int]:
        """Bytes by what they hold."""
        shape = setting.shape
        several = shape.data_size > 1
        width = 2 if self.config.precision == "bf16" else 4
        dense = self._local_dense([self.model], shape)
        experts = _expert_weights(self.model) // shape.experts
        expert_shards = shape.shard // shape.experts or 1
        if shape.experts == 1:
            expert_shards = shape.shard
        own = dense // shape.shard + experts // expert_shards
        reduces = several and self.config.sync_each_micro_batch
        unit = max(self._local(u, shape) for u in self.model.units())
        gathered = dense + experts
        if several:
            # The unit at work, the next one, and what is in no unit.
            inside = sum(self._local(u, shape) for u in self.model.units())
            gathered += 2 * unit - inside
        activations, beside = self._activations(setting)
        return {
            "weights": 4 * own,
            "gradients": 4 * (own if reduces else dense + experts),
            "optimizer": 8 * own,
            "gathered weights": width * gathered,
            "activations": activations,
            # A unit's gradients, copied for the reduction and reduced.
            "workspace": beside + (width + 8) * unit,
        }

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

    def _activations(self, setting: RunSetting) -> tuple[int, int]:
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
        kept, beside = (
            max(0, a + (micro - 1) * (b - a))
            for a, b in zip(one, two, strict=True)
        )
        return kept, beside

    def _ask(
        self, micro: int, mode: str, tensor: int, experts: int
    ) -> tuple[int, int]:
        sequences = f"{micro} sequence{'s' * (micro > 1)}"
        layout = f"tensor={tensor} experts={experts}"
        self.say(f"asking what activations take: {mode}, {layout}, {sequences}")
        config = copy.deepcopy(self.config)
        config.activation_checkpointing = mode  # type: ignore[assignment]
        loader: Any = config.loader
        config.loader = replace(loader, micro_batch_size=micro)
        model: Any = config.model
        _shrink(model.decoder, tensor=tensor, experts=experts)
        return activation_memory(
            config,
            vocab_size=-(-self.vocab_size // tensor),
            images_per_sequence=self.images_per_sequence,
        )


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
