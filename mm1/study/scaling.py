"""The law of learning rates from runs: a grid for each size, the fit, and its
prediction tried on a larger size.

A size whose best rate lies at its grid's edge gets further rates on that side, each a
factor `STEP` away, at most `MOST_FURTHER` times. The cost of a run is its last held-out
loss.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.config import UserError
from mm1.dist import say
from mm1.runs.results import RunFolder
from mm1.study.law import EdgeError, Law, Optimum, Point, best_rate, fit
from mm1.study.places import Place
from mm1.study.plan import Plan
from mm1.study.runner import Runner, State

STEP = 2.0
AROUND = 2
"""Rates on either side of the first guess."""
MOST_FURTHER = 3

Make = Callable[[Plan, float, int], str]
"""(plan, rate, seed) -> the run's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """What is trained, and where it is looked for."""

    name: str
    """Of its page and its points, so that several share a folder, and runs."""
    title: str
    about: str
    sizes: Mapping[float, Make]
    """Parameters -> its runs."""
    larger: tuple[float, Make]
    """A size that the law does not see, for which it must predict the rate."""
    guess: Callable[[float], float]
    """Parameters -> the middle of the first grid."""
    prepare: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Found:
    grid: Grid
    points: Sequence[Point]
    law: Law
    larger: Optimum
    """What the larger size's own grid shows."""


def search(grid: Grid, plan: Plan, *, seeds: Sequence[int], place: Place) -> Found:
    """Trains, extends grids where the best rate lies at an edge, and fits. `NAME.csv`
    is written in any case.

    Raises:
        ConfigError: a size does not show its best rate; the message says which way to
            go on.
        UserError: a run failed for another reason than a rate that is too high.
    """
    grid.prepare(plan.folder)
    makers = dict([*grid.sizes.items(), grid.larger])
    rates = {
        size: [grid.guess(size) * STEP**k for k in range(-AROUND, AROUND + 1)]
        for size in makers
    }
    points = []
    further = 0
    while True:
        runs = {
            (n, lr, seed): makers[n](plan, lr, seed)
            for n in makers
            for lr in rates[n]
            for seed in seeds
        }
        plan.check()
        states = Runner(plan, place).run()
        points = [_point(*key, folder, states) for key, folder in runs.items()]
        write_points(points, plan.folder / f"{grid.name}.csv")
        edges = [
            edge
            for size in makers
            if (edge := _edge([p for p in points if p.params == size]))
        ]
        if not edges or further == MOST_FURTHER:
            break
        further += 1
        for edge in edges:
            say(f"{edge}: one is added")
            own = rates[edge.params]
            own.append(max(own) * STEP if edge.higher else min(own) / STEP)
    law = fit([point for point in points if point.params in grid.sizes])
    return Found(
        grid,
        points,
        law,
        best_rate([point for point in points if point.params == grid.larger[0]]),
    )


def _edge(points: Sequence[Point]) -> EdgeError | None:
    try:
        best_rate(points)
    except EdgeError as edge:
        return edge
    return None


def _point(
    size: float, lr: float, seed: int, folder: str, states: Mapping[str, State]
) -> Point:
    """Raises UserError where the run has neither finished nor diverged."""
    if states[folder] == "diverged":
        return Point(size, lr, math.inf, seed)
    losses = RunFolder(Path(folder)).curve("validation")
    if states[folder] != "finished" or not losses:
        raise UserError(
            f"{folder}: {states[folder]}, without a held-out loss; its log.txt says why"
        )
    return Point(size, lr, math.log(losses[-1][1]), seed)


def write_points(points: Sequence[Point], path: Path) -> None:
    """As `mm1 study lr-law --fit` reads them."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("params", "lr", "loss", "seed"))
        for p in points:
            lines.writerow(
                (
                    f"{p.params:.6g}",
                    f"{p.lr:.6g}",
                    f"{math.exp(p.cost):.6g}" if p.cost < math.inf else "diverged",
                    p.seed,
                )
            )
