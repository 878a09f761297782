"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose
singular values are all set to about one.

Matrices of linear layers inside the model's blocks are trained by Muon; embeddings,
heads, patch embeddings, stacked experts, norms and biases by AdamW. Muon's rate is
scaled to the size of AdamW's updates (Liu et al. 2025, arXiv:2502.16982), so one
`peak_lr` and one `weight_decay`, those one knows from AdamW, serve both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from mm1.nn.model import Model
from mm1.ranges import ShareBelowOne
from mm1.train.optimizers import Optimizer, ParamGroup


class Muon(Optimizer):
    """Muon for hidden matrices, AdamW for everything else."""

    @dataclass(kw_only=True, slots=True)
    class Config(Optimizer.Config):
        momentum: ShareBelowOne = 0.95
        """Muon's."""
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
        """AdamW's."""

    config: Config

    def build_optimizers(
        self, groups: list[ParamGroup], model: Model
    ) -> Sequence[torch.optim.Optimizer]:
        c = self.config
        hidden = {
            id(module.weight)
            for unit in model.units()
            for module in unit.modules()
            if isinstance(module, nn.Linear)
        }
        matrices, others = (
            [
                group | {"params": params}
                for group in groups
                if (
                    params := [
                        p
                        for p in group["params"]
                        if (id(p) in hidden) == is_hidden
                    ]
                )
            ]
            for is_hidden in (True, False)
        )
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            optimizers.append(
                ShardedMuon(
                    matrices,
                    lr=c.peak_lr,
                    momentum=c.momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            optimizers.append(
                torch.optim.AdamW(
                    others, lr=c.peak_lr, betas=c.betas, fused=True
                )
            )
        return optimizers


class ShardedMuon(torch.optim.Muon):
    """torch's Muon, which gathers a sharded matrix once for each update.

    Momentum stays sharded; every rank orthogonalises the whole matrix. torch's own step
    runs Newton-Schulz on shards: some fifteen collectives for each matrix, and bf16
    sums that depend on the number of ranks (measured on two: weights 4e-4 apart after
    three steps, here 8e-6).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(buffer, group["momentum"])  # Nesterov's
        if isinstance(update, DTensor):
            update = update.redistribute(
                placements=[Replicate()] * update.device_mesh.ndim
            )
        update = _zeropower_via_newtonschulz(
            update, group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(
            update,
            alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], p.shape),
        )
