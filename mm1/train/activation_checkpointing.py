"""Activation checkpointing: what a unit keeps for its backward pass, and what it
computes again.

    none            everything is kept
    selective       results of matrix products, attention and convolutions are kept,
                    all else (norms, activations, residual sums) is computed again
    full            only the unit's input is kept
    memory_budget   torch.compile keeps what fits a share of "none" and is dearest to
                    compute again (`torch._functorch.config.activation_memory_budget`)

The names are torchtitan's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from mm1.nn.experts import methods_of_unit

ActivationCheckpointing = Literal["none", "selective", "full", "memory_budget"]

KEPT = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::_scaled_mm",
    "aten::_grouped_mm",
    "aten::convolution",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "torch_attn::_varlen_attn",
    "_c10d_functional::all_to_all_single",
)
"""Operations whose results "selective" keeps: nearly all of the time, but less than
half of the bytes."""


def checkpoint_activations(
    units: Sequence[nn.Module], mode: ActivationCheckpointing
) -> None:
    """Wraps the units' `forward`, in a way that `torch.compile` sees through; where
    experts are on other ranks, attention and experts one by one.

    "memory_budget" is the compiler's and changes nothing here.
    """
    if mode not in ("full", "selective"):
        return
    for unit in units:
        for module, name in methods_of_unit(unit):
            setattr(module, name, _checkpointed(getattr(module, name), mode))


def _checkpointed(
    forward: Callable[..., Any], mode: ActivationCheckpointing
) -> Callable[..., Any]:
    # A plain function: through a `functools.partial` of `checkpoint` the compiler
    # skips the frame, and with it everything inside. No unit draws random numbers, so
    # there is no random state to restore.
    if mode == "full":

        def recomputed(*args: Any, **kwargs: Any) -> Any:
            return checkpoint(
                forward,
                *args,
                use_reentrant=False,
                preserve_rng_state=False,
                **kwargs,
            )

        return recomputed

    def partly_recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=partial(create_selective_checkpoint_contexts, _policy),
            **kwargs,
        )

    return partly_recomputed


def _policy(
    _: Any, operation: torch._ops.OpOverload, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    kept = operation.name().partition(".")[0] in KEPT
    return (
        CheckpointPolicy.MUST_SAVE
        if kept
        else CheckpointPolicy.PREFER_RECOMPUTE
    )
