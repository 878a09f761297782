"""Weights without what they compute, to time how long they are on their way."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mm1.nn.model import Losses, Model
from mm1.train.accumulation import set_gradient_sync

FEW = (64,)
"""A shape for what takes no time but that of starting."""


class _Carried(nn.Module):
    """Parameters of some shapes, which compute nothing."""

    def __init__(self, parameters: Sequence[Tensor], *, whole: bool) -> None:
        super().__init__()
        self.own = nn.ParameterList(
            nn.Parameter(
                torch.empty(p.shape if whole else FEW, device="meta"),
                requires_grad=p.requires_grad,
            )
            for p in parameters
        )

    def forward(self, x: Tensor) -> Tensor:
        return _Touch.apply(x, *self.own)


class _Touch(torch.autograd.Function):
    """x; the gradients of the parameters are whatever their memory holds."""

    @staticmethod
    def forward(ctx, x, *parameters):
        ctx.save_for_backward(*parameters)
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        return grad_outputs[0], *(
            torch.empty_like(p) for p in ctx.saved_tensors
        )


class Carrier(Model):
    """All weights of a model, sharded as they are there, without what they compute;
    not `whole`, each parameter has only a few numbers."""

    def __init__(self, model: Model, *, whole: bool) -> None:
        super().__init__()
        units = [list(unit.parameters()) for unit in model.units()]
        inside = {id(p) for unit in units for p in unit}
        self.blocks = nn.ModuleList(
            _Carried(unit, whole=whole) for unit in units
        )
        self.rest = _Carried(
            [p for p in model.parameters() if id(p) not in inside],
            whole=whole,
        )

    def units(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def parts(self) -> dict[str, nn.Module]:
        return {}

    def forward(self, batch: Any) -> Losses:
        x = self.rest(next(self.rest.parameters()).new_zeros(()))
        for block in self.blocks:
            x = block(x)
        return Losses(x)


def carry(carrier: Carrier, num_micro_batches: int) -> None:
    """Gathers weights and reduces gradients, as a step of so many micro-batches."""
    for parameter in carrier.parameters():
        parameter.grad = None
    for number in range(num_micro_batches):
        set_gradient_sync(
            carrier,
            is_last=number == num_micro_batches - 1,
            sync_each_micro_batch=False,
        )
        carrier(None).objective.backward()
