"""How the next token is chosen from the logits: the most likely one, or drawn."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mm1.config import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """As elsewhere: logits are divided by the temperature, then all but the `top_k`
    most likely tokens are left out, then all but the fewest that have `top_p` of the
    rest's probability. Temperature 0 takes the most likely token.

    Raises:
        ConfigError: a number is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    """None: another one each time."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ConfigError(
                f"temperature must be between 0 and 100, not {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top_p must be above 0 and at most 1, not {self.top_p}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {self.top_k}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"seed must be a 64-bit integer, not {self.seed}")


class Sampler:
    """Chooses one token after another. Random numbers come from the CPU, so that a seed
    draws alike on every device, up to the rounding of logits."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)

    def choose(self, logits: Float[Tensor, " V"]) -> int:
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        scaled = logits.double() / self.sampling.temperature
        ranked, tokens = scaled.sort(descending=True, stable=True)
        if self.sampling.top_k is not None:
            ranked = ranked[: self.sampling.top_k]
        shares = ranked.softmax(0)
        before = shares.cumsum(0) - shares
        kept = shares * (before < self.sampling.top_p)
        drawn = torch.rand((), generator=self.generator, dtype=torch.float64)
        ends = kept.cumsum(0)
        place = torch.searchsorted(ends, drawn.to(ends.device) * ends[-1])
        last = int((kept > 0).sum()) - 1
        return int(tokens[min(int(place), last)])
