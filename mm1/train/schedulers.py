"""Learning-rate schedules: linear warm-up to the peak, then what the class says.

A schedule is a pure function of the step, so resuming needs no state. To add one, write
a subclass of `Scheduler` here; on the command line it is `scheduler=warmup_cosine`, the
name of its class.
"""

import math
from dataclasses import dataclass

from mm1.config import Configurable
from mm1.ranges import NonNegativeInt, PositiveShare, Share


class Scheduler(Configurable):
    """The learning rate as a function of the step."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        warmup_steps: NonNegativeInt = 2000
        """Steps of linear growth from 0; they count among the run's steps."""

        def build(self, *, peak_lr: float, steps: int) -> "Scheduler":
            return self.make(peak_lr=peak_lr, steps=steps)

    def __init__(self, config: Config, *, peak_lr: float, steps: int) -> None:
        self.config = config
        self.peak_lr = peak_lr
        self.steps = steps

    def learning_rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        warmup = self.config.warmup_steps
        if step < warmup:
            return self.peak_lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.peak_lr * self.decay(min(1.0, progress))

    def decay(self, progress: float) -> float:
        """The rate as a share of the peak, after this share (0 to 1) of the steps that
        follow the warm-up."""
        raise NotImplementedError


class WarmupCosine(Scheduler):
    """Cosine to a tenth of the peak: MM1's pre-training (appendix B)."""

    @dataclass(kw_only=True, slots=True)
    class Config(Scheduler.Config):
        min_lr_ratio: Share = 0.1
        """The last step's rate, as a share of the peak."""

    config: Config

    def decay(self, progress: float) -> float:
        least = self.config.min_lr_ratio
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))


class WarmupStableDecay(Scheduler):
    """Constant, then linear to the minimum (Hu et al. 2024, arXiv:2404.06395).

    A run can be prolonged from a checkpoint of its constant phase.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Scheduler.Config):
        min_lr_ratio: Share = 0.1
        """The last step's rate, as a share of the peak."""
        decay_ratio: PositiveShare = 0.2
        """Share of the steps after the warm-up in which the rate falls;
        `WarmupConstant` never lets it fall."""

    config: Config

    def decay(self, progress: float) -> float:
        c = self.config
        falling = max(0.0, progress - (1 - c.decay_ratio)) / c.decay_ratio
        return 1 - (1 - c.min_lr_ratio) * falling


class WarmupConstant(Scheduler):
    """The peak to the end."""

    def decay(self, progress: float) -> float:
        return 1.0
