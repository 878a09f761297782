"""Optimizers: this file is the contract, every other file here is one optimizer.

To add one, write a file with a subclass of `Optimizer`: declare its hyperparameters in
its `Config` and build `torch.optim.Optimizer`s in `build_optimizers`. Parameters are
DTensors sharded by FSDP2, so its update has to work on them. The contract's test
(tests/train/test_optimizers.py) finds it by itself. On the command line it is
`optimizer=FILE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Placement

from mm1.config import ConfigError, Configurable, nearest
from mm1.nn.model import Model
from mm1.ranges import NonNegativeFloat, PositiveFloat

ParamGroup = dict[str, Any]
"""As torch.optim takes it: `params` and their `weight_decay`, and `lr_factor`, ours."""


class Optimizer(Configurable):
    """Parameter groups, gradient clipping and skipped updates, whatever the algorithm.

    Weight decay is decoupled and multiplied by the learning rate, as in torch's AdamW.
    Matrices decay; norms, biases and other vectors do not.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        peak_lr: PositiveFloat = 6e-5
        """The largest learning rate; the scheduler varies it over the steps."""
        weight_decay: NonNegativeFloat = 0.1
        """Decoupled, times the rate: of matrices, not of norms and biases."""
        max_grad_norm: PositiveFloat = 1.0
        """Gradients are clipped to this global norm."""
        lr_factors: dict[str, NonNegativeFloat] = field(default_factory=dict)
        """Learning rate of a part, relative to the others': `{"encoder": 0.1}`."""

        def build(self, *, model: Model) -> "Optimizer":
            """Raises ConfigError if nothing is left to train, or `lr_factors` names an
            unknown part."""
            return self.make(model=model)

    def __init__(self, config: Config, *, model: Model) -> None:
        self.config = config
        self.parameters: list[nn.Parameter] = [
            p for p in model.parameters() if p.requires_grad
        ]
        if not self.parameters:
            raise ConfigError("every part is frozen: nothing is left to train")
        self.optimizers: Sequence[torch.optim.Optimizer] = (
            self.build_optimizers(_param_groups(config, model), model)
        )

    def build_optimizers(
        self, groups: list[ParamGroup], model: Model
    ) -> Sequence[torch.optim.Optimizer]:
        """The optimizers that together update all parameters of `groups`, once each."""
        raise NotImplementedError

    def update(self, skipped: Tensor) -> None:
        """Updates the parameters unless `skipped` is 1. Reading it waits for the
        device: override where the algorithm can decide there."""
        if not skipped:
            for optimizer in self.optimizers:
                optimizer.step()

    def step(self, lr: float) -> tuple[Tensor, Tensor]:
        """Clips gradients, updates parameters, clears gradients.

        Returns the gradients' norm before clipping, and 1 where the update was skipped
        since the norm is not finite (then parameters and state are as before), else 0.
        """
        norm = clip_gradients(self.parameters, self.config.max_grad_norm)
        skipped = (~torch.isfinite(norm)).float()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_factor"]
        self.update(skipped)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return norm.detach(), skipped


def clip_gradients(
    parameters: Sequence[nn.Parameter], max_norm: float
) -> Float[Tensor, ""]:
    """Scales gradients so that their norm is at most `max_norm`; returns the norm
    before.

    torch's own takes tensors of one mesh; experts have another than the rest.
    """
    groups: dict[Any, list[nn.Parameter]] = {}
    for p in parameters:
        if p.grad is not None:
            groups.setdefault(_sharded_over(p.grad), []).append(p)
    squares = []
    for (mesh, axes), members in groups.items():
        square = nn.utils.get_total_norm(
            [local(p.grad) for p in members if p.grad is not None]
        ).square()
        for axis in axes:
            torch.distributed.all_reduce(square, group=mesh.get_group(axis))
        squares.append(square)
    norm = torch.stack(squares).sum().sqrt()
    for members in groups.values():
        nn.utils.clip_grads_with_norm_(members, max_norm, norm)
    return norm


def local(x: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, or all of another."""
    return x.to_local() if isinstance(x, DTensor) else x


def is_sharded(placement: Placement, dim: int | None = None) -> bool:
    """Along `dim` (None: along any)? `is_shard` is false where FSDP2 strides shards of
    what tensor parallelism has sharded along the same dimension."""
    sharded = getattr(placement, "dim", None)
    return sharded is not None and dim in (None, sharded)


def _sharded_over(x: Tensor) -> tuple[Any, tuple[int, ...]]:
    """A tensor's mesh, and the axes of it over which its parts are to be summed."""
    if not isinstance(x, DTensor):
        return None, ()
    axes = [i for i, each in enumerate(x.placements) if is_sharded(each)]
    return x.device_mesh, tuple(axes)


def _param_groups(config: Optimizer.Config, model: Model) -> list[ParamGroup]:
    parts = model.parts()
    for name in config.lr_factors:
        if name not in parts:
            raise ConfigError(
                f"optimizer.lr_factors names the part {name!r}{nearest(name, parts)}"
            )
    part_of = {
        id(p): name for name, part in parts.items() for p in part.parameters()
    }
    # By mesh, too: torch's fused updates take the tensors of one.
    groups: dict[tuple[float, bool, Any], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            factor = config.lr_factors.get(part_of.get(id(p), ""), 1.0)
            key = (factor, p.ndim > 1, _sharded_over(p)[0])
            groups.setdefault(key, []).append(p)
    return [
        {
            "params": params,
            "lr_factor": factor,
            "weight_decay": config.weight_decay if is_matrix else 0.0,
        }
        for (factor, is_matrix, _), params in groups.items()
    ]
