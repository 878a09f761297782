"""How a model is parallelised: FSDP2 over the ranks of a layout, mixed precision,
activation checkpointing and compilation, all through `Model.units()`.

There is one code path: a single process is a mesh of one rank.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Shard

from mm1 import dist
from mm1.config import ConfigError, nearest
from mm1.nn.float8 import use_float8
from mm1.nn.model import Model
from mm1.nn.shards import tensor_ranks
from mm1.train.activation_checkpointing import (
    ActivationCheckpointing,
    checkpoint_activations,
)
from mm1.train.compilation import CompiledUnits
from mm1.train.expert_parallel import distribute_experts, shard_experts
from mm1.train.layout import ParallelLayout
from mm1.train.tensor_parallel import apply_tensor_parallelism

AttentionKernel = Literal["flash", "cudnn"]
"""cuDNN's builds a plan for each new number of images, which takes about a second."""

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
    layout: ParallelLayout,
    *,
    precision: Literal["fp32", "bf16"],
    float8: bool = False,
    attention_kernel: AttentionKernel = "flash",
    activation_checkpointing: ActivationCheckpointing,
    activation_memory_budget: float = 1.0,
    compile_units: bool,
) -> CompiledUnits | None:
    """Prepares a model for training, in place; returns what is compiled.

    Raises:
        ConfigError: a memory budget without the compiler that keeps to it, or float8
            or tensor parallelism where it cannot be.
    """
    device = layout.device
    if float8:
        use_float8(model, device)
    if device.type == "cuda":
        torch.backends.cuda.enable_flash_sdp(attention_kernel == "flash")
        torch.backends.cuda.enable_cudnn_sdp(attention_kernel == "cudnn")
    if layout.tensor_mesh is not None:
        apply_tensor_parallelism(model, layout.tensor_mesh)
    distribute_experts(model, layout)
    compiled = prepare_units(
        model,
        activation_checkpointing=activation_checkpointing,
        activation_memory_budget=activation_memory_budget,
        compile_units=compile_units,
        # Grouped products and packed attention have no compiled form elsewhere.
        fullgraph=device.type == "cuda" and precision == "bf16",
    )
    # On a single CPU one group saves the bookkeeping of many.
    by_unit = dist.world_size() > 1 or device.type == "cuda"
    shard(model, layout, precision=precision, by_unit=by_unit)
    return compiled


def prepare_units(
    model: Model,
    *,
    activation_checkpointing: ActivationCheckpointing,
    activation_memory_budget: float,
    compile_units: bool,
    fullgraph: bool,
    compile_backend: str = "inductor",
) -> CompiledUnits | None:
    """Checkpoints activations and compiles, unit by unit; see `parallelize`."""
    checkpoint_activations(model.units(), activation_checkpointing)
    if not compile_units:
        if activation_checkpointing == "memory_budget":
            raise ConfigError(
                "activation_checkpointing=memory_budget is kept by the compiler: set"
                " compile=true, or choose selective or full"
            )
        return None
    compiled = CompiledUnits(
        [*model.units(), *model.functions()],
        backend=compile_backend,
        fullgraph=fullgraph,
    )
    budgeted = activation_checkpointing == "memory_budget"
    compiled.keep_to_budget(activation_memory_budget if budgeted else 1.0)
    return compiled


def freeze(model: Model, frozen: Sequence[str]) -> None:
    """Freezes the named parts."""
    parts = model.parts()
    for name in frozen:
        if name not in parts:
            raise ConfigError(
                f"frozen names the part {name!r}{nearest(name, parts)}"
            )
        parts[name].requires_grad_(False)


def shard(
    model: Model,
    layout: ParallelLayout,
    *,
    precision: Literal["fp32", "bf16"],
    by_unit: bool = True,
) -> None:
    """FSDP2 over the layout's ranks: fp32 weights, gradients and reductions; compute in
    `precision`.

    `by_unit`, each unit gathers its weights just in time; otherwise all at once. On one
    rank there is nothing to gather, but a group's gradients are copied into one buffer
    and out of it, which at 3B takes 28 GiB for a group of everything.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    # A unit's output that is a view is harmful only if written to, which nothing does.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    options: dict[str, Any] = {
        "mp_policy": policy,
        "reshard_after_forward": layout.data_size > 1,
    }
    dense = options | {
        "mesh": layout.data_mesh,
        "shard_placement_fn": _dimension(layout),
    }
    for unit in model.units() if by_unit else ():
        shard_experts(unit, layout, **options)
        fully_shard(unit, **dense)
    fully_shard(model, **dense)
    for name in ENTRY_POINTS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def _dimension(
    layout: ParallelLayout,
) -> Callable[[nn.Parameter], Shard | None]:
    """Which dimension of a parameter FSDP2 shards: of one whose rows are shared out by
    tensor parallelism the columns, if it can; otherwise the rows.

    Rows of rows have a placement that not every operation of DTensor knows.

    Raises:
        ConfigError: neither can be shared out.
    """

    def dimension(parameter: nn.Parameter) -> Shard | None:
        if tensor_ranks(parameter) == 1 or parameter.ndim == 1:
            return None
        rows, columns = parameter.shape
        if columns % layout.shard == 0:
            return Shard(1)
        if rows % layout.tensor:
            raise ConfigError(
                f"layout.tensor={layout.tensor} does not divide the vocabulary's"
                f" {rows} tokens, nor layout.shard={layout.shard} the decoder's width"
                f" {columns}: one of them must"
            )
        return None

    return dimension
