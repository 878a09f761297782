"""The page of a law of learning rates: each size's valley, the line with its band, the
paper's line beside it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mm1.report.charts import WIDE, Frame, Series, axis, line_chart
from mm1.report.page import NOTHING, Html, count, grid, page, section, table, tag
from mm1.study.law import Law, Optimum, Point, Prediction
from mm1.study.scaling import Found

Rate = Callable[[float], float]
"""Parameters -> peak rate."""
COLUMNS = (
    "Parameters",
    "Best rate",
    "x/ standard error",
    "By the line",
    "95% of the line",
    "95% of one size",
    "MM1's law",
)


def write_law_page(found: Found, paper: Rate, folder: Path) -> Path:
    """Writes NAME.html and says where; `paper` is the law that stands beside ours."""
    law = found.law
    larger = found.larger
    lead = tag("p", found.grid.about, class_="lead")
    body = (
        tag("header", tag("h1", found.grid.title), lead),
        section(
            "The line",
            tag("p", verdict(law, larger)),
            _line(law, larger, paper),
            note=_equation(law),
        ),
        section(
            "Each size",
            grid(*(_valley(found.points, each) for each in (*law.optima, larger))),
            note=VALLEYS,
        ),
        section(
            "Numbers",
            table(COLUMNS, rows(law, larger, paper), numbers=range(7)),
            note=LAST_ROW,
        ),
    )
    path = folder / f"{found.grid.name}.html"
    path.write_text(page(found.grid.title, *body), encoding="utf-8")
    return path


VALLEYS = (
    "Dots: geometric mean of the loss over seeds, bars as long as its range. Dashed:"
    " the parabola that counts."
)
LAST_ROW = (
    "The last row is the size that the fit has not seen. Weight decay is 0.1 in torch's"
    " convention for all."
)


def verdict(law: Law, larger: Optimum) -> str:
    """Was the larger size's rate foretold? By the interval for one size, stated before
    the runs."""
    own = law.predict(larger.params)
    ratio = larger.lr / own.lr
    words = (
        f"For {count(larger.params)} parameters the line foretold {own.lr:.3g}; found:"
        f" {larger.lr:.3g} (x {ratio:.2f})"
    )
    if own.own is None:
        return f"{words}. Two sizes give no interval to judge that by."
    inside = "inside" if own.own[0] <= larger.lr <= own.own[1] else "outside"
    return f"{words}, {inside} the 95% interval {own.own[0]:.3g} to {own.own[1]:.3g}."


def _equation(law: Law) -> str:
    half = law.slope_half
    interval = (
        "no interval from two sizes"
        if half is None
        else f"95% interval {law.slope - half:.3f} to {law.slope + half:.3f}"
    )
    return (
        f"ln rate = {law.slope:.4f} ln parameters {law.intercept:+.4f}; slope:"
        f" {interval}"
    )


def rows(law: Law, larger: Optimum, paper: Rate) -> list[tuple[str, ...]]:
    """For each size what was found and what the lines say."""
    lines = []
    for each in (*law.optima, larger):
        said = law.predict(each.params)
        error = NOTHING if each.error is None else f"{math.exp(each.error):.2f}"
        lines.append(
            (
                count(each.params),
                f"{each.lr:.3g}",
                error,
                *_bands(said),
                f"{paper(each.params):.3g}",
            )
        )
    return lines


def _bands(said: Prediction) -> tuple[str, str, str]:
    bands = (
        NOTHING if band is None else f"{band[0]:.3g} to {band[1]:.3g}"
        for band in (said.line, said.own)
    )
    return (f"{said.lr:.3g}", *bands)  # type: ignore[return-value]


def _line(law: Law, larger: Optimum, paper: Rate) -> Html:
    sizes = [optimum.params for optimum in law.optima]
    ends = (math.log10(min(sizes)), math.log10(larger.params) + 0.2)
    places = [float(place) for place in np.linspace(*ends, 40)]
    said = [law.predict(10**place) for place in places]

    def curve(rates: Sequence[float]) -> list[tuple[float, float]]:
        return [
            (place, math.log10(rate)) for place, rate in zip(places, rates, strict=True)
        ]

    series = [
        Series(
            "our line",
            curve([each.lr for each in said]),
            "tone-1",
            "our line",
            strong=True,
        )
    ]
    bands = [each.own for each in said if each.own]
    if len(bands) == len(places):
        series += [
            Series(
                "95% of one size", curve([b[0] for b in bands]), "tone-1", dashed=True
            )
        ]
        series += [
            Series(
                "95% of one size",
                curve([b[1] for b in bands]),
                "tone-1",
                "95% of one size",
                dashed=True,
            )
        ]
    series.append(
        Series(
            "MM1's law",
            curve([paper(10**place) for place in places]),
            "tone-2",
            "MM1's law",
        )
    )
    for name, optima, tone in (
        ("best rates", law.optima, "tone-0"),
        ("found at the larger size", (larger,), "tone-5"),
    ):
        series += [
            _marks(name if i == 0 else "", optimum, tone)
            for i, optimum in enumerate(optima)
        ]
    every = [point for each in series for point in each.points]
    frame = Frame(
        axis([x for x, _ in every], "log10 of parameters"),
        axis([y for _, y in every], "", air=0.05),
        2 * WIDE,
    )
    return line_chart(
        "Best rate against size",
        series,
        frame,
        aside=" log10 of the rate; bars: one standard error",
    )


def _marks(key: str, optimum: Optimum, tone: str) -> Series:
    error = () if optimum.error is None else (optimum.error / math.log(10),)
    point = (math.log10(optimum.params), math.log10(optimum.lr))
    return Series(f"{optimum.lr:.3g}", [point], tone, key, errors=error, dots=True)


def _valley(points: Sequence[Point], best: Optimum) -> Html:
    """Losses, not their logarithms."""
    own = [p for p in points if p.params == best.params and math.isfinite(p.cost)]
    rates = sorted({p.lr for p in own})
    losses = [[math.exp(p.cost) for p in own if p.lr == rate] for rate in rates]
    means = [
        (math.log10(rate), float(np.exp(np.mean(np.log(each)))))
        for rate, each in zip(rates, losses, strict=True)
    ]
    spread = [(max(each) - min(each)) / 2 for each in losses]
    c0, c1, c2 = best.curve
    near = np.linspace(-math.log(2), math.log(2), 20)
    parabola = [
        (math.log10(best.centre) + x / math.log(10), math.exp(c0 + c1 * x + c2 * x * x))
        for x in near.tolist()
    ]
    series = [
        Series(
            "loss", means, "tone-1", f"best {best.lr:.3g}", errors=spread, dots=True
        ),
        Series("parabola", parabola, "tone-5", dashed=True),
    ]
    heights = [y + e for (_, y), e in zip(means, spread, strict=True)] + [
        y - e for (_, y), e in zip(means, spread, strict=True)
    ]
    frame = Frame(
        axis([x for x, _ in means], "log10 of the rate"),
        axis(heights, "", air=0.05),
        WIDE,
    )
    return line_chart(f"{count(best.params)} parameters", series, frame)
