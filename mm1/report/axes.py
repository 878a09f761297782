"""Axes of charts: ranges, round ticks, and how numbers are written on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mm1.report.page import count


@dataclass(frozen=True, slots=True)
class Axis:
    """Range, ticks and label."""

    low: float
    high: float
    ticks: Sequence[float]
    label: str
    percent: bool = False
    logarithmic: bool = False
    short: bool = False
    """Are numbers written as 30.1B?"""

    def text(self, value: float) -> str:
        if self.short:
            return count(value)
        return f"{value * 100:.0f}%" if self.percent else f"{value:,.6g}"

    def share(self, value: float) -> float:
        if self.high <= self.low:
            return 0.5
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def shifted(self, value: float, by: float) -> float:
        """The end of an error bar, not beyond the axis."""
        moved = value * math.exp(by) if self.logarithmic else value + by
        return min(self.high, max(self.low, moved))


def axis(values: Sequence[float], label: str, *, air: float = 0.0) -> Axis:
    """An axis over the values, with round ticks; `air` is the share of its length left
    free below them."""
    low = min(values)
    high = max(values)
    if low == high:
        low = low - 0.5
        high = high + 0.5
    low -= air * (high - low)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Axis(
        low, high, [round(i * step, 10) for i in range(first, last + 1)], label
    )


LOG_TICKS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))
"""Ticks of each power of ten, from few to many."""
FEWEST_TICKS = 3


def log_axis(
    values: Sequence[float],
    label: str,
    *,
    short: bool = False,
) -> Axis:
    """A logarithmic axis over positive values, with round ticks and some air at both
    ends."""
    air = max(0.05 * math.log(max(values) / min(values)), 0.05)
    low = min(values) / math.exp(air)
    high = max(values) * math.exp(air)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for multiples in LOG_TICKS:
        ticks = [
            tick
            for power in powers
            for m in multiples
            if low <= (tick := m * 10.0**power) <= high
        ]
        if len(ticks) >= FEWEST_TICKS:
            break
    if len(ticks) < 2:
        ticks = sorted({min(values), max(values)})
    return Axis(low, high, ticks, label, logarithmic=True, short=short)
