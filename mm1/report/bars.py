"""Horizontal bars of coloured segments, as plain boxes; colours come from the page's
style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass

from mm1.report.page import Html, tag


@dataclass(frozen=True, slots=True)
class BarSegment:
    """A part of a bar: its share of the bar's length, and its text on hover."""

    share: float
    tone: str
    hover: str
    text: str = ""
    light: bool = False
    padding: bool = False


def bar(segments: Sequence[BarSegment]) -> Html:
    """Boxes side by side; not SVG, so that a narrow page narrows the bar and not its
    text."""
    boxes = []
    for segment in segments:
        look = segment.tone + " light" * segment.light
        look = "pad" if segment.padding else look
        inside = tag("span", segment.text) if segment.text else None
        boxes.append(
            tag(
                "i",
                inside,
                class_=look,
                style=f"width:{segment.share * 100:.3f}%",
                title=segment.hover,
            )
        )
    return tag("div", *boxes, class_="bar")


def bars(
    lines: Sequence[tuple[Html | str, Sequence[BarSegment], str]],
    *,
    thin: bool = False,
) -> Html:
    """Lines of (label before the bar, its segments, label after it)."""
    cells = [
        cell
        for before, segments, after in lines
        for cell in (
            tag("span", before, class_="label"),
            bar(segments),
            tag("span", after, class_="end"),
        )
    ]
    return tag("div", *cells, class_="bars rows" if thin else "bars")
