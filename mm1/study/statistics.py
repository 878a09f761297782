"""Means over seeds with confidence intervals by Student's t, in plain numpy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.95
NUM_NODES = 100_001
"""Of the grid on which the density is integrated: quantiles have six correct digits up
to 1,000 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its confidence interval, `mean` +- `half`."""

    mean: float
    half: float | None
    """None for a single value, which says nothing about the spread."""
    num: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.half is not None and self.mean - self.half > 0

    @property
    def below_zero(self) -> bool:
        return self.half is not None and self.mean + self.half < 0


@cache
def t_quantile(probability: float, dof: int) -> float:
    """The quantile of Student's t distribution with `dof` degrees of freedom.

    With t = sqrt(dof) tan(u), the density in u is proportional to cos(u)^(dof - 1)
    between -pi/2 and pi/2: it is bounded on a finite interval, so the trapezoidal rule
    and a look-up are enough.
    """
    if not 0 < probability < 1 or dof < 1:
        raise ValueError(
            f"t has no quantile for probability {probability} and {dof} degrees of"
            " freedom"
        )
    u = np.linspace(0.0, math.pi / 2, NUM_NODES)
    density = np.cos(u) ** (dof - 1)
    sums = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    angle = np.interp(abs(probability - 0.5) * 2, sums / sums[-1], u)
    return math.copysign(math.sqrt(dof) * math.tan(angle), probability - 0.5)


def p_value(values: Sequence[float]) -> float | None:
    """Two-sided, of a mean of zero, by Student's t; None for fewer than two values.

    It is at most 0.05 where the 95% interval of `estimate` leaves out zero.
    """
    num = len(values)
    if num < 2:
        return None
    mean = float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    if deviation == 0:
        return float(mean == 0)
    t = abs(mean) * math.sqrt(num) / deviation
    u = np.linspace(math.atan(t / math.sqrt(num - 1)), math.pi / 2, NUM_NODES)
    whole = np.linspace(0.0, math.pi / 2, NUM_NODES)
    tail, all_of_it = (
        np.trapezoid(np.cos(x) ** (num - 2), x) for x in (u, whole)
    )
    return float(tail / all_of_it)


def holm(p_values: Sequence[float | None]) -> list[float]:
    """Adjusted p-values of a family of tests (Holm 1979, Scandinavian Journal of
    Statistics 6): those at most 0.05 are rejected, and the probability of rejecting any
    true hypothesis of the family is at most 0.05, whatever depends on what.

    A test without a result (None) counts as one of the family that is not rejected.
    """
    values = [1.0 if p is None else p for p in p_values]
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted = [1.0] * len(values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, (len(values) - rank) * values[i])
        adjusted[i] = min(1.0, highest)
    return adjusted


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of independent values with its confidence interval at `level`."""
    num = len(values)
    mean = float(np.mean(values))
    if num < 2:
        return Estimate(mean, None, num)
    error = float(np.std(values, ddof=1)) / math.sqrt(num)
    return Estimate(mean, t_quantile((1 + level) / 2, num - 1) * error, num)


def contrast_values(
    weights: Mapping[str, float], values: Mapping[str, Mapping[int, float]]
) -> list[float]:
    """The weighted sum over rows, for each seed that all rows have.

    What the rows of a seed have in common cancels: `{"a": 1, "b": -1}` is the paired
    difference of two rows.
    """
    seeds = set.intersection(*(set(values[row]) for row in weights))
    return [
        sum(weight * values[row][seed] for row, weight in weights.items())
        for seed in sorted(seeds)
    ]
