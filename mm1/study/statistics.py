"""Means over seeds with their intervals by Student's t; numpy alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.95
PLACES = 100_001
"""Of the grid on which the density is integrated: quantiles are right to six digits up
to 1,000 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and half the length of its interval (None: a single value says nothing
    about its spread)."""

    mean: float
    half: float | None
    num: int

    @property
    def above_zero(self) -> bool:
        """Does the whole interval lie above zero?"""
        return self.half is not None and self.mean - self.half > 0

    @property
    def below_zero(self) -> bool:
        return self.half is not None and self.mean + self.half < 0


@cache
def t_quantile(probability: float, dof: int) -> float:
    """Where Student's distribution with `dof` degrees of freedom reaches `probability`.

    With t = sqrt(dof) tan(u), the density in u is proportional to cos(u)^(dof - 1)
    between -pi/2 and pi/2: it is bounded and ends, so adding up trapezoids and looking
    up the sum is enough.
    """
    if not 0 < probability < 1 or dof < 1:
        raise ValueError(
            f"no quantile of t for probability {probability} and {dof} degrees of"
            " freedom"
        )
    u = np.linspace(0.0, math.pi / 2, PLACES)
    density = np.cos(u) ** (dof - 1)
    sums = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    place = np.interp(abs(probability - 0.5) * 2, sums / sums[-1], u)
    return math.copysign(math.sqrt(dof) * math.tan(place), probability - 0.5)


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of independent values with the interval that covers the true one in a
    share `level` of all cases."""
    num = len(values)
    mean = float(np.mean(values))
    if num < 2:
        return Estimate(mean, None, num)
    error = float(np.std(values, ddof=1)) / math.sqrt(num)
    return Estimate(mean, t_quantile((1 + level) / 2, num - 1) * error, num)


def combined(
    weights: Mapping[str, float], values: Mapping[str, Mapping[int, float]]
) -> list[float]:
    """The weighted sum over rows, seed by seed, of the seeds that every row has: what
    the rows of a seed share cancels.

    `{"a": 1, "b": -1}` is the paired difference of two rows.
    """
    seeds = set.intersection(*(set(values[row]) for row in weights))
    return [
        sum(weight * values[row][seed] for row, weight in weights.items())
        for seed in sorted(seeds)
    ]
