"""Building blocks of pages: escaping by construction, axes, thumbnails."""

import io
import math

import pytest
from PIL import Image

from mm1.report.axes import Axis, axis, log_axis
from mm1.report.bars import BarSegment, bar
from mm1.report.charts import NARROW, Dot, Frame, Series, dot_chart, line_chart
from mm1.report.page import Html, count, duration, join, tag, thumbnail


def test_plain_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", tag("b", "&")) == "<p>a &lt; b<b>&amp;</b></p>"
    assert join(Html("<i></i>"), None, 3, "<i>") == "<i></i>3&lt;i&gt;"


def test_attributes_are_quoted_and_named() -> None:
    assert (
        tag("i", class_='a"b', stroke_width=2, title=None)
        == '<i class="a&quot;b" stroke-width="2"></i>'
    )


def test_formatted_markup_is_plain_text_again() -> None:
    assert tag("p", Html("<b>") + "x") == "<p>&lt;b&gt;x</p>"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 100.0], [0, 25, 50, 75, 100]),
        ([0.3, 4.4], [2, 4]),
        ([2.0, 2.0], [1.5, 1.75, 2, 2.25, 2.5]),
    ],
)
def test_ticks_are_round_and_inside(
    values: list[float], ticks: list[float]
) -> None:
    assert list(axis(values, "x").ticks) == ticks


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([4e-4, 3e-3], [5e-4, 1e-3, 2e-3]),
        ([9e6, 3e10], [1e7, 1e8, 1e9, 1e10]),
        ([1.1e-3, 1.3e-3], [1.1e-3, 1.3e-3]),
        ([0.7, 300.0], [1.0, 10.0, 100.0]),
        ([2.5, 2.5], [2.5]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_the_values_themselves(
    values: list[float], ticks: list[float]
) -> None:
    made = log_axis(values, "x")
    assert made.ticks == pytest.approx(ticks)
    assert made.low < min(values) <= max(values) < made.high
    middle = (made.low * made.high) ** 0.5
    assert made.share(middle) == pytest.approx(0.5)


def test_error_bars_on_a_logarithmic_axis_are_factors() -> None:
    rates = log_axis([1e-4, 1e-2], "")
    assert rates.shifted(1e-3, math.log(2)) == pytest.approx(2e-3)
    assert rates.shifted(1e-3, -math.log(2)) == pytest.approx(5e-4)
    assert rates.shifted(1e-3, 9.0) == rates.high
    sizes = log_axis([9e6, 3e10], "parameters", short=True)
    assert sizes.text(1e9) == "1B"


def test_curves_are_thinned_but_keep_their_end() -> None:
    points = [(float(i), math.sin(i)) for i in range(10_001)]
    chart = line_chart(
        "a",
        [Series("b", points, "tone-1")],
        Frame(axis([0.0, 1e4], "x"), axis([-1.0, 1.0], "y"), NARROW),
    )
    assert chart.count("<circle") < 260
    assert "(x 10,000)" in chart


def test_error_bars_stay_on_the_canvas() -> None:
    shares = Axis(0.0, 1.0, (0.0, 1.0), "score", percent=True)
    series = Series("a", [(0.0, 0.99)], "tone-1", errors=[0.05])
    chart = line_chart(
        "a", [series], Frame(Axis(-1.0, 1.0, (0.0,), "shots"), shares, NARROW)
    )
    assert "99.0% ± 5.0 (shots 0)" in chart
    assert 'y2="12.0"' in chart  # the top of the canvas


def test_a_dot_chart_shows_means_values_and_what_is_missing() -> None:
    shares = Axis(0.0, 1.0, (0.0, 1.0), "", percent=True)
    chart = dot_chart(
        "a",
        [
            Dot("x", 0.5, 0.8, (0.4, 0.6)),
            Dot("<y>", None, None, (), "diverged"),
        ],
        shares,
        width=200,
    )
    assert chart.count('class="dot hollow"') == 2
    assert "x: 50% \N{PLUS-MINUS SIGN} 80% (40%, 60%)" in chart
    assert 'x2="188.0"' in chart  # the error bar ends where the canvas does
    assert "&lt;y&gt;" in chart
    assert "diverged" in chart


def test_bar_segments_have_their_share() -> None:
    drawn = bar(
        [
            BarSegment(0.25, "tone-1", "a: 1"),
            BarSegment(0.75, "tone-2", "b", padding=True),
        ]
    )
    assert "width:25.000%" in drawn
    assert 'class="pad"' in drawn


def picture(size: int, kind: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(out, kind)
    return out.getvalue()


def test_large_images_are_scaled_down() -> None:
    assert thumbnail(picture(32, "PNG"), "a").startswith(
        '<img class="thumb small" src="data:image/png;base64,'
    )
    assert thumbnail(picture(120, "WEBP"), "a").startswith(
        '<img class="thumb" src="data:image/webp;base64,'
    )
    large = thumbnail(picture(1000, "PNG"), "a")
    assert large.startswith('<img class="thumb" src="data:image/jpeg;base64,')
    assert len(large) < 40_000


@pytest.mark.parametrize(
    "data", [None, b"", b"no picture", picture(300, "PNG")[:5000]]
)
def test_unreadable_images_say_so(data: bytes | None) -> None:
    assert "cannot be read" in thumbnail(data, "<a>")


def test_numbers_for_people() -> None:
    assert [count(n) for n in (0, 950, 12_345, 1_240_000, 3e10)] == [
        "0",
        "950",
        "12.3k",
        "1.24M",
        "30B",
    ]
    assert [duration(s) for s in (8, 123, 7320)] == [
        "8 s",
        "2 min 03 s",
        "2 h 02 min",
    ]
