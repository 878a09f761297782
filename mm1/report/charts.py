"""Charts as inline SVG; colours come from the page's style sheet, so
they follow light and dark mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mm1.report.axes import Axis
from mm1.report.page import Html, tag

HEIGHT = 236
FLOOR = 200
LEFT = 40
RIGHT = 12
TOP = 12
WIDE = 440
NARROW = 310
"""Canvas widths for cards in two and in three columns."""

MAX_POINTS = 240
"""Longer curves are thinned evenly: a page cannot show more, and its size grows."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; `errors` are half lengths of error bars, on a logarithmic axis the
    logarithms of the factors up and down; `tone` is a class of the style sheet.

    `key` is its entry in the legend; a curve without one is named on hover only.
    """

    name: str
    points: Sequence[Point]
    tone: str
    key: str = ""
    errors: Sequence[float] = ()
    dashed: bool = False
    strong: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """Maps values to the canvas. Narrow cards get a narrow canvas, so that all text has
    the same size."""

    x: Axis
    y: Axis
    width: int

    @property
    def right(self) -> int:
        return self.width - RIGHT

    def across(self, value: float) -> float:
        return round(LEFT + self.x.share(value) * (self.right - LEFT), 1)

    def down(self, value: float) -> float:
        return round(FLOOR - self.y.share(value) * (FLOOR - TOP), 1)

    def level(self, value: float, look: str) -> Html:
        at = self.down(value)
        return tag("line", x1=LEFT, x2=self.right, y1=at, y2=at, class_=look)


def line_chart(
    title: str,
    series: Sequence[Series],
    frame: Frame,
    *,
    aside: str = "",
    guide: tuple[str, float] | None = None,
) -> Html:
    """Curves with axes and a legend; hovering over a point shows its numbers.

    `aside` follows the title; `guide` is a named level, such as chance.
    """
    parts = _axes(frame)
    if guide:
        parts.append(frame.level(guide[1], "guide"))
    parts += [_curve(each, frame) for each in series]
    drawn = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {frame.width} {HEIGHT}",
        role="img",
        aria_label=title,
        class_="wide" if frame.width > WIDE else None,
    )
    keys = [
        (each.key, each.tone, "dashed" if each.dashed else "line")
        for each in series
        if each.key
    ]
    keys += [(guide[0], "", "guide")] if guide else []
    head = tag("h3", title, tag("span", aside, class_="note"))
    return tag("figure", head, drawn, legend(keys), class_="card")


def _axes(frame: Frame) -> list[Html]:
    parts = []
    for tick in frame.y.ticks:
        parts.append(frame.level(tick, "rule"))
        parts.append(
            tag(
                "text",
                frame.y.text(tick),
                x=LEFT - 7,
                y=frame.down(tick) + 3.8,
                text_anchor="end",
            )
        )
    for tick in frame.x.ticks:
        at = frame.across(tick)
        parts.append(
            tag("line", x1=at, x2=at, y1=FLOOR, y2=FLOOR + 4, class_="axis")
        )
        parts.append(
            tag(
                "text",
                frame.x.text(tick),
                x=at,
                y=FLOOR + 16,
                text_anchor="middle",
            )
        )
    parts.append(
        tag("line", x1=LEFT, x2=frame.right, y1=FLOOR, y2=FLOOR, class_="axis")
    )
    parts.append(
        tag(
            "text",
            frame.x.label,
            x=(LEFT + frame.right) / 2,
            y=HEIGHT - 3,
            text_anchor="middle",
        )
    )
    return parts


def _curve(series: Series, frame: Frame) -> Html:
    """The line, then error bars, dots, and on top the areas to hover over."""
    stride = max(1, -(-len(series.points) // MAX_POINTS))
    kept = [
        p
        for i, p in enumerate(series.points)
        if i % stride == 0 or i == len(series.points) - 1
    ]
    places = [(frame.across(a), frame.down(b)) for a, b in kept]
    look = "curve" + " dashed" * series.dashed + " strong" * series.strong
    parts = [
        tag(
            "polyline",
            points=" ".join(f"{a},{b}" for a, b in places),
            class_=look,
        )
    ]
    for (a, b), error in zip(series.points, series.errors, strict=False):
        low = frame.down(frame.y.shifted(b, -error))
        high = frame.down(frame.y.shifted(b, error))
        parts.append(
            tag(
                "line",
                x1=frame.across(a),
                x2=frame.across(a),
                y1=low,
                y2=high,
                class_="error",
            )
        )
    if series.dots or len(kept) == 1:
        shape = "dot hollow" if series.dashed else "dot"
        parts += [
            tag("circle", cx=a, cy=b, r=3.4, class_=shape) for a, b in places
        ]
    for i, ((x, y), (a, b)) in enumerate(zip(kept, places, strict=True)):
        error = (
            f" ± {series.errors[i] * 100:.1f}"
            if frame.y.percent and series.errors
            else ""
        )
        number = f"{y * 100:.1f}%" if frame.y.percent else f"{y:.4g}"
        hover = tag(
            "title",
            f"{series.name}: {number}{error} ({frame.x.label} {frame.x.text(x)})",
        )
        parts.append(tag("circle", hover, cx=a, cy=b, r=7, class_="hit"))
    return tag("g", *parts, class_=series.tone)


def legend(keys: Sequence[tuple[str, str, str]]) -> Html:
    """(name, tone, kind) with kind line, dashed, guide, block or pad."""
    marks = {
        "line": "",
        "dashed": "dashed",
        "guide": "guide",
        "block": "block",
        "pad": "block pad",
    }
    items = [
        tag("li", tag("i", class_=f"{marks[kind]} {tone}".strip()), name)
        for name, tone, kind in keys
    ]
    return tag("ul", *items, class_="legend")


@dataclass(frozen=True, slots=True)
class Dot:
    """A line of a dot chart: a mean, half the length of its error bar, and the single
    values."""

    name: str
    value: float | None
    error: float | None
    values: Sequence[float]
    aside: str = ""
    """Shown in place of a missing value."""


def dot_chart(
    title: str,
    dots: Sequence[Dot],
    x: Axis,
    *,
    width: int = WIDE,
    aside: str = "",
) -> Html:
    """Lines with a mean, an error bar and single values each; hovering shows the
    numbers."""
    left = min(width // 2, round(6.2 * max(len(dot.name) for dot in dots)) + 14)
    step = 24
    floor = TOP + step * len(dots)

    def across(value: float) -> float:
        share = min(1.0, max(0.0, x.share(value)))
        return round(left + share * (width - RIGHT - left), 1)

    parts = []
    for tick in x.ticks:
        at = across(tick)
        parts.append(tag("line", x1=at, x2=at, y1=TOP, y2=floor, class_="rule"))
        parts.append(
            tag("text", x.text(tick), x=at, y=floor + 14, text_anchor="middle")
        )
    parts.append(
        tag(
            "text",
            x.label,
            x=(left + width - RIGHT) / 2,
            y=floor + 30,
            text_anchor="middle",
        )
    )
    parts += [
        _dot(dot, x, across, left, TOP + step * (i + 0.5))
        for i, dot in enumerate(dots)
    ]
    drawn = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {floor + (34 if x.label else 18)}",
        role="img",
        aria_label=title,
    )
    return tag(
        "figure",
        tag("h3", title, tag("span", aside, class_="note")),
        drawn,
        class_="card",
    )


def _dot(
    dot: Dot, x: Axis, across: Callable[[float], float], left: int, y: float
) -> Html:
    name = tag("text", dot.name, x=left - 10, y=y + 3.8, text_anchor="end")
    if dot.value is None:
        return tag("g", name, tag("text", dot.aside, x=left + 6, y=y + 3.8))
    at = across(dot.value)
    error = dot.error or 0.0
    spread = "" if dot.error is None else f" \u00b1 {x.text(dot.error)}"
    hover = tag(
        "title",
        f"{dot.name}: {x.text(dot.value)}{spread}"
        f" ({', '.join(map(x.text, dot.values))})",
    )
    bar = tag(
        "line",
        x1=across(dot.value - error),
        x2=across(dot.value + error),
        y1=y,
        y2=y,
        class_="error",
    )
    single = [
        tag("circle", cx=across(value), cy=y, r=2.2, class_="dot hollow")
        for value in dot.values
    ]
    marks = (
        bar,
        *single,
        tag("circle", cx=at, cy=y, r=4, class_="dot"),
        tag("circle", hover, cx=at, cy=y, r=9, class_="hit"),
    )
    return tag("g", name, *marks, class_="tone-1")


def tones(names: Sequence[str]) -> dict[str, str]:
    """A tone for each name, in order; one mapping serves all charts of a page, so that
    a source keeps its colour."""
    return {name: f"tone-{1 + i % 8}" for i, name in enumerate(names)}
