"""The best learning rate as a function of size, fitted to a grid of short runs (MM1,
section 3.3).

    for each size     a parabola in ln rate, around the best rate of the grid -> the best rate and its standard error
    over the sizes    a line, ln rate = slope * ln size + intercept           -> the rate of any other size, with a band

Losses enter by their logarithm. Scores (more is better) enter as they are, because they
may be zero. Seeds may differ in level: each has its own, and they share the parabola's
shape, so what is common to a seed's runs is no error of the rate.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm1.config import ConfigError
from mm1.study.statistics import LEVEL, t_quantile

COLUMNS = ("params", "lr")
WORTH = ("loss", "score")
DIVERGED = ("diverged", "nan", "inf")


class EdgeError(ConfigError):
    """The best rate of a size is the lowest or the highest of its grid."""

    def __init__(self, params: float, best: float, *, higher: bool) -> None:
        self.params = params
        self.higher = higher
        end, way = ("highest", "higher") if higher else ("lowest", "lower")
        super().__init__(
            f"size {params:.4g}: the best rate {best:.3g} is the {end} of its grid; add"
            f" {way} ones"
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the grid."""

    params: float
    lr: float
    cost: float
    """What is to be small: ln of the loss, or minus the score; infinite where the run
    diverged."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best rate of one size."""

    params: float
    lr: float
    error: float | None
    """Standard error of ln lr; None where as many figures were fitted as there were
    runs."""
    curve: tuple[float, float, float]
    """cost = c0 + c1 x + c2 x^2, x = ln(lr / its place on the grid), c0 the mean over
    seeds."""
    centre: float
    """The best rate of the grid."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The rate for a size: of the line, with the interval of the line and that of a
    size's own best rate."""

    lr: float
    line: tuple[float, float] | None
    own: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Law:
    """lr = exp(slope * ln params + intercept)."""

    slope: float
    intercept: float
    optima: tuple[Optimum, ...]
    covariance: tuple[tuple[float, float], tuple[float, float]] | None
    """Of (slope, intercept); None where two sizes alone give the line."""
    scatter: float
    """Variance of a size's ln lr around the line."""
    weighted: bool
    """Did each size count by its own error? Else all count alike."""

    @property
    def quantile(self) -> float:
        return t_quantile((1 + LEVEL) / 2, len(self.optima) - 2)

    @property
    def slope_half(self) -> float | None:
        """Half the length of the slope's interval."""
        return (
            None
            if self.covariance is None
            else self.quantile * math.sqrt(self.covariance[0][0])
        )

    def predict(self, params: float) -> Prediction:
        place = np.array([math.log(params), 1.0])
        log_lr = float(place @ (self.slope, self.intercept))
        if self.covariance is None:
            return Prediction(math.exp(log_lr), None, None)
        variance = float(place @ np.array(self.covariance) @ place)
        line, own = (
            self.quantile * math.sqrt(v) for v in (variance, variance + self.scatter)
        )
        return Prediction(
            math.exp(log_lr),
            *((math.exp(log_lr - h), math.exp(log_lr + h)) for h in (line, own)),
        )


def fit(points: Sequence[Point]) -> Law:
    """The law of all sizes.

    Sizes are weighted by the errors of their best rates where all of these are known.
    If the rates then lie farther from the line than their errors allow, the errors are
    made larger to fit, never smaller.

    Raises:
        ConfigError: there is one size alone, or the grid of a size does not show its
            best rate.
    """
    sizes = sorted({point.params for point in points})
    if len(sizes) < 2:
        raise ConfigError(
            f"a line needs two sizes, there {'is one' if sizes else 'are none'}; three"
            " give it a band"
        )
    optima = tuple(best_rate([p for p in points if p.params == size]) for size in sizes)
    x = np.array([[math.log(o.params), 1.0] for o in optima])
    y = np.array([math.log(o.lr) for o in optima])
    weighted = all(o.error for o in optima)
    weights = np.array([o.error**-2 if o.error and weighted else 1.0 for o in optima])
    inverse = np.linalg.inv(x.T @ (weights[:, None] * x))
    slope, intercept = (inverse @ (x.T @ (weights * y))).tolist()
    dof = len(sizes) - 2
    if dof == 0:
        return Law(slope, intercept, optima, None, 0.0, weighted)
    excess = float(weights @ (y - x @ (slope, intercept)) ** 2) / dof
    factor = max(1.0, excess) if weighted else excess
    (a, b), (c, d) = (inverse * factor).tolist()
    return Law(
        slope,
        intercept,
        optima,
        ((a, b), (c, d)),
        factor * len(optima) / float(weights.sum()),
        weighted,
    )


def best_rate(points: Sequence[Point]) -> Optimum:
    """The least point of a parabola through the best rate of the grid and its two
    neighbours, over all seeds.

    Its error is that of -c1 / (2 c2), to first order in the errors of the least-squares
    fit.

    Raises:
        EdgeError: the best rate is the lowest or the highest of the grid; the message
            says which way to go on.
        ConfigError: runs beside it diverged, or the costs show no valley.
    """
    costs = _means(points)
    rates = list(costs)
    size = f"size {points[0].params:.4g}"
    if not any(map(math.isfinite, costs.values())):
        raise ConfigError(
            f"{size}: every run diverged; add lower rates than {rates[0]:.3g}"
        )
    place = min(range(len(rates)), key=lambda i: costs[rates[i]])
    best = rates[place]
    below = rates[max(0, place - 1)]
    above = rates[min(len(rates) - 1, place + 1)]
    if place in (0, len(rates) - 1):
        raise EdgeError(points[0].params, best, higher=place > 0)
    for beside in (below, above):
        if not math.isfinite(costs[beside]):
            raise ConfigError(
                f"{size}: {beside:.3g}, beside the best rate {best:.3g}, diverged; add"
                " rates between"
            )
    used = [point for point in points if below <= point.lr <= above]
    return _parabola(used, best, size)


def _means(points: Sequence[Point]) -> dict[float, float]:
    """Rate -> mean cost over seeds, in order; one seed that diverges rules a rate
    out."""
    rates = sorted({point.lr for point in points})
    return {
        rate: float(np.mean([p.cost for p in points if p.lr == rate])) for rate in rates
    }


def _parabola(points: Sequence[Point], centre: float, size: str) -> Optimum:
    seeds = sorted({point.seed for point in points})
    x = np.array([math.log(point.lr / centre) for point in points])
    levels = np.array(
        [[float(point.seed == seed) for seed in seeds] for point in points]
    )
    design = np.column_stack((x, x**2, levels))
    y = np.array([point.cost for point in points])
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    c1, c2 = found[:2].tolist()
    if rank < design.shape[1] or c2 <= 0:
        raise ConfigError(
            f"{size}: the costs around the best rate {centre:.3g} show no valley; add"
            " seeds or rates"
        )
    error = None
    dof = len(points) - design.shape[1]
    if dof > 0:
        variance = float(((y - design @ found) ** 2).sum()) / dof
        covariance = variance * np.linalg.inv(design.T @ design)[:2, :2]
        gradient = np.array([-1 / (2 * c2), c1 / (2 * c2**2)])
        error = math.sqrt(float(gradient @ covariance @ gradient))
    lr = centre * math.exp(-c1 / (2 * c2))
    return Optimum(
        points[0].params, lr, error, (float(found[2:].mean()), c1, c2), centre
    )


def read_points(path: Path) -> list[Point]:
    """Points from a CSV file with the columns params, lr, loss or score, and perhaps
    seed; others are passed over.

    A loss of "diverged", "nan" or "inf" is that of a run that diverged.

    Raises:
        ConfigError: a column is missing, a line is no point, or one says again what
            another has said; all bad lines are named.
    """
    points = []
    faults = []
    seen = {}
    for number, row, worth in _rows(path):
        try:
            point = _point(row, worth)
        except (ValueError, TypeError) as error:
            faults.append(f"line {number}: {error}")
            continue
        key = (point.params, point.lr, point.seed)
        if key in seen:
            faults.append(
                f"line {number}: the same size, rate and seed as line {seen[key]}"
            )
        seen[key] = number
        points.append(point)
    if faults:
        raise ConfigError(f"{path}: " + "; ".join(faults))
    return points


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """(line, cells, "loss" or "score")."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        worth = [name for name in WORTH if name in columns]
        missing = [name for name in COLUMNS if name not in columns]
        if missing or len(worth) != 1:
            wanted = "the columns params, lr, and either loss or score"
            raise ConfigError(
                f"{path} has the columns {', '.join(columns) or 'none'}; it needs"
                f" {wanted}"
            )
        for row in reader:
            yield reader.line_num, row, worth[0]


def _point(row: dict[str, str], worth: str) -> Point:
    """Raises ValueError that says what is wrong."""
    if None in row or None in row.values():
        raise ValueError("another number of cells than of columns")
    params, lr = (_number(row, name) for name in COLUMNS)
    seed = row.get("seed", "").strip() or "0"
    if not seed.isdigit():
        raise ValueError(f"seed is {seed!r}, not a whole number")
    if row[worth].strip().lower() in DIVERGED:
        return Point(params, lr, math.inf, int(seed))
    cost = (
        math.log(_number(row, worth))
        if worth == "loss"
        else -_number(row, worth, positive=False)
    )
    return Point(params, lr, cost, int(seed))


def _number(row: dict[str, str], name: str, *, positive: bool = True) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(
            f"{name} is {row[name].strip()!r}, not a {'positive ' * positive}number"
        )
    return value
