"""Does the best rate depend on what a model starts from? Grids of rates for each size
crossed with each start.

Every seed gives a best rate for each grid, and the logarithm of its ratio between two
starts; the mean over seeds has a 95% interval by Student's t, and the p-values of all
sizes are corrected by Holm's method. A start *moves* the best rate of a size if its
corrected p-value is at most 0.05; one seed is no test.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.config import ConfigError
from mm1.report.page import (
    NOTHING,
    card_grid,
    count,
    html_page,
    section,
    table,
    tag,
)
from mm1.study.executors import Executor
from mm1.study.lr_fit import Optimum, Point, best_rate
from mm1.study.lr_page import LOSSES_NOTE, loss_chart
from mm1.study.lr_search import AddRun, Grid, train_grids
from mm1.study.plan import StudyPlan
from mm1.study.statistics import LEVEL, Estimate, estimate, holm, p_value
from mm1.study.study import DEFAULT_SEEDS


@dataclass(frozen=True, kw_only=True, slots=True)
class StartSearch:
    """What is trained: sizes, each from two starts."""

    name: str
    title: str
    about: str
    starts: tuple[str, str]
    """Two starts, in words; file names are made of them."""
    sizes: Mapping[float, Mapping[str, AddRun]]
    """Number of parameters -> start -> how to add its runs."""
    guess: float
    """The centre of every first grid: the same, so that it says nothing of sizes."""
    prepare: Callable[[Path], None]
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    stated: str = ""


@dataclass(frozen=True, slots=True)
class StartEffect:
    """What the second start does to a size's best rate."""

    params: float
    optima: tuple[Optimum | None, Optimum | None]
    """With each start, over all seeds; None if its grid does not show a best rate."""
    log_ratio: Estimate | None
    """ln (best rate with the second start / with the first), over seeds; None if no
    seed shows both."""
    adjusted: float
    """Its p-value after Holm's correction over the sizes."""

    @property
    def verdict(self) -> str:
        if self.log_ratio is None or self.log_ratio.num < 2:
            return "no test"
        return "moved" if self.adjusted <= 1 - LEVEL else "undecided"


@dataclass(frozen=True, slots=True)
class StartResult:
    search: StartSearch
    grids: Sequence[tuple[float, str, Sequence[Point]]]
    """Size, start and points of each grid."""
    effects: tuple[StartEffect, ...]


def run_start_search(
    search: StartSearch,
    plan: StudyPlan,
    *,
    seeds: Sequence[int],
    executor: Executor,
) -> StartResult:
    """Trains all grids; NAME-START.csv has their points, which `--fit` reads.

    Raises:
        UserError: a run failed for a reason other than divergence.
    """
    search.prepare(plan.folder)
    keys = [(size, start) for size in search.sizes for start in search.starts]
    grids = [
        Grid(
            params=size,
            add=search.sizes[size][start],
            guess=search.guess,
            file=f"{search.name}-{start.replace(' ', '-')}.csv",
        )
        for size, start in keys
    ]
    trained = train_grids(grids, plan, seeds=seeds, executor=executor)
    found = [(*key, own) for key, own in zip(keys, trained, strict=True)]
    by_key = dict(zip(keys, trained, strict=True))
    pairs = {
        size: [by_key[size, start] for start in search.starts]
        for size in search.sizes
    }
    return StartResult(search, found, start_effects(pairs))


def start_effects(
    pairs: Mapping[float, Sequence[Sequence[Point]]],
) -> tuple[StartEffect, ...]:
    """The effect for each size; `pairs` has the points with the first start and with
    the second."""
    ratios = {size: _log_ratios(*points) for size, points in pairs.items()}
    adjusted = holm([p_value(each) for each in ratios.values()])
    return tuple(
        StartEffect(
            size,
            (_best(pairs[size][0]), _best(pairs[size][1])),
            estimate(each) if each else None,
            p,
        )
        for (size, each), p in zip(ratios.items(), adjusted, strict=True)
    )


def _log_ratios(first: Sequence[Point], second: Sequence[Point]) -> list[float]:
    """Of each seed whose grids both show a best rate."""
    found = []
    for seed in sorted({point.seed for point in first}):
        one, other = (
            _best([p for p in points if p.seed == seed])
            for points in (first, second)
        )
        if one and other:
            found.append(math.log(other.lr / one.lr))
    return found


def _best(points: Sequence[Point]) -> Optimum | None:
    try:
        return best_rate(points)
    except ConfigError:
        return None


def describe_effects(result: StartResult) -> str:
    """A line for each size."""
    first, second = result.search.starts
    lines = [f"parameters   {first}   {second}   ratio, 95%   p   verdict"]
    lines += ["   ".join(row) for row in _effect_rows(result)]
    return "\n".join(lines)


def _effect_rows(result: StartResult) -> list[tuple[str, ...]]:
    rows = []
    for effect in result.effects:
        rates = [
            f"{each.lr:.3g}" if each else NOTHING for each in effect.optima
        ]
        rows.append(
            (
                count(effect.params),
                *rates,
                _ratio(effect.log_ratio),
                NOTHING
                if effect.verdict == "no test"
                else f"{effect.adjusted:.2g}",
                effect.verdict,
            )
        )
    return rows


def _ratio(each: Estimate | None) -> str:
    if each is None:
        return NOTHING
    middle = f"x {math.exp(each.mean):.2f}"
    if each.half is None:
        return f"{middle} (one seed)"
    low, high = (math.exp(each.mean + s * each.half) for s in (-1, 1))
    return f"{middle} ({low:.2f} to {high:.2f}, {each.num} seeds)"


def write_start_page(result: StartResult, folder: Path) -> Path:
    """Writes NAME.html and returns its path."""
    search = result.search
    first, second = search.starts
    columns = (
        "Parameters",
        f"Best rate, {first}",
        f"Best rate, {second}",
        "Second / first, 95%",
        "p, corrected",
        "Verdict",
    )
    seeds = sorted({each.seed for _, _, own in result.grids for each in own})
    charts = [
        loss_chart(f"{count(size)}, {start}", points, best)
        for size, start, points in result.grids
        if (best := _best(points))
    ]
    body = (
        tag(
            "header",
            tag("h1", search.title),
            tag("p", search.about, class_="lead"),
        ),
        section(
            "Does the start move the best rate?",
            table(columns, _effect_rows(result), numbers=(1, 2, 4)),
            note=f"Every grid began at {search.guess:.3g}, whatever the size or start."
            f" Seeds: {', '.join(map(str, seeds))}. The correction is Holm's, over the"
            " sizes.",
        ),
        section("Each grid", card_grid(*charts), note=LOSSES_NOTE),
    )
    path = folder / f"{search.name}.html"
    path.write_text(html_page(search.title, *body), encoding="utf-8")
    return path
