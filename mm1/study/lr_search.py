"""Searches learning rates: trains a grid for each size, fits the law, and tests its
prediction on a larger size.

If the best rate of a size lies at the edge of its grid, the grid is extended on that
side by a factor `STEP`, at most `MAX_EXTENSIONS` times. The cost of a run is its last
validation loss.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.config import UserError
from mm1.dist import say
from mm1.runs.results import RunFolder
from mm1.study.executors import Executor
from mm1.study.lr_fit import (
    EdgeError,
    LrLaw,
    Optimum,
    Point,
    best_rate,
    fit_lr_law,
)
from mm1.study.plan import StudyPlan
from mm1.study.runner import Runner, RunState

STEP = 2.0
AROUND = 2
"""Rates on either side of the first guess."""
MAX_EXTENSIONS = 3

AddRun = Callable[[StudyPlan, float, int], str]
"""(plan, rate, seed) -> the run's folder, from `plan.add`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LrSearch:
    """What is trained, and around which rates."""

    name: str
    """Names its page and its points, so that several searches can share a folder."""
    title: str
    about: str
    sizes: Mapping[float, AddRun]
    """Number of parameters -> how to add its runs."""
    larger: tuple[float, AddRun]
    """A size that is not fitted, whose best rate the law must predict."""
    guess: Callable[[float], float]
    """Number of parameters -> the centre of its first grid."""
    prepare: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class LrSearchResult:
    search: LrSearch
    points: Sequence[Point]
    law: LrLaw
    larger: Optimum
    """The best rate that the larger size's own grid shows."""


def run_lr_search(
    search: LrSearch,
    plan: StudyPlan,
    *,
    seeds: Sequence[int],
    executor: Executor,
) -> LrSearchResult:
    """Trains, extends grids whose best rate lies at an edge, and fits the law.

    `NAME.csv` is written even if the fit fails.

    Raises:
        ConfigError: the grid of a size does not show its best rate; the message says
            which rates to add.
        UserError: a run failed for a reason other than divergence.
    """
    search.prepare(plan.folder)
    sizes = dict([*search.sizes.items(), search.larger])
    rates = {
        size: [search.guess(size) * STEP**k for k in range(-AROUND, AROUND + 1)]
        for size in sizes
    }
    points = []
    extensions = 0
    while True:
        runs = {
            (size, lr, seed): add_run(plan, lr, seed)
            for size, add_run in sizes.items()
            for lr in rates[size]
            for seed in seeds
        }
        plan.check()
        states = Runner(plan, executor).run()
        points = [_point(*key, folder, states) for key, folder in runs.items()]
        write_points(points, plan.folder / f"{search.name}.csv")
        edges = [
            edge
            for size in sizes
            if (edge := _edge([p for p in points if p.params == size]))
        ]
        if not edges or extensions == MAX_EXTENSIONS:
            break
        extensions += 1
        for edge in edges:
            say(f"{edge}: adding one")
            own = rates[edge.params]
            own.append(max(own) * STEP if edge.higher else min(own) / STEP)
    law = fit_lr_law(
        [point for point in points if point.params in search.sizes]
    )
    larger = best_rate(
        [point for point in points if point.params == search.larger[0]]
    )
    return LrSearchResult(search, points, law, larger)


def _edge(points: Sequence[Point]) -> EdgeError | None:
    try:
        best_rate(points)
    except EdgeError as edge:
        return edge
    return None


def _point(
    size: float,
    lr: float,
    seed: int,
    folder: str,
    states: Mapping[str, RunState],
) -> Point:
    """Raises UserError if the run has neither finished nor diverged."""
    if states[folder] == "diverged":
        return Point(size, lr, math.inf, seed)
    losses = RunFolder(Path(folder)).curve("validation")
    if states[folder] != "finished" or not losses:
        raise UserError(
            f"{folder}: {states[folder]}, without a validation loss; see its log.txt"
        )
    return Point(size, lr, math.log(losses[-1][1]), seed)


def write_points(points: Sequence[Point], path: Path) -> None:
    """Writes the CSV file that `mm1 study lr-law --fit` reads."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("params", "lr", "loss", "seed"))
        for p in points:
            writer.writerow(
                (
                    f"{p.params:.6g}",
                    f"{p.lr:.6g}",
                    f"{math.exp(p.cost):.6g}"
                    if p.cost < math.inf
                    else "diverged",
                    p.seed,
                )
            )
