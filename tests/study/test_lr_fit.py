"""The fit recovers the law behind the points with honest intervals, and refuses grids
that show no best rate."""

import csv
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm1 import cli
from mm1.config import ConfigError
from mm1.recipes.sizes import law_peak_lr
from mm1.study.lr_fit import LrLaw, Point, best_rate, fit_lr_law, read_points
from mm1.study.lr_page import describe_by_seed
from mm1.study.statistics import t_quantile

SIZES = (9e6, 85e6, 302e6, 1.2e9)


def grid(
    size: float,
    best: float,
    *,
    noise: float = 0.0,
    seeds: int = 1,
    draw: int = 0,
) -> list[Point]:
    """Parabolas in ln rate around `best`, on powers of two that miss it; each seed has
    an intercept of its own."""
    rng = np.random.default_rng((draw, round(size)))
    centre = 2.0 ** round(math.log2(best))
    return [
        Point(
            size,
            lr,
            1.0
            + 0.05 * math.log(lr / best) ** 2
            + 0.3 * seed
            + noise * rng.normal(),
            seed,
        )
        for seed in range(seeds)
        for lr in (centre * 2.0**k for k in range(-3, 4))
    ]


def law_of(**settings: Any) -> LrLaw:
    return fit_lr_law(
        [
            point
            for size in SIZES
            for point in grid(size, law_peak_lr(size), **settings)
        ]
    )


def test_points_on_the_papers_law_give_it_back() -> None:
    law = law_of()
    assert (law.slope, law.intercept) == pytest.approx(
        (-0.4214, -0.5535), rel=1e-9
    )
    assert law.predict(2.9e9).lr == pytest.approx(
        5.92e-5, rel=1e-3
    )  # the figure has three digits
    assert all(optimum.error is None for optimum in law.optima)
    assert not law.weighted


def test_seeds_that_disagree_widen_the_interval_over_seeds_alone() -> None:
    slopes = (-0.3, -0.5, -0.4)
    law = fit_lr_law(
        [
            replace(point, seed=seed)
            for seed, slope in enumerate(slopes)
            for size in SIZES
            for point in grid(size, 0.5 * size**slope)
        ]
    )
    assert law.by_seed is not None
    assert law.by_seed.num == 3
    assert law.by_seed.mean == pytest.approx(-0.4)
    # t(0.975, 2) * 0.1 / sqrt(3)
    assert law.by_seed.half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert "3 seeds: slope -0.400" in describe_by_seed(law)
    assert "interval of their mean -0.648 to -0.152" in describe_by_seed(law)


def test_a_single_seed_has_no_interval_over_seeds() -> None:
    law = law_of()
    assert law.by_seed is None
    assert describe_by_seed(law) == ""


def test_a_seed_without_a_best_rate_leaves_no_interval_over_seeds() -> None:
    points = [
        point
        for size in SIZES
        for point in grid(size, law_peak_lr(size), seeds=3)
        if point.seed or point.lr >= law_peak_lr(size)
    ]
    law = fit_lr_law(points)
    assert law.slope == pytest.approx(-0.4214, rel=1e-6)
    assert law.by_seed is None


def test_errors_are_known_with_seeds_and_cover_the_truth() -> None:
    """80 synthetic grids of four sizes and three seeds.

    The error of a best rate has four degrees of freedom: by Student's t, twice the
    error covers the truth in 0.884 of the cases; for the 320 cases here, that figure
    has a standard error of 0.018. The slope's interval promises 0.95 and covers more,
    because errors are never scaled down.
    """
    hits = 0
    slopes = 0
    tries = 80
    for draw in range(tries):
        law = law_of(noise=0.003, seeds=3, draw=draw)
        assert law.weighted
        hits += sum(
            abs(math.log(o.lr / law_peak_lr(o.params))) <= 2 * (o.error or 0)
            for o in law.optima
        )
        slopes += abs(law.slope + 0.4214) <= (law.slope_half or 0)
    assert hits / (4 * tries) == pytest.approx(0.884, abs=0.054)
    assert slopes / tries >= 0.95


def test_a_single_size_is_less_certain_than_the_line_and_far_ones_less_than_near() -> (
    None
):
    law = law_of(noise=0.003, seeds=3)
    widths = {}
    for size in (1e8, 1e10):
        predicted = law.predict(size)
        assert predicted.line is not None
        assert predicted.single is not None
        low, high = predicted.line
        assert (
            predicted.single[0]
            < low
            < predicted.lr
            < high
            < predicted.single[1]
        )
        widths[size] = high / low
    assert widths[1e10] > widths[1e8]


def test_two_sizes_give_a_line_without_a_band() -> None:
    law = fit_lr_law(
        [point for size in SIZES[:2] for point in grid(size, law_peak_lr(size))]
    )
    assert law.slope == pytest.approx(-0.4214)
    assert law.slope_half is None
    assert law.predict(1e9).line is None
    with pytest.raises(ConfigError, match="two sizes, there is one"):
        fit_lr_law(grid(9e6, 1e-3))


def points_of(*costs: float) -> list[Point]:
    return [Point(5e4, 1e-3 * 2**i, cost) for i, cost in enumerate(costs)]


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (
            (1.0, 2.0, 3.0),
            (
                "size 5e[+]04: the best rate 0.001 is the lowest of its grid; add lower"
                " ones"
            ),
        ),
        (
            (3.0, 2.0, 1.0),
            "the best rate 0.004 is the highest of its grid; add higher ones",
        ),
        (
            (2.0, 1.0, math.inf),
            "0.004, next to the best rate 0.002, diverged; add rates in between",
        ),
        (
            (math.inf, math.inf),
            "every run diverged; add lower rates than 0.001",
        ),
        ((1.0, 1.0, 1.0), "lowest of its grid"),
    ],
)
def test_a_grid_that_does_not_show_its_best_rate_is_refused(
    costs: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        best_rate(points_of(*costs))


def test_seeds_that_do_not_share_rates_have_no_minimum() -> None:
    points = [
        Point(5e4, 1e-3, 2.0, 0),
        Point(5e4, 2e-3, 1.0, 1),
        Point(5e4, 4e-3, 2.0, 2),
    ]
    with pytest.raises(ConfigError, match="have no minimum"):
        best_rate(points)


def test_seeds_of_other_rates_may_bend_the_parabola_downwards() -> None:
    """The middle rate has the lowest mean. But each seed falls by .7 up to it, and the
    third by 1.3 beyond it."""
    points = [
        *(Point(5e4, 1e-3, 0.7, seed) for seed in (0, 1)),
        *(
            Point(5e4, 2e-3, cost, seed)
            for seed, cost in enumerate((0.0, 0.0, 2.0))
        ),
        Point(5e4, 4e-3, 0.7, 2),
    ]
    with pytest.raises(ConfigError, match="have no minimum"):
        best_rate(points)


def test_sizes_count_the_same_where_the_error_of_one_is_not_known() -> None:
    law = fit_lr_law(
        [
            point
            for size, seeds in zip(SIZES, (2, 2, 1, 2), strict=True)
            for point in grid(size, law_peak_lr(size), noise=0.01, seeds=seeds)
        ]
    )
    assert [each.error is None for each in law.optima] == [
        *(False, False, True, False)
    ]
    assert not law.weighted
    slope, intercept = np.polyfit(
        [math.log(each.params) for each in law.optima],
        [math.log(each.lr) for each in law.optima],
        1,
    )
    assert (law.slope, law.intercept) == pytest.approx((slope, intercept))


def test_one_seed_that_diverges_rules_a_rate_out() -> None:
    points = [
        *points_of(3.0, 2.0, 1.0, 2.0, 0.1),
        Point(5e4, 16e-3, math.inf, 1),
    ]
    assert best_rate(points).centre == 4e-3


def test_points_are_read_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        "params, lr, loss, seed, note\n1e6, 1e-3, 2.0, 1, fine\n1e6, 2e-3, diverged, 1,"
        " too high\n"
    )
    assert read_points(path) == [
        Point(1e6, 1e-3, math.log(2), 1),
        Point(1e6, 2e-3, math.inf, 1),
    ]
    path.write_text("params,lr,score\n1e6,1e-3,0.0\n1e6,2e-3,0.25\n")
    assert read_points(path) == [
        Point(1e6, 1e-3, 0.0, 0),
        Point(1e6, 2e-3, -0.25, 0),
    ]


def test_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        "params,lr,loss,seed\n1e6,1e-3,2,0\n0,1e-3,2,0\n1e6,fast,2,0\n1e6,1e-3,3,0\n1e6,2e-3\n1e6,2e-3,2,x\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_points(path)
    message = str(caught.value)
    for words in (
        "line 3: params is '0', not a positive number",
        "line 4: lr is 'fast'",
        "line 5: the same size, rate and seed as line 2",
        "line 6: the number of cells is not that of the columns",
        "line 7: seed is 'x'",
    ):
        assert words in message
    path.write_text("params,rate,loss\n")
    with pytest.raises(
        ConfigError,
        match="needs the columns params, lr, and either loss or score",
    ):
        read_points(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"params,lr,loss\n\xff\xfe\n",
            "is not UTF-8 text: save it as CSV in UTF-8",
        ),
        (b"params,lr,loss\n" + b"1" * 200_000, "is not CSV (field larger than"),
    ],
)
def test_a_file_that_is_no_table_of_points_is_named(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    limit = csv.field_size_limit(131_072)  # of the process: others may raise it
    try:
        with pytest.raises(ConfigError, match=re.escape(f"{path} {said}")):
            read_points(path)
    finally:
        csv.field_size_limit(limit)


def test_the_command_fits_and_predicts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = ["params,lr,loss"]
    for size in SIZES:
        lines += [
            f"{p.params!r},{p.lr!r},{math.exp(p.cost)!r}"
            for p in grid(size, 2 * law_peak_lr(size))
        ]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(lines))
    for words, said in (
        (
            ["--predict", "2.9e9"],
            "2.9e+09 parameters: peak rate 5.92e-05 by MM1's law",
        ),
        (["--fit", str(path), "--predict", "2.9e9"], "peak rate 1.18e-04 ("),
    ):
        monkeypatch.setattr(sys, "argv", ["mm1", "study", "lr-law", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["lr-law-mm1", "--fit", "p.csv"],
            "belong to lr-law, not to lr-law-mm1",
        ),
        (
            ["lessons", "--predict", "2.9e9"],
            "belong to lr-law, not to lessons",
        ),
    ],
)
def test_points_of_another_search_are_refused(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As lr-law-mm1 --fit, which trained for an hour."""
    monkeypatch.setattr(sys, "argv", ["mm1", "study", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def excess_of(law: LrLaw) -> float:
    """The scatter of best rates around the line in units of their errors, by numpy's
    own weighted least squares."""
    x = [math.log(o.params) for o in law.optima]
    y = [math.log(o.lr) for o in law.optima]
    w = [1 / (o.error or math.nan) for o in law.optima]
    (slope, intercept), covariance = np.polyfit(x, y, 1, w=w, cov="unscaled")
    assert (law.slope, law.intercept) == pytest.approx((slope, intercept))
    left = np.array(w) * (np.array(y) - slope * np.array(x) - intercept)
    excess = float(left @ left) / (len(x) - 2)
    assert law.covariance is not None
    factor = law.covariance[0][0] / covariance[0][0]
    assert factor == pytest.approx(max(1.0, excess), rel=1e-6)
    weights = np.array(w) ** 2
    assert law.scatter == pytest.approx(factor * len(x) / weights.sum())
    assert law.slope_half == pytest.approx(
        t_quantile(0.975, len(x) - 2) * math.sqrt(law.covariance[0][0])
    )
    return excess


def test_the_line_is_that_of_weighted_least_squares() -> None:
    """Errors are scaled up where the rates scatter more than they allow, never down:
    both cases occur among these draws."""
    found = [
        excess_of(law_of(noise=0.003, seeds=3, draw=draw)) for draw in range(8)
    ]
    assert min(found) < 1 < max(found)


def test_the_error_of_a_best_rate_is_that_of_its_parabola() -> None:
    """Three rates by three seeds, each with an intercept: nine points, five
    parameters."""
    size = 5e6
    points = grid(size, 1e-3, noise=0.003, seeds=3)
    best = best_rate(points)
    used = [p for p in points if best.centre / 2.1 < p.lr < 2.1 * best.centre]
    x = np.array([math.log(p.lr / best.centre) for p in used])
    design = np.column_stack(
        (x, x**2, *([p.seed == seed for p in used] for seed in range(3)))
    ).astype(float)
    y = np.array([p.cost for p in used])
    (c1, c2, *_), (rest,), *_ = np.linalg.lstsq(design, y, rcond=None)
    covariance = np.linalg.inv(design.T @ design) * rest / (9 - 5)
    gradient = np.array([-1 / (2 * c2), c1 / (2 * c2**2), 0, 0, 0])
    assert best.error == pytest.approx(
        float(gradient @ covariance @ gradient) ** 0.5
    )
