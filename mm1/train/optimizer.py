"""AdamW under MM1's schedule: linear warm-up, cosine to a tenth of the peak (MM1,
appendix B).

AdaFactor, with which MM1 fine-tunes, is the other rule.

MM1 states a decoupled weight decay of a tenth of the learning rate; in torch's
convention, where the decay is multiplied by the rate, that is `weight_decay=0.1`.
Matrices decay; norms, biases and other vectors do not.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mm1.config import ConfigError, Configurable, nearest
from mm1.nn.model import Model
from mm1.train.optimizers.adafactor import Adafactor


class Optimizer(Configurable):
    """The rule, the schedule and the clipping of one run."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        rule: Literal["adamw", "adafactor"] = "adamw"
        peak_lr: float = 6e-5
        warmup_steps: int = 2000
        """Steps of linear growth from 0; they count among the run's steps."""
        min_lr_ratio: float = 0.1
        """The last step's rate, as a share of the peak."""
        betas: tuple[float, float] = (0.9, 0.95)
        """AdamW's; AdaFactor has none."""
        relative: bool = False
        """AdaFactor: is a tensor's rate multiplied by the root mean square of its
        weights? (Its authors do.)"""
        weight_decay: float = 0.1
        max_grad_norm: float = 1.0
        lr_factors: dict[str, float] = field(default_factory=dict)
        """A part's own multiple of the rate: `{"encoder": 0.1}`."""

        def build(self, *, model: Model, steps: int) -> "Optimizer":
            return self.make(model=model, steps=steps)

    def __init__(self, config: Config, *, model: Model, steps: int) -> None:
        self.config = config
        self.steps = steps
        parts = model.parts()
        for name in config.lr_factors:
            if name not in parts:
                raise ConfigError(
                    "optimizer.lr_factors names the part"
                    f" {name!r}{nearest(name, parts)}"
                )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError("every part is frozen: nothing is left to train")
        groups = list(_groups(config, model, parts))
        lr = config.peak_lr
        self.rule: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, lr=lr, betas=config.betas, fused=True)
            if config.rule == "adamw"
            else Adafactor(groups, lr=lr, relative=config.relative)
        )

    def learning_rate(self, step: int) -> float:
        """The rate of step `step` (from 0)."""
        c = self.config
        if step < c.warmup_steps:
            return c.peak_lr * (step + 1) / c.warmup_steps
        done = min(1.0, (step - c.warmup_steps) / max(1, self.steps - c.warmup_steps))
        return c.peak_lr * (
            c.min_lr_ratio + (1 - c.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done))
        )

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Clips, updates and clears the gradients; returns (norm before clipping, was
        the update skipped).

        A gradient that is not finite changes nothing. The fused AdamW is told so on the
        device, without a wait.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
        skipped = (~torch.isfinite(norm)).float()
        rate = self.learning_rate(step)
        for group in self.rule.param_groups:
            group["lr"] = rate * group["factor"]
        if isinstance(self.rule, torch.optim.AdamW):
            self.rule.grad_scale = None  # type: ignore[attr-defined]
            self.rule.found_inf = skipped  # type: ignore[attr-defined]
            self.rule.step()
        elif not skipped:
            self.rule.step()
        self.rule.zero_grad()
        return norm.detach(), skipped


def _groups(
    config: Optimizer.Config, model: Model, parts: dict[str, nn.Module]
) -> Iterable[dict]:
    part_of = {id(p): name for name, part in parts.items() for p in part.parameters()}
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for p in model.parameters():
        if p.requires_grad:
            factor = config.lr_factors.get(part_of.get(id(p), ""), 1.0)
            groups.setdefault((factor, p.ndim > 1), []).append(p)
    for (factor, decays), params in groups.items():
        yield {
            "params": params,
            "factor": factor,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
