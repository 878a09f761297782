"""The page of a learning-rate search: the grid of each size, and the fitted line beside
the paper's."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mm1.report.axes import axis, log_axis
from mm1.report.charts import WIDE, Frame, Series, line_chart
from mm1.report.page import (
    NOTHING,
    Html,
    card_grid,
    count,
    html_page,
    section,
    table,
    tag,
)
from mm1.study.lr_fit import LrLaw, Optimum, Point
from mm1.study.lr_search import LrSearchResult

RateLaw = Callable[[float], float]
"""Number of parameters -> peak rate."""
COLUMNS = (
    "Parameters",
    "Best rate",
    "x/ standard error",
    "First guess",
    "Best / guess",
    "Line",
    "95% of the line",
    "95% of one size",
    "MM1's law",
)


def write_lr_page(result: LrSearchResult, paper: RateLaw, folder: Path) -> Path:
    """Writes NAME.html and returns its path; `paper` is the law drawn beside ours."""
    search = result.search
    law = result.law
    larger = result.larger
    body = (
        tag(
            "header",
            tag("h1", search.title),
            tag("p", search.about, class_="lead"),
        ),
        section(
            "The line",
            tag("p", check_prediction(law, larger)),
            _line(law, larger, paper),
            note=_equation(law),
        ),
        section(
            "Each size",
            card_grid(
                *(
                    loss_chart(
                        f"{count(each.params)} parameters", result.points, each
                    )
                    for each in (*law.optima, larger)
                )
            ),
            note=LOSSES_NOTE,
        ),
        section(
            "Numbers",
            table(
                COLUMNS,
                _rows(law, larger, paper, search.guess),
                numbers=range(len(COLUMNS)),
            ),
            note=NUMBERS_NOTE,
        ),
    )
    path = folder / f"{search.name}.html"
    path.write_text(html_page(search.title, *body), encoding="utf-8")
    return path


LOSSES_NOTE = (
    "Dots: geometric mean of the loss over seeds; bars span its range. Dashed: the"
    " fitted parabola."
)
NUMBERS_NOTE = (
    "The last row is the size that is not part of the fit. Weight decay is 0.1 in"
    " torch's convention throughout."
)


def check_prediction(law: LrLaw, larger: Optimum) -> str:
    """Says whether the larger size's best rate lies in its predicted 95% interval."""
    predicted = law.predict(larger.params)
    ratio = larger.lr / predicted.lr
    words = (
        f"For {count(larger.params)} parameters the line predicts {predicted.lr:.3g};"
        f" the best rate is {larger.lr:.3g} (x {ratio:.2f})"
    )
    if predicted.single is None:
        return f"{words}. Two sizes give no interval to judge that by."
    low, high = predicted.single
    inside = "inside" if low <= larger.lr <= high else "outside"
    return f"{words}, {inside} the 95% interval {low:.3g} to {high:.3g}."


def _equation(law: LrLaw) -> str:
    half = law.slope_half
    interval = (
        "no interval from two sizes"
        if half is None
        else f"95% interval {law.slope - half:.3f} to {law.slope + half:.3f}"
    )
    return (
        f"ln rate = {law.slope:.4f} ln parameters {law.intercept:+.4f}; slope:"
        f" {interval}. {describe_by_seed(law)}"
    ).strip()


def describe_by_seed(law: LrLaw) -> str:
    """The slope with the interval that its spread over seeds gives; empty if it has
    none."""
    slope = law.by_seed
    if slope is None or slope.half is None:
        return ""
    low = slope.mean - slope.half
    high = slope.mean + slope.half
    return (
        f"A line for each of {slope.num} seeds: slope {slope.mean:.3f}, 95% interval of"
        f" their mean {low:.3f} to {high:.3f}."
    )


def _rows(
    law: LrLaw, larger: Optimum, paper: RateLaw, guess: RateLaw
) -> list[tuple[str, ...]]:
    """The row of each size: its best rate beside the guess that its grid began with,
    and what both lines predict."""
    lines = []
    for best in (*law.optima, larger):
        predicted = law.predict(best.params)
        error = NOTHING if best.error is None else f"{math.exp(best.error):.2f}"
        lines.append(
            (
                count(best.params),
                f"{best.lr:.3g}",
                error,
                f"{guess(best.params):.3g}",
                f"{best.lr / guess(best.params):.2f}",
                f"{predicted.lr:.3g}",
                _interval(predicted.line),
                _interval(predicted.single),
                f"{paper(best.params):.3g}",
            )
        )
    return lines


def _interval(interval: tuple[float, float] | None) -> str:
    return (
        NOTHING
        if interval is None
        else f"{interval[0]:.3g} to {interval[1]:.3g}"
    )


def _line(law: LrLaw, larger: Optimum, paper: RateLaw) -> Html:
    sizes = [optimum.params for optimum in law.optima]
    ends = (min(sizes), larger.params * 1.6)
    xs = np.geomspace(*ends, 40).tolist()
    predicted = [law.predict(x) for x in xs]

    def curve(rates: Sequence[float]) -> list[tuple[float, float]]:
        return list(zip(xs, rates, strict=True))

    ours = curve([each.lr for each in predicted])
    series = [Series("our line", ours, "tone-1", "our line", strong=True)]
    intervals = [each.single for each in predicted if each.single]
    if intervals:
        name = "95% of one size"
        low, high = (curve(rates) for rates in zip(*intervals, strict=True))
        series.append(Series(name, low, "tone-1", dashed=True))
        series.append(Series(name, high, "tone-1", name, dashed=True))
    theirs = curve([paper(x) for x in xs])
    series.append(Series("MM1's law", theirs, "tone-2", "MM1's law"))
    for key, optima, tone in (
        ("best rates", law.optima, "tone-0"),
        ("best rate of the larger size", (larger,), "tone-5"),
    ):
        series += [
            _marks(key if i == 0 else "", optimum, tone)
            for i, optimum in enumerate(optima)
        ]
    points = [point for each in series for point in each.points]
    frame = Frame(
        log_axis([x for x, _ in points], "parameters", short=True),
        log_axis([y for _, y in points], ""),
        2 * WIDE,
    )
    return line_chart(
        "Best rate against size",
        series,
        frame,
        aside=" both axes logarithmic; bars: one standard error",
    )


def _marks(key: str, optimum: Optimum, tone: str) -> Series:
    error = () if optimum.error is None else (optimum.error,)
    point = (float(optimum.params), optimum.lr)
    return Series("best rate", [point], tone, key, errors=error, dots=True)


def loss_chart(title: str, points: Sequence[Point], best: Optimum) -> Html:
    """A chart of the losses of one size, not of their logarithms."""
    own = [
        p for p in points if p.params == best.params and math.isfinite(p.cost)
    ]
    rates = sorted({p.lr for p in own})
    losses = [[math.exp(p.cost) for p in own if p.lr == rate] for rate in rates]
    means = [
        (rate, float(np.exp(np.mean(np.log(each)))))
        for rate, each in zip(rates, losses, strict=True)
    ]
    spread = [(max(each) - min(each)) / 2 for each in losses]
    c0, c1, c2 = best.curve
    near = np.linspace(-math.log(2), math.log(2), 20)
    parabola = [
        (best.centre * math.exp(x), math.exp(c0 + c1 * x + c2 * x * x))
        for x in near.tolist()
    ]
    series = [
        Series(
            "loss",
            means,
            "tone-1",
            f"best {best.lr:.3g}",
            errors=spread,
            dots=True,
        ),
        Series("parabola", parabola, "tone-5", dashed=True),
    ]
    heights = [
        y + sign * e
        for sign in (1, -1)
        for (_, y), e in zip(means, spread, strict=True)
    ]
    frame = Frame(
        log_axis(rates, "peak rate"),
        axis(heights, "", air=0.05),
        WIDE,
    )
    return line_chart(title, series, frame)
