"""The law of the best learning rate over size, fitted to grids of short runs (MM1,
section 3.3).

    each size     a parabola in ln rate, around the best rate of its grid
                  -> its best rate, with a standard error
    over sizes    a line, ln rate = slope * ln size + intercept
                  -> the rate of any other size, with an interval

Losses enter as logarithms; scores (higher is better) enter as they are, because they
may be zero. Each seed has an intercept of its own, and all seeds share the shape of the
parabola: what the runs of a seed have in common does not count as an error of the rate.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm1.config import ConfigError
from mm1.files import read_utf8
from mm1.study.statistics import LEVEL, Estimate, estimate, t_quantile

COLUMNS = ("params", "lr")
OBJECTIVES = ("loss", "score")
DIVERGED = ("diverged", "nan", "inf")


class EdgeError(ConfigError):
    """The best rate of a size is the lowest or highest of its grid."""

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
    """The quantity to minimise: ln loss, or minus the score; infinite if the run
    diverged."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best rate of one size."""

    params: float
    lr: float
    error: float | None
    """Standard error of ln lr; None if the parabola has no degrees of freedom left."""
    curve: tuple[float, float, float]
    """cost = c0 + c1 x + c2 x^2 with x = ln(lr / centre); c0 is the mean over seeds."""
    centre: float
    """The best rate of the grid."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The rate of the line at a size, with two 95% intervals."""

    lr: float
    line: tuple[float, float] | None
    """For the line itself; None if two sizes alone give it."""
    single: tuple[float, float] | None
    """For the best rate of a single size, which scatters around the line."""


@dataclass(frozen=True, slots=True)
class LrLaw:
    """lr = exp(slope * ln params + intercept)."""

    slope: float
    intercept: float
    optima: tuple[Optimum, ...]
    covariance: tuple[tuple[float, float], tuple[float, float]] | None
    """Of (slope, intercept); None if two sizes alone give the line."""
    scatter: float
    """Variance of a size's ln lr around the line."""
    weighted: bool
    """Whether each size was weighted by its error; otherwise all count the same."""
    by_seed: Estimate | None = None
    """The mean of the slopes of lines fitted to one seed each, all sizes alike. Wider
    than `slope_half` where seeds differ in their best rates, which the shared parabola
    does not show. None if not every seed has a best rate at every size."""

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
        x = np.array([math.log(params), 1.0])
        log_lr = float(x @ (self.slope, self.intercept))
        if self.covariance is None:
            return Prediction(math.exp(log_lr), None, None)
        variance = float(x @ np.array(self.covariance) @ x)
        line, single = (
            self.quantile * math.sqrt(v)
            for v in (variance, variance + self.scatter)
        )
        return Prediction(
            math.exp(log_lr),
            *(
                (math.exp(log_lr - h), math.exp(log_lr + h))
                for h in (line, single)
            ),
        )


def fit_lr_law(points: Sequence[Point]) -> LrLaw:
    """Fits the law to the best rates of all sizes.

    Sizes are weighted by the errors of their best rates if all of these are known. If
    the rates scatter more around the line than their errors allow, the errors are
    scaled up to match; they are never scaled down.

    Raises:
        ConfigError: there are fewer than two sizes, or the grid of a size does not show
            its best rate.
    """
    sizes = sorted({point.params for point in points})
    if len(sizes) < 2:
        raise ConfigError(
            f"a line needs two sizes, there {'is one' if sizes else 'are none'}; three"
            " give it an interval"
        )
    optima = tuple(
        best_rate([p for p in points if p.params == size]) for size in sizes
    )
    x = np.array([[math.log(o.params), 1.0] for o in optima])
    y = np.array([math.log(o.lr) for o in optima])
    weighted = all(o.error for o in optima)
    weights = np.array(
        [o.error**-2 if o.error and weighted else 1.0 for o in optima]
    )
    inverse = np.linalg.inv(x.T @ (weights[:, None] * x))
    slope, intercept = (inverse @ (x.T @ (weights * y))).tolist()
    dof = len(sizes) - 2
    by_seed = _slope_by_seed(points)
    if dof == 0:
        return LrLaw(slope, intercept, optima, None, 0.0, weighted, by_seed)
    excess = float(weights @ (y - x @ (slope, intercept)) ** 2) / dof
    factor = max(1.0, excess) if weighted else excess
    (a, b), (c, d) = (inverse * factor).tolist()
    return LrLaw(
        slope,
        intercept,
        optima,
        ((a, b), (c, d)),
        factor * len(optima) / float(weights.sum()),
        weighted,
        by_seed,
    )


def _slope_by_seed(points: Sequence[Point]) -> Estimate | None:
    seeds = sorted({point.seed for point in points})
    if len(seeds) < 2:
        return None
    try:
        return estimate(
            [
                fit_lr_law([p for p in points if p.seed == seed]).slope
                for seed in seeds
            ]
        )
    except ConfigError:
        return None


def best_rate(points: Sequence[Point]) -> Optimum:
    """The minimum of a parabola through the best rate of the grid and its neighbours,
    over all seeds.

    Its error is that of -c1 / (2 c2), to first order in the errors of the least-squares
    fit.

    Raises:
        EdgeError: the best rate is the lowest or highest of the grid; the message says
            which rates to add.
        ConfigError: a neighbouring rate diverged, or the costs show no minimum.
    """
    costs = _means(points)
    rates = list(costs)
    size = f"size {points[0].params:.4g}"
    if not any(map(math.isfinite, costs.values())):
        raise ConfigError(
            f"{size}: every run diverged; add lower rates than {rates[0]:.3g}"
        )
    index = min(range(len(rates)), key=lambda i: costs[rates[i]])
    best = rates[index]
    below = rates[max(0, index - 1)]
    above = rates[min(len(rates) - 1, index + 1)]
    if index in (0, len(rates) - 1):
        raise EdgeError(points[0].params, best, higher=index > 0)
    for neighbour in (below, above):
        if not math.isfinite(costs[neighbour]):
            raise ConfigError(
                f"{size}: {neighbour:.3g}, next to the best rate {best:.3g}, diverged;"
                " add rates in between"
            )
    used = [point for point in points if below <= point.lr <= above]
    return _parabola(used, best, size)


def _means(points: Sequence[Point]) -> dict[float, float]:
    """Rate -> mean cost over seeds, in increasing order of the rate.

    If one seed diverged, the mean is infinite.
    """
    rates = sorted({point.lr for point in points})
    return {
        rate: float(np.mean([p.cost for p in points if p.lr == rate]))
        for rate in rates
    }


def _parabola(points: Sequence[Point], centre: float, size: str) -> Optimum:
    seeds = sorted({point.seed for point in points})
    x = np.array([math.log(point.lr / centre) for point in points])
    intercepts = np.array(
        [[float(point.seed == seed) for seed in seeds] for point in points]
    )
    design = np.column_stack((x, x**2, intercepts))
    y = np.array([point.cost for point in points])
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    c1, c2 = solution[:2].tolist()
    if rank < design.shape[1] or c2 <= 0:
        raise ConfigError(
            f"{size}: the costs around the best rate {centre:.3g} have no minimum; add"
            " seeds or rates"
        )
    error = None
    dof = len(points) - design.shape[1]
    if dof > 0:
        variance = float(((y - design @ solution) ** 2).sum()) / dof
        covariance = variance * np.linalg.inv(design.T @ design)[:2, :2]
        gradient = np.array([-1 / (2 * c2), c1 / (2 * c2**2)])
        error = math.sqrt(float(gradient @ covariance @ gradient))
    lr = centre * math.exp(-c1 / (2 * c2))
    return Optimum(
        points[0].params,
        lr,
        error,
        (float(solution[2:].mean()), c1, c2),
        centre,
    )


def read_points(path: Path) -> list[Point]:
    """Reads a CSV file with the columns params, lr, loss or score, and optionally seed.

    Other columns are ignored. A loss of "diverged", "nan" or "inf" marks a run that
    diverged.

    Raises:
        ConfigError: a column is missing, a line is malformed, or two lines are about
            the same run; all bad lines are named.
    """
    points = []
    faults = []
    seen = {}
    for number, row, objective in _rows(path):
        try:
            point = _point(row, objective)
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
    """Yields (line number, cells, "loss" or "score")."""
    text = read_utf8(path, "save it as CSV in UTF-8").removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        objectives = [name for name in OBJECTIVES if name in columns]
        missing = [name for name in COLUMNS if name not in columns]
        if missing or len(objectives) != 1:
            raise ConfigError(
                f"{path} has the columns {', '.join(columns) or 'none'}; it needs the"
                " columns params, lr, and either loss or score"
            )
        for row in reader:
            yield reader.line_num, row, objectives[0]
    except csv.Error as error:
        raise ConfigError(
            f"{path} is not CSV ({error}): save it anew"
        ) from error


def _point(row: dict[str, str], objective: str) -> Point:
    """Raises ValueError if a cell is missing or malformed."""
    if None in row or None in row.values():
        raise ValueError("the number of cells is not that of the columns")
    params, lr = (_number(row, name) for name in COLUMNS)
    seed = row.get("seed", "").strip() or "0"
    if not seed.isdigit():
        raise ValueError(f"seed is {seed!r}, not a whole number")
    if row[objective].strip().lower() in DIVERGED:
        return Point(params, lr, math.inf, int(seed))
    cost = (
        math.log(_number(row, objective))
        if objective == "loss"
        else -_number(row, objective, positive=False)
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
