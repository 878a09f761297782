"""AdamW (Loshchilov and Hutter, arXiv:1711.05101), with which MM1 pre-trains.

MM1 states a decoupled weight decay of a tenth of the learning rate (appendix B); in
torch's convention, where the decay is multiplied by the rate, that is
`weight_decay=0.1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm1.nn.model import Model
from mm1.ranges import ShareBelowOne
from mm1.train.optimizers import Optimizer, ParamGroup


class AdamW(Optimizer):
    """torch's fused AdamW, which skips an update on the device, without a wait."""

    @dataclass(kw_only=True, slots=True)
    class Config(Optimizer.Config):
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
        """Decay of the first and the second moment, a step."""

    config: Config

    def build_optimizers(
        self, groups: list[ParamGroup], model: Model
    ) -> Sequence[torch.optim.Optimizer]:
        c = self.config
        self.adamw = torch.optim.AdamW(
            groups, lr=c.peak_lr, betas=c.betas, fused=True
        )
        return [self.adamw]

    def update(self, skipped: Tensor) -> None:
        # how torch's GradScaler tells a fused optimizer to skip
        self.adamw.grad_scale = None  # type: ignore[attr-defined]
        self.adamw.found_inf = skipped  # type: ignore[attr-defined]
        self.adamw.step()
