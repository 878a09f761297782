"""AdaFactor (Shazeer and Stern, arXiv:1804.04235) for sharded tensors; the optimizer of
MM1's fine-tuning.

A matrix's second moments are kept as means of its rows and of its columns, and there is
no first moment: the state of a billion weights takes megabytes. torch's own (2.13)
rejects sharded tensors, and its epsilon is so large that at gradients of 1e-7 its
update is just the normalised gradient; here it is the paper's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, zeros

from mm1.nn.model import Model
from mm1.train.optimizers import Optimizer, ParamGroup, is_sharded, local

DECAY = -0.8
"""At step t, second moments move by a share of t ** DECAY."""
SQUARE_EPSILON = 1e-30
"""Added to squared gradients."""
MIN_SCALE = 1e-3
"""Smallest root mean square of weights that relative rates are multiplied by."""
CLIPPING = 1.0
"""Largest root mean square of an update."""


class AdaFactor(Optimizer):
    """Factored second moments, no momentum."""

    @dataclass(kw_only=True, slots=True)
    class Config(Optimizer.Config):
        relative: bool = False
        """Multiply a tensor's rate by the root mean square of its weights, as the
        authors do?"""

    config: Config

    def build_optimizers(
        self, groups: list[ParamGroup], model: Model
    ) -> Sequence[torch.optim.Optimizer]:
        c = self.config
        return [ShardedAdafactor(groups, lr=c.peak_lr, relative=c.relative)]


class ShardedAdafactor(torch.optim.Optimizer):
    """Rates are absolute, as AdamW's; `relative` multiplies them by the root mean
    square of each tensor's weights.

    The last two dimensions of a tensor are factored. Weight decay is decoupled: weights
    shrink by `lr * weight_decay`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        relative: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.relative = relative

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(
                        p,
                        p.grad,
                        lr=group["lr"],
                        weight_decay=group["weight_decay"],
                    )

    def _update(
        self, p: Tensor, grad: Tensor, *, lr: float, weight_decay: float
    ) -> None:
        """Updates this rank's shard; sums are taken over all ranks."""
        state = self.state[p]
        last = p.ndim - 1
        before = p.ndim - 2
        if not state:
            factored = {"rows": _zeros(p, last), "columns": _zeros(p, before)}
            state |= {
                "step": torch.zeros(()),
                **(
                    factored if p.ndim > 1 else {"squares": torch.zeros_like(p)}
                ),
            }
        state["step"] += 1
        share = state["step"].item() ** DECAY
        weights = local(p)
        grad = local(grad)
        square = grad.square() + SQUARE_EPSILON
        if p.ndim > 1:
            rows = local(state["rows"]).lerp_(_mean(square, p, last), share)
            columns = local(state["columns"]).lerp_(
                _mean(square, p, before), share
            )
            update = (
                grad * (_mean(rows, p, before) / rows).sqrt() * columns.rsqrt()
            )
        else:
            update = grad * local(state["squares"]).lerp_(square, share).rsqrt()
        scale = _rms(weights, p).clamp(min=MIN_SCALE) if self.relative else 1.0
        update *= lr * scale / (_rms(update, p) / CLIPPING).clamp(min=1.0)
        weights.mul_(1 - lr * weight_decay).sub_(update)


def _zeros(p: Tensor, dim: int) -> Tensor:
    """State for means over `dim`, sharded as `p` is."""
    shape = [1 if d == dim else size for d, size in enumerate(p.shape)]
    if not isinstance(p, DTensor):
        return p.new_zeros(shape)
    placements = [
        Replicate() if is_sharded(placement, dim) else placement
        for placement in p.placements
    ]
    return zeros(
        shape, dtype=p.dtype, device_mesh=p.device_mesh, placements=placements
    )


def _mean(x: Tensor, p: Tensor, dim: int) -> Tensor:
    """The mean over `dim`, which is kept, of a tensor sharded as `p`."""
    return _over_ranks(x.sum(dim, keepdim=True), p, dim) / p.shape[dim]


def _rms(x: Tensor, p: Tensor) -> Tensor:
    return (_over_ranks(x.square().sum(), p) / p.numel()).sqrt()


def _over_ranks(total: Tensor, p: Tensor, dim: int | None = None) -> Tensor:
    """Sums the ranks' totals where `p` is sharded along `dim` (None: along any)."""
    if isinstance(p, DTensor):
        for axis, placement in enumerate(p.placements):
            if is_sharded(placement, dim) and p.device_mesh.size(axis) > 1:
                torch.distributed.all_reduce(
                    total, group=p.device_mesh.get_group(axis)
                )
    return total
