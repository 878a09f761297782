"""How a model is parallelised: FSDP2 over all ranks, mixed precision, activation
checkpointing and compilation, all through `Model.units()`.

There is one code path: a single process is a mesh of one rank.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils.checkpoint import checkpoint

from mm1 import dist
from mm1.config import ConfigError, nearest
from mm1.nn.model import Model

ActivationCheckpointing = Literal["none", "selective", "full"]

ENTRY_POINTS = (
    "prefill",
    "step",
    "log_probs",
    "encode_images",
    "encode_texts",
    "encode_patches",
)
"""Methods besides `forward` that use sharded parameters."""


def parallelize(
    model: Model,
    *,
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    activation_checkpointing: ActivationCheckpointing,
    compile_units: bool,
) -> None:
    """Prepares a model for training, in place."""
    checkpoint_activations(model.units(), activation_checkpointing)
    if compile_units:
        for unit in model.units():
            unit.compile()
    shard(model, device=device, precision=precision)


def freeze(model: Model, frozen: Sequence[str]) -> None:
    """Freezes the named parts."""
    parts = model.parts()
    for name in frozen:
        if name not in parts:
            raise ConfigError(
                f"frozen names the part {name!r}{nearest(name, parts)}"
            )
        parts[name].requires_grad_(False)


def checkpoint_activations(
    units: Sequence[nn.Module], mode: ActivationCheckpointing
) -> None:
    """Activation checkpointing: a unit keeps only its input, and recomputes the rest in
    the backward pass; "selective" does so to every second unit, "full" to all."""
    every = {"none": 0, "selective": 2, "full": 1}[mode]
    for i, unit in enumerate(units):
        if every and i % every == every - 1:
            unit.forward = partial(
                checkpoint, unit.forward, use_reentrant=False
            )


def shard(
    model: Model, *, device: torch.device, precision: Literal["fp32", "bf16"]
) -> None:
    """FSDP2 over all ranks: fp32 weights, gradients and reductions; compute in
    `precision`.

    Each unit gathers its weights just in time. A single rank has nothing to gather:
    there the whole model is one group, which saves the bookkeeping.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    # A unit's output that is a view is harmful only if written to, which nothing does.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    mesh = dist.mesh(device)
    if dist.world_size() > 1:
        for unit in model.units():
            fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(
        model,
        mesh=mesh,
        mp_policy=policy,
        reshard_after_forward=dist.world_size() > 1,
    )
    for name in ENTRY_POINTS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)
