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
from mm1.study.study import DEFAULT_SEEDS

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
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    """Those that it is stated for."""
    stated: str = ""
    """The date of its statement; empty: it states nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The rates of one size, which are searched by themselves."""

    params: float
    add: AddRun
    guess: float
    """The centre of its first rates."""
    file: str
    """The CSV file of its points, which several grids may share."""


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
    grids = [
        Grid(
            params=size,
            add=add_run,
            guess=search.guess(size),
            file=f"{search.name}.csv",
        )
        for size, add_run in (*search.sizes.items(), search.larger)
    ]
    trained = train_grids(grids, plan, seeds=seeds, executor=executor)
    points = [point for each in trained for point in each]
    law = fit_lr_law(
        [point for point in points if point.params in search.sizes]
    )
    larger = best_rate(
        [point for point in points if point.params == search.larger[0]]
    )
    return LrSearchResult(search, points, law, larger)


def train_grids(
    grids: Sequence[Grid],
    plan: StudyPlan,
    *,
    seeds: Sequence[int],
    executor: Executor,
) -> list[list[Point]]:
    """Trains the runs of all grids, extends those whose best rate lies at an edge, and
    returns the points of each; they are written after each extension.

    Raises:
        UserError: a run failed for a reason other than divergence.
    """
    rates = [
        [grid.guess * STEP**k for k in range(-AROUND, AROUND + 1)]
        for grid in grids
    ]
    points: list[list[Point]] = []
    for extensions in range(MAX_EXTENSIONS + 1):
        runs = [
            {
                (lr, seed): grid.add(plan, lr, seed)
                for lr in own
                for seed in seeds
            }
            for grid, own in zip(grids, rates, strict=True)
        ]
        plan.check()
        states = Runner(plan, executor).run()
        points = [
            [
                _point(grid.params, *key, folder, states)
                for key, folder in own.items()
            ]
            for grid, own in zip(grids, runs, strict=True)
        ]
        _write_grids(grids, points, plan.folder)
        edges = [_edge(own) for own in points]
        if extensions == MAX_EXTENSIONS or not any(edges):
            break
        for edge, own in zip(edges, rates, strict=True):
            if edge:
                say(f"{edge}: adding one")
                own.append(max(own) * STEP if edge.higher else min(own) / STEP)
    return points


def _write_grids(
    grids: Sequence[Grid], points: Sequence[Sequence[Point]], folder: Path
) -> None:
    for file in dict.fromkeys(grid.file for grid in grids):
        own = [
            point
            for grid, each in zip(grids, points, strict=True)
            if grid.file == file
            for point in each
        ]
        write_points(own, folder / file)


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
